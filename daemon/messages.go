package daemon

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
	"knowngood/daemon/warnings"
	"knowngood/internal/userdir"
)

// messenger sends messages and pings. What was sent, and what is not delivered
// yet, is kept over restarts.
type messenger struct {
	o        *Options
	warnings *warnings.List
	wake     waker
	// delivering is set when a message was delivered that the file still has.
	delivering atomic.Bool

	mu       sync.Mutex
	watch    notify.Watch
	slots    *jobfiles.Slots
	settings settings
	delivery *delivery
}

// sent is the content of the state file. Both are in one file, so that no crash
// separates them.
type sent struct {
	notify.State
	Waiting notify.Waiting `json:"waiting,omitempty"`
}

// sentSize is the room for the state of some thousand environments, and for some
// hundred messages that wait.
const sentSize = 1 << 20

// openSent reads the state file. The slots are usable whatever the error.
func openSent(stateDir string) (s sent, slots *jobfiles.Slots, err error) {
	slots, err = jobfiles.OpenSlots(userdir.At(stateDir).In("daemon"), "told.state", sentSize, &s)
	return s, slots, err
}

// open reads the state file, and starts to deliver.
func (m *messenger) open(c *configs.Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.newDelivery(settingsOf(c))
	if err != nil {
		return err
	}
	before, slots, err := openSent(c.StateDir)
	m.slots, m.watch.State = slots, before.State
	m.warnings.Opened(slots, err)
	d.Restore(before.Waiting, m.o.Now())
	d.start(nil, m.o.Now())
	m.use(c, d)
	m.save() // some may have been dropped
	return nil
}

// configure makes c the configuration; an error changes nothing.
func (m *messenger) configure(c *configs.Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.delivery
	if s := settingsOf(c); !reflect.DeepEqual(s, m.settings) {
		next, err := m.newDelivery(s)
		if err != nil {
			return err
		}
		next.start(d, m.o.Now())
		d = next
	}
	m.use(c, d)
	return nil
}

// use makes c the configuration, delivered by d; mu is held.
func (m *messenger) use(c *configs.Config, d *delivery) {
	m.settings, m.delivery = settingsOf(c), d
	m.watch.Host, m.watch.Repeat = c.Host, time.Duration(c.Notify.Repeat)
	names := slices.Collect(maps.Keys(c.Environments))
	for _, d := range c.AllDrills() {
		names = append(names, d.Name())
	}
	for _, d := range c.AllDrifts() {
		names = append(names, d.Name())
	}
	m.watch.Keep(names)
}

func (m *messenger) close() {
	m.mu.Lock()
	d := m.delivery
	m.mu.Unlock()
	d.stop() // for some seconds
	m.mu.Lock()
	defer m.mu.Unlock()
	m.save()
	m.slots.Close()
}

// save writes the state file. When there is not room for everything, the older
// half of the messages waits in memory only; mu is held.
func (m *messenger) save() {
	s := sent{m.watch.State, m.delivery.waiting()}
	for !m.slots.Fits(s) && s.Waiting.Halve() {
	}
	m.warnings.Save(m.slots, s)
}

// delivered notes that a message was delivered, for the loop to save. If a crash
// prevents that, the message is sent twice.
func (m *messenger) delivered() {
	m.delivering.Store(true)
	m.wake.wake()
}

// saveDelivered saves what was delivered since.
func (m *messenger) saveDelivered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.delivering.Swap(false) {
		m.save()
	}
}

// retryWrite writes the state file if that failed.
func (m *messenger) retryWrite() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slots.Failed != "" {
		m.save()
	}
}

// notify sends the messages that decide returns, and remembers that they were sent.
func (m *messenger) notify(decide func(w *notify.Watch) []notify.Message) []notify.Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.watch.State.Size()
	messages := decide(&m.watch)
	for _, x := range messages {
		m.delivery.Send(x)
	}
	if len(messages) > 0 || m.watch.State.Size() != before {
		m.save()
	}
	return messages
}

// ping reports a run to the monitor; run is nil at its start.
func (m *messenger) ping(e notify.Event, env string, run *report.Run) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delivery.Ping(e, env, run)
}

// ran reports a run that ended.
func (m *messenger) ran(name string, run *report.Run, failures int) {
	if isEnvironment(name) && run.Result != report.Interrupted {
		event := notify.Succeeded
		if !run.Result.Good() {
			event = notify.Failing
		}
		m.ping(event, name, run)
	}
	m.notify(func(w *notify.Watch) []notify.Message { return messagesOf(w, name, run, failures) })
}

// last reports the last runs that were not reported yet: after a crash, or when
// somebody captured by hand. The lock of the jobs is held.
func (m *messenger) last(jobs map[string]*job) {
	m.notify(func(w *notify.Watch) (messages []notify.Message) {
		for name, j := range jobs {
			if j.state.Last != nil {
				messages = append(messages, messagesOf(w, name, j.state.Last, j.state.Failures)...)
			}
		}
		return messages
	})
}

// messagesOf are the messages about a run.
func messagesOf(w *notify.Watch, name string, run *report.Run, failures int) []notify.Message {
	switch name {
	case pruneJob:
		return w.Pruned(*run, failures)
	case checkJob:
		return nil // the status reports it
	}
	if isDrill(name) {
		return w.Drilled(strings.TrimPrefix(name, drillJob), *run, failures)
	}
	if isDrift(name) {
		return w.Drifted(strings.TrimPrefix(name, driftJob), *run, failures)
	}
	return w.Ran(name, *run, failures)
}

// settings are what a delivery depends on.
type settings struct {
	Notify    configs.Notify
	Pings     map[string]string
	Host, URL string
}

func settingsOf(c *configs.Config) settings {
	s := settings{c.Notify, map[string]string{}, c.Host, c.Repository.URL}
	for name, env := range c.Environments {
		if env.Ping != "" {
			s.Pings[name] = env.Ping
		}
	}
	return s
}

// delivery delivers messages by one configuration.
type delivery struct {
	*notify.Notifier
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	before *delivery // of the previous configuration, while it still delivers
}

// newDelivery makes a delivery that is not started yet.
func (m *messenger) newDelivery(s settings) (*delivery, error) {
	n, err := notify.New(s.Notify, notify.Options{Log: m.o.Log, Host: s.Host, Repository: redact(s.URL), Version: m.o.Version, Pings: s.Pings, Done: m.delivered})
	if err != nil {
		return nil, err
	}
	return &delivery{Notifier: n, done: make(chan struct{})}, nil
}

// start delivers until stop. It takes over what the delivery of the previous
// configuration, if there is one, could not deliver.
func (d *delivery) start(before *delivery, now time.Time) {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.before = cancel, before
	go func() {
		defer close(d.done)
		if before != nil {
			before.stop() // it may have to wait for a server
			d.mu.Lock()
			d.Restore(before.Waiting(), now)
			d.before = nil
			d.mu.Unlock()
		}
		d.Run(ctx)
	}()
}

// stop delivers what is queued, for some seconds at most.
func (d *delivery) stop() {
	d.cancel()
	<-d.done
}

// waiting is what is not delivered yet.
func (d *delivery) waiting() notify.Waiting {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.Waiting()
	if d.before != nil {
		before, _ := d.TakeOver(d.before.waiting())
		for channel, list := range before {
			w[channel] = slices.Concat(list, w[channel])
		}
	}
	return w
}
