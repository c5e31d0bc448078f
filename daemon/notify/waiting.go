package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Waiting are messages that were sent and not delivered yet, oldest first, by
// the ID of the channel that they wait for. A channel for which none waits has
// an empty list, so that it is known which were configured. It is to be kept over a
// restart.
type Waiting map[string][]*Message

// Halve leaves the newer half of what waits for each channel; false when nothing
// does.
func (w Waiting) Halve() (less bool) {
	for id, list := range w {
		w[id] = list[(len(list)+1)/2:]
		less = less || len(list) > 0
	}
	return less
}

// keepFor is how long a message waits from one start to another. What continues
// after that is reported again.
const keepFor = 24 * time.Hour

// Waiting are the messages that no channel has taken or refused yet; those
// under way are among them. Pings are not: they are about the moment.
func (n *Notifier) Waiting() Waiting {
	w := Waiting{}
	for _, l := range n.lanes {
		w[l.id] = l.waiting()
	}
	return w
}

// Restore queues what waited when another Notifier ended, before whatever was
// sent since. It logs what it drops: messages that no channel takes over, and
// old ones. Call it before Run.
func (n *Notifier) Restore(w Waiting, now time.Time) {
	w, left := n.TakeOver(w)
	for i, l := range n.lanes {
		var jobs []job
		for _, m := range w[l.id] {
			if now.Sub(m.Time) > keepFor {
				n.dropped("not delivered: it has waited for more than "+keepFor.String(), m)
				continue
			}
			jobs = append(jobs, n.job(i, m))
		}
		l.precede(jobs)
	}
	for _, m := range left {
		n.dropped("not delivered: the channel is not configured any more", m)
	}
}

// TakeOver assigns what waited before to the channels of n. What waited for removed
// channels goes to new ones, because an address may have been corrected; it is left
// where there are none.
func (n *Notifier) TakeOver(before Waiting) (w Waiting, left []*Message) {
	for id, list := range before {
		// All got the same messages: the longest list has what the others have.
		if !n.has(id) && len(list) > len(left) {
			left = list
		}
	}
	w, lost := Waiting{}, left
	for _, l := range n.lanes {
		list, known := before[l.id]
		if !known {
			list, left = lost, nil
		}
		w[l.id] = list
	}
	return w, left
}

func (n *Notifier) dropped(why string, m *Message) {
	n.o.Log.Warn(why, zap.String("message", string(m.Kind)), zap.String("title", m.Title), zap.Time("of", m.Time))
}

func (n *Notifier) has(id string) bool {
	return slices.ContainsFunc(n.lanes, func(l *lane) bool { return l.id == id })
}

// job delivers a message by one channel. Its patience begins now.
func (n *Notifier) job(channel int, m *Message) job {
	return job{what: string(m.Kind), since: time.Now(), message: m, send: func(ctx context.Context, leftOut int) error {
		return n.channels[channel].send(ctx, m.after(leftOut))
	}}
}

// channelID names a channel by where it sends to: its passwords and templates may
// change while messages wait. It is a hash because the address may be a secret.
func channelID(c channel) string {
	hash := sha256.Sum256([]byte(c.target()))
	return hex.EncodeToString(hash[:8])
}
