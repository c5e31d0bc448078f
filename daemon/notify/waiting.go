package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"go.uber.org/zap"
)

// Waiting are messages that were told and not delivered yet, oldest first, by
// the ID of the channel that they wait for. It is to be kept over a restart.
type Waiting map[string][]*Message

// keepFor is how long a message waits from one start to another. What still
// goes on after that is told anew.
const keepFor = 24 * time.Hour

// Waiting are the messages that no channel has taken or refused yet; those
// under way are among them. Pings are not: they tell of now.
func (n *Notifier) Waiting() Waiting {
	w := Waiting{}
	for _, l := range n.lanes {
		if list := l.waiting(); len(list) > 0 {
			w[l.id] = list
		}
	}
	return w
}

// Restore queues what waited when another Notifier ended, before whatever was
// told since. It says in the log what it leaves out: messages to channels that
// are no more, and old ones. Call it before Run.
func (n *Notifier) Restore(w Waiting, now time.Time) {
	for i, l := range n.lanes {
		var jobs []job
		for _, m := range w[l.id] {
			if now.Sub(m.Time) > keepFor {
				n.dropped("not told: it has waited for more than "+keepFor.String(), m)
				continue
			}
			jobs = append(jobs, n.job(i, m))
		}
		l.precede(jobs)
	}
	for id, list := range w {
		if !n.has(id) {
			for _, m := range list {
				n.dropped("not told: the channel is not configured any more", m)
			}
		}
	}
}

func (n *Notifier) dropped(why string, m *Message) {
	n.o.Log.Warn(why, zap.String("message", string(m.Kind)), zap.String("title", m.Title), zap.Time("of", m.Time))
}

func (n *Notifier) has(id string) bool {
	for _, l := range n.lanes {
		if l.id == id {
			return true
		}
	}
	return false
}

// job delivers a message by one channel. Its patience begins now.
func (n *Notifier) job(channel int, m *Message) job {
	return job{what: string(m.Kind), since: time.Now(), message: m, send: func(ctx context.Context, leftOut int) error {
		return n.channels[channel].send(ctx, m.after(leftOut))
	}}
}

// channelID names a channel by what it is told at: its passwords and templates
// may change while messages wait. It tells nothing of the address, which may be
// a secret.
func channelID(c channel) string {
	hash := sha256.Sum256([]byte(c.target()))
	return hex.EncodeToString(hash[:8])
}
