// Package notify tells people: by webhook, mail and command, of what needs
// them; and a monitor, by a ping, that runs begin and end.
//
// Watch decides when something is told, a Notifier delivers it. Telling never
// blocks: messages wait in a bounded queue for each channel, are sent at a
// bounded rate and tried again for hours; what had no room is counted in the
// next one that is delivered. No secret of a channel (the path of an address, a
// password, the value of a header) gets into an error or the log.
package notify

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/report"
)

// Options of a Notifier.
type Options struct {
	Log        *zap.Logger // nil: none
	Host       string
	Repository string // URL, credentials left out
	Version    string
}

// channel is one way to tell people.
type channel interface {
	name() string // nothing secret
	send(ctx context.Context, m *Message) error
}

// Notifier delivers messages and pings.
type Notifier struct {
	o        Options
	channels []channel
	lanes    []*lane // one for each channel
	ping     *ping   // nil: none
	pings    *lane
}

// drain is how long Run still delivers once its context is done.
const drain = 5 * time.Second

// New makes a Notifier for what is configured. An error is about a template
// that makes nothing of a message.
func New(cfg configs.Notify, o Options) (*Notifier, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	n := &Notifier{o: o}
	client := newClient(o.Version)
	for i, w := range cfg.Webhook {
		c, err := newWebhook(w, client)
		if err == nil {
			err = c.try(n.complete(testMessage(o.Host)))
		}
		if err != nil {
			return nil, fmt.Errorf("notify.webhook[%d]: %w", i, err)
		}
		n.channels = append(n.channels, c)
	}
	if cfg.Email != nil {
		n.channels = append(n.channels, &email{cfg: *cfg.Email, host: o.Host})
	}
	if len(cfg.Command) > 0 {
		n.channels = append(n.channels, &program{argv: cfg.Command, log: o.Log})
	}
	for _, c := range n.channels {
		n.lanes = append(n.lanes, newLane(c.name(), messagePace, o.Log))
	}
	if cfg.Ping != "" {
		p, err := newPing(cfg.Ping, client)
		if err != nil {
			return nil, fmt.Errorf("notify.ping: %w", err)
		}
		n.ping, n.pings = p, newLane(p.name(), pingPace, o.Log)
	}
	return n, nil
}

// complete fills in what is the same in all messages, and bounds the rest.
func (n *Notifier) complete(m Message) *Message {
	m.Host, m.Repository, m.Version = n.o.Host, n.o.Repository, n.o.Version
	if m.Time.IsZero() {
		m.Time = time.Now()
	}
	m.Title = cut(strings.Join(strings.Fields(m.Title), " "), 200)
	m.Text = cut(m.Text, 8<<10)
	return &m
}

// Tell queues a message for every channel.
func (n *Notifier) Tell(m Message) {
	complete := n.complete(m)
	for i, c := range n.channels {
		n.lanes[i].add(job{what: string(m.Kind), since: time.Now(), send: func(ctx context.Context, leftOut int) error {
			return c.send(ctx, complete.after(leftOut))
		}})
	}
}

// Ping queues a ping about a run of an environment; run is nil at its start.
func (n *Notifier) Ping(e Event, environment string, run *report.Run) {
	if n.ping == nil {
		return
	}
	text := pingText(n.o.Host, environment, run)
	n.pings.add(job{what: string(e), since: time.Now(), send: func(ctx context.Context, _ int) error { return n.ping.send(ctx, e, text) }})
}

// Tested is how a channel took a test.
type Tested struct {
	Channel string
	Err     error
}

// Test sends a test by each channel, now and once. The ping is left alone: it
// would tell of a run that never was.
func (n *Notifier) Test(ctx context.Context) []Tested {
	tests := make([]Tested, len(n.channels))
	m := n.complete(testMessage(n.o.Host))
	var wg sync.WaitGroup
	for i, c := range n.channels {
		wg.Go(func() { tests[i] = Tested{c.name(), c.send(ctx, m)} })
	}
	wg.Wait()
	return tests
}

// Run delivers until ctx is done, and then what is still queued: once each,
// for some seconds. Cancel it after all who tell have ended. It runs once.
func (n *Notifier) Run(ctx context.Context) {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drain, cancel) })()
	var wg sync.WaitGroup
	for _, l := range n.lanes {
		wg.Go(func() { l.run(ctx, sending) })
	}
	if n.pings != nil {
		wg.Go(func() { n.pings.run(ctx, sending) })
	}
	wg.Wait()
}
