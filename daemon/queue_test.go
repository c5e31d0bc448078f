package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
	"knowngood/storage/storagetest"
)

func TestQueue(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"a run that waits for one by hand holds no place of others":        aRunThatWaitsForOneByHandHoldsNoPlaceOfOthers,
		"a reload lets no more run at once":                                aReloadLetsNoMoreRunAtOnce,
		"a run that queues keeps nobody from the environment":              aRunThatQueuesKeepsNobodyFromTheEnvironment,
		"a run takes the configuration of when its turn comes":             aRunTakesTheConfigurationOfWhenItsTurnComes,
		"an environment that is taken out while it queues is not captured": anEnvironmentThatIsTakenOutWhileItQueuesIsNotCaptured,
	} {
		t.Run(name, test)
	}
}

func aRunThatWaitsForOneByHandHoldsNoPlaceOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config("  web: {sources: [{path: $SOURCE}]}\n  db: {sources: [{path: $SOURCE}]}\n")
		c.MaxRuns = 1
		lock, err := jobfiles.TryLock(jobfiles.Locks(w.State), "web", "knowngood snapshot")
		w.Check(err)
		d := w.daemon(c)
		stop := w.run(d)
		time.Sleep(time.Minute)
		w.Check(d.Start(t.Context(), "web"))
		time.Sleep(time.Minute)
		w.Check(d.Start(t.Context(), "db"))
		time.Sleep(time.Minute)
		if e := w.environment(d, "db"); e.Last == nil || e.Last.Result != report.Success {
			t.Errorf("beside one that waits: %+v", e.Last)
		}
		if e := w.environment(d, "web"); e.Running == nil {
			t.Errorf("it did not wait: %+v", e.Last)
		}
		lock.Release()
		time.Sleep(time.Minute)
		if e := w.environment(d, "web"); e.Last == nil || e.Last.Result != report.Success {
			t.Errorf("after the one by hand: %+v", e.Last)
		}
		stop()
	})
}

func aReloadLetsNoMoreRunAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config("  web: {sources: [{path: $SOURCE}]}\n  db: {sources: [{path: $SOURCE}]}\n")
		c.MaxRuns = 1
		d := w.daemon(c)
		d.Load = func() (*configs.Config, error) { return c, nil }
		stop := w.run(d)
		time.Sleep(time.Minute)
		w.faulty.Add(storagetest.Rule{Op: storagetest.Put, Fault: storagetest.Delayed(time.Hour)})
		w.Check(d.Start(t.Context(), "web"))
		time.Sleep(time.Minute)
		w.Check(d.Reload())
		w.Check(d.Start(t.Context(), "db"))
		time.Sleep(time.Minute)
		if web, db := w.environment(d, "web").Running, w.environment(d, "db").Running; web.Phase != "capture" || db.Phase != "waiting" {
			t.Errorf("of one run at once the first is at %s, the second at %s", web.Phase, db.Phase)
		}
		stop()
	})
}

// queued is a daemon with one place, for an hour that of web, and db after it.
func (w *world) queued() (d *Daemon, stop func()) {
	w.t.Helper()
	c := w.config("  web: {sources: [{path: $SOURCE}]}\n  db: {sources: [{path: $SOURCE}]}\n  mail: {sources: [{path: $SOURCE}]}\n")
	c.MaxRuns = 1
	d = w.daemon(c)
	stop = w.run(d)
	time.Sleep(time.Minute)
	w.faulty.Add(storagetest.Rule{Op: storagetest.Put, Nth: 1, Fault: storagetest.Delayed(time.Hour)})
	for _, name := range []string{"web", "db"} {
		w.Check(d.Start(w.t.Context(), name))
		time.Sleep(time.Minute)
	}
	return d, stop
}

func aRunThatQueuesKeepsNobodyFromTheEnvironment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d, stop := w.queued()
		lock, err := jobfiles.TryLock(jobfiles.Locks(w.State), "db", "knowngood snapshot")
		w.Check(err)
		w.Check(d.Start(t.Context(), "mail"))
		time.Sleep(90 * time.Minute)
		if e := w.environment(d, "mail"); e.Last == nil || e.Last.Result != report.Success {
			t.Errorf("beside one that waits for one by hand: %+v", e.Last)
		}
		if e := w.environment(d, "db"); e.Running == nil || e.Running.Phase != "waiting" {
			t.Errorf("while one by hand runs: %+v, %+v", e.Running, e.Last)
		}
		lock.Release()
		time.Sleep(time.Minute)
		if e := w.environment(d, "db"); e.Last == nil || e.Last.Result != report.Success {
			t.Errorf("after the one by hand: %+v", e.Last)
		}
		stop()
	})
}

func aRunTakesTheConfigurationOfWhenItsTurnComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d, stop := w.queued()
		more := t.TempDir()
		w.Check(os.WriteFile(filepath.Join(more, "more"), []byte("more"), 0o600))
		d.Load = func() (*configs.Config, error) {
			return w.config("  web: {sources: [{path: $SOURCE}]}\n  db: {sources: [{path: $SOURCE}, {path: " + more + "}]}\n"), nil
		}
		w.Check(d.Reload())
		time.Sleep(2 * time.Hour)
		if e := w.environment(d, "db"); e.Last == nil || e.Last.Files != 2 {
			t.Errorf("%+v", e.Last)
		}
		stop()
	})
}

func anEnvironmentThatIsTakenOutWhileItQueuesIsNotCaptured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d, stop := w.queued()
		with := d.jobs.config
		d.Load = func() (*configs.Config, error) { return w.config("  web: {sources: [{path: $SOURCE}]}\n"), nil }
		w.Check(d.Reload())
		time.Sleep(2 * time.Hour)
		d.Load = func() (*configs.Config, error) { return with, nil }
		w.Check(d.Reload())
		if e := w.environment(d, "db"); e.Running != nil || e.Last != nil || len(e.Totals) > 0 {
			t.Errorf("%+v, %+v, %v", e.Running, e.Last, e.Totals)
		}
		if w.logs.FilterMessageSnippet("is left out: it is not configured any more").Len() != 1 {
			t.Error("that it is left out is not in the log")
		}
		stop()
	})
}
