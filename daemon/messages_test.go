package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/configs"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
)

// tellingWorld is a world whose daemon notifies by a command, which fails until the
// channel is open.
type tellingWorld struct {
	*world
	open, told, bad string
}

func newTelling(t *testing.T) *tellingWorld {
	dir := t.TempDir()
	return &tellingWorld{newWorld(t), filepath.Join(dir, "open"), filepath.Join(dir, "told"), filepath.Join(dir, "bad")}
}

// settings of an environment that fails while bad is not there.
func (w *tellingWorld) settings(repeat time.Duration) *configs.Config {
	c := w.config("  web: {sources: [{path: " + w.bad + "}]}\n")
	c.Notify = configs.Notify{Repeat: configs.Duration(repeat), Command: []string{"sh", "-c", `test -e "$0" && echo "$KNOWNGOOD_KIND" >>"$1"`, w.open, w.told}}
	return c
}

// until waits for what must come, in real time.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

// fail runs web, which fails.
func (w *tellingWorld) fail(d *Daemon) {
	w.t.Helper()
	until(w.t, "the daemon runs", func() bool { return d.Start(w.t.Context(), "web") == nil })
	until(w.t, "the run fails", func() bool {
		e := w.environment(d, "web")
		return e.Running == nil && e.Last != nil && e.Last.Result == report.Failed
	})
}

func TestMessages(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"a failure that a crash kept from being sent is sent at the start":                aFailureThatACrashKeptFromBeingToldIsToldAtTheStart,
		"waiting messages survive a change of the configuration":                          whatWaitsToBeToldGoesOnWaitingWhenTheConfigurationChanges,
		"deliveries are saved before the repository is open":                              whatIsDeliveredIsTakenDownBeforeTheRepositoryIsOpen,
		"a reload while the daemon ends changes nothing":                                  aReloadWhileTheDaemonEndsChangesNothing,
		"a run that succeeds while the daemon stops is reported as a success":             aRunThatSucceedsWhileTheDaemonStopsIsToldAsOne,
		"a run does not wait longer than its timeout for a repository that another opens": aRunWaitsForARepositoryThatAnotherOpensNoLongerThanItMay,
		"the newest messages are kept where not all fit":                                  ofMoreMessagesThanThereIsRoomForTheNewestAreKept,
		"waiting messages go to an address that was corrected":                            whileAnAddressIsCorrectedWhatWaitsIsKeptForTheNewOne,
	} {
		t.Run(name, test)
	}
}

func aFailureThatACrashKeptFromBeingToldIsToldAtTheStart(t *testing.T) {
	t.Parallel()
	w := newTelling(t)
	w.Check(os.WriteFile(w.open, nil, 0o600))
	d := w.daemon(w.settings(24 * time.Hour))
	stop := w.run(d)
	w.fail(d)
	stop()
	w.run(w.daemon(w.settings(24 * time.Hour)))()
	if got := w.lines(w.told); !slices.Equal(got, []string{"failure"}) {
		t.Fatalf("after a restart there was told %q", got)
	}
	// As a crash leaves it before the notification is recorded.
	w.Check(os.Remove(filepath.Join(w.State, "daemon", "told.state")))
	w.run(w.daemon(w.settings(24 * time.Hour)))()
	if got := w.lines(w.told); !slices.Equal(got, []string{"failure", "failure"}) {
		t.Errorf("after a crash there was told %q", got)
	}
}

func whatWaitsToBeToldGoesOnWaitingWhenTheConfigurationChanges(t *testing.T) {
	t.Parallel()
	w := newTelling(t)
	d := w.daemon(w.settings(24 * time.Hour))
	d.Load = func() (*configs.Config, error) { return w.settings(48 * time.Hour), nil }
	stop := w.run(d)
	w.fail(d)
	until(t, "it is not told", func() bool { return w.logs.FilterMessage("not delivered yet").Len() > 0 })
	w.Check(d.Reload())
	until(t, "the old configuration tells no more", func() bool { return w.logs.FilterMessage("not delivered before the stop").Len() > 0 })
	w.Check(os.WriteFile(w.open, nil, 0o600))
	stop()
	if got := w.lines(w.told); !slices.Equal(got, []string{"failure"}) {
		t.Errorf("there was told %q", got)
	}
}

// A daemon that dies again and again at its start would report it each time.
func whatIsDeliveredIsTakenDownBeforeTheRepositoryIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTelling(t)
		d := w.daemon(w.settings(24 * time.Hour))
		stop := w.run(d)
		w.fail(d)
		stop()
		w.Check(os.WriteFile(w.open, nil, 0o600))
		d = w.daemon(w.settings(24 * time.Hour))
		d.Open = func(ctx context.Context, _ *configs.Config, _ *authentic.Findings) (*repository.Repository, error) {
			<-ctx.Done() // a store that hangs
			return nil, ctx.Err()
		}
		stop = w.run(d)
		time.Sleep(startPatience - time.Second)
		if got := w.lines(w.told); !slices.Equal(got, []string{"failure"}) {
			t.Errorf("there was told %q", got)
		}
		again, slots, err := openSent(w.State)
		w.Check(err)
		slots.Close()
		for _, list := range again.Waiting {
			if len(list) > 0 {
				t.Errorf("after it is delivered the next daemon would deliver %v", list[0].Title)
			}
		}
		stop()
	})
}

func aReloadWhileTheDaemonEndsChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.daemon(w.config("  web: {sources: [{path: $SOURCE}]}\n"))
	d.Load = func() (*configs.Config, error) {
		c := w.config("  web: {sources: [{path: $SOURCE}]}\n  db: {sources: [{path: $SOURCE}]}\n")
		c.Notify.Command = []string{"true"}
		return c, nil
	}
	w.run(d)()
	before := d.messages.delivery
	w.Check(d.Reload())
	if len(d.jobs.byName) != 1 || d.messages.delivery != before {
		t.Errorf("there are %d jobs; messages are delivered by the new configuration: %v", len(d.jobs.byName), d.messages.delivery != before)
	}
}

func aRunThatSucceedsWhileTheDaemonStopsIsToldAsOne(t *testing.T) {
	t.Parallel()
	w := newTelling(t)
	w.Check(os.WriteFile(w.open, nil, 0o600))
	began, end := filepath.Join(t.TempDir(), "began"), filepath.Join(t.TempDir(), "end")
	c := w.settings(24 * time.Hour)
	c.Environments["web"].Hooks.After = []configs.Hook{{Command: []string{"sh", "-c", `test -z "$KNOWNGOOD_SNAPSHOT" && exit; touch "$0"; while ! test -e "$1"; do sleep 0.05; done`, began, end}}}
	d := w.daemon(c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.work(ctx) }()
	w.fail(d)
	w.Check(os.Mkdir(w.bad, 0o755))
	w.Check(d.Start(ctx, "web"))
	until(t, "the snapshot is committed", func() bool {
		_, err := os.Stat(began)
		return !errors.Is(err, fs.ErrNotExist)
	})
	cancel()
	w.Check(os.WriteFile(end, nil, 0o600))
	w.Check(<-done)
	if got := w.lines(w.told); !slices.Equal(got, []string{"failure", "recovery"}) {
		t.Errorf("there was told %q", got)
	}
}

func aRunWaitsForARepositoryThatAnotherOpensNoLongerThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.daemon(w.config("  web: {timeout: 1m, retries: 0, sources: [{path: $SOURCE}]}\n"))
		d.Open = func(ctx context.Context, _ *configs.Config, _ *authentic.Findings) (*repository.Repository, error) {
			<-ctx.Done() // a store that hangs
			return nil, ctx.Err()
		}
		stop := w.run(d)
		time.Sleep(startPatience + time.Second)
		w.Check(d.Start(t.Context(), "web"))
		time.Sleep(2 * time.Minute)
		if e := w.environment(d, "web"); e.Last == nil || !strings.Contains(e.Last.Error, "longer than its timeout of 1m") {
			t.Errorf("%+v", e.Last)
		}
		stop()
	})
}

func ofMoreMessagesThanThereIsRoomForTheNewestAreKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.config("  web: {sources: [{path: $SOURCE}]}\n")
	for _, path := range []string{"1", "2", "3", "4", "5"} {
		c.Notify.Webhook = append(c.Notify.Webhook, configs.Webhook{URL: "http://127.0.0.1:1/" + path})
	}
	d := w.daemon(c)
	var err error
	d.messages.delivery, err = d.messages.newDelivery(settingsOf(c)) // and not started
	w.Check(err)
	_, d.messages.slots, err = openSent(w.State)
	w.Check(err)
	const told = 50
	for n := range told {
		d.messages.notify(func(*notify.Watch) []notify.Message {
			return []notify.Message{{Kind: notify.Failure, Title: strconv.Itoa(n), Text: strings.Repeat("x", 8<<10)}}
		})
	}
	d.messages.slots.Close()
	again, slots, err := openSent(w.State)
	w.Check(err)
	slots.Close()
	if list := d.warnings.All(); len(again.Waiting) != 5 || len(list) > 0 {
		t.Errorf("messages for %d of 5 channels are kept; warnings %v", len(again.Waiting), list)
	}
	for _, list := range again.Waiting {
		if n := len(list); n == told || n < 10 || list[n-1].Title != strconv.Itoa(told-1) {
			t.Errorf("%d are kept, the last is %s", n, list[n-1].Title)
		}
	}
}

// The old configuration may take its time to stop, and a crash come in between.
func whileAnAddressIsCorrectedWhatWaitsIsKeptForTheNewOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	deliveryBy := func(program string) *delivery {
		c := w.config("  web: {sources: [{path: $SOURCE}]}\n")
		c.Notify.Command = []string{program}
		d, err := w.daemon(c).messages.newDelivery(settingsOf(c)) // and not started
		w.Check(err)
		return d
	}
	wrong, right := deliveryBy("wrong"), deliveryBy("right")
	wrong.Send(notify.Message{Kind: notify.Failure, Title: "before"})
	right.before = wrong
	right.Send(notify.Message{Kind: notify.Failure, Title: "since"})
	again := deliveryBy("right")
	again.Restore(right.waiting(), time.Now())
	var titles []string
	for _, list := range again.waiting() {
		for _, m := range list {
			titles = append(titles, m.Title)
		}
	}
	if !slices.Equal(titles, []string{"before", "since"}) {
		t.Errorf("there wait %q", titles)
	}
}
