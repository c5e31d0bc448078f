// Package notify sends messages to people, by webhook, mail and command, about what
// needs them; and pings to a monitor when runs begin and end.
//
// Watch decides when a message is sent, a Notifier delivers it. Sending never
// blocks: messages wait in a bounded queue for each channel, are sent at a
// bounded rate and tried again for hours; those that had no room are counted in the
// next one that is delivered. What waits when a Notifier ends is taken over by the
// next one (Waiting, Restore), so a message may come twice. No secret of a channel
// (the path of an address, a password, the value of a header) gets into an error,
// the log or what is kept.
package notify

import (
	"cmp"
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
	// Pings are addresses of a monitor for each environment that has one of its
	// own.
	Pings map[string]string
	// Done, when set, is called when a message is delivered or given up. It must not
	// block.
	Done func()
}

// channel is one way to reach people.
type channel interface {
	name() string   // nothing secret
	target() string // where it sends to, with secrets
	send(ctx context.Context, m *Message) error
}

// Notifier delivers messages and pings.
type Notifier struct {
	o        Options
	channels []channel
	lanes    []*lane            // one for each channel
	pings    map[string]*pinged // by environment; "" is of those without
}

// pinged is a monitor, and the queue before it.
type pinged struct {
	*ping
	lane *lane
}

// drain is how long Run still delivers once its context is done.
const drain = 5 * time.Second

// New makes a Notifier for a configuration that Check has validated. An error is
// about an address, or a template that does not parse.
func New(cfg configs.Notify, o Options) (*Notifier, error) {
	o.Log = cmp.Or(o.Log, zap.NewNop())
	n := &Notifier{o: o}
	client := newClient(o.Version)
	for i, w := range cfg.Webhook {
		c, err := newWebhook(w, client)
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
		l := newLane(c.name(), messagePace, o.Log)
		l.done = o.Done
		for l.id = channelID(c); n.has(l.id); { // the same channel is configured twice
			l.id += "+"
		}
		n.lanes = append(n.lanes, l)
	}
	n.pings = map[string]*pinged{}
	for environment, address := range o.Pings {
		if err := n.addPing(environment, address, client); err != nil {
			return nil, fmt.Errorf("environments.%s.ping: %w", environment, err)
		}
	}
	if err := n.addPing("", cfg.Ping, client); err != nil {
		return nil, fmt.Errorf("notify.ping: %w", err)
	}
	return n, nil
}

func (n *Notifier) addPing(environment, address string, c *client) error {
	if address == "" {
		return nil
	}
	p, err := newPing(address, c)
	if err == nil {
		n.pings[environment] = &pinged{p, newLane(p.name(), pingPace, n.o.Log)}
	}
	return err
}

// complete adds what is the same in all messages, and bounds the rest.
func (n *Notifier) complete(m Message) *Message {
	m.Host, m.Repository, m.Version = n.o.Host, n.o.Repository, n.o.Version
	if m.Time.IsZero() {
		m.Time = time.Now()
	}
	m.Title = cut(strings.Join(strings.Fields(m.Title), " "), 200)
	m.Text = cut(m.Text, 8<<10)
	if m.Run != nil {
		run := *m.Run
		run.Error = cut(run.Error, 8<<10)
		m.Run = &run
	}
	return &m
}

// Send queues a message for every channel.
func (n *Notifier) Send(m Message) {
	complete := n.complete(m)
	for i, l := range n.lanes {
		l.add(n.job(i, complete))
	}
}

// Ping queues a ping about a run of an environment; run is nil at its start.
func (n *Notifier) Ping(e Event, environment string, run *report.Run) {
	p := cmp.Or(n.pings[environment], n.pings[""])
	if p == nil {
		return
	}
	text := pingText(n.o.Host, environment, run)
	p.lane.add(job{what: string(e), since: time.Now(), send: func(ctx context.Context, _ int) error { return p.send(ctx, e, text) }})
}

// Tested is the result of a test of a channel.
type Tested struct {
	Channel string
	Err     error
}

// Test sends a test by each channel, once and at once. No ping is sent: it would
// report a run that did not happen.
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

// Run delivers until ctx is done, and then what is still queued: for some
// seconds, and by each channel until a message fails, which waits with those
// after it. Cancel it when nothing sends any more. It runs once.
func (n *Notifier) Run(ctx context.Context) {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drain, cancel) })()
	var wg sync.WaitGroup
	for _, l := range n.lanes {
		wg.Go(func() { l.run(ctx, sending) })
	}
	for _, p := range n.pings {
		wg.Go(func() { p.lane.run(ctx, sending) })
	}
	wg.Wait()
}
