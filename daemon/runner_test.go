package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/enginetest"
	"knowngood/storage"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
)

// runner runs environments of a world.
func (w *world) runner() *Runner {
	return &Runner{Host: enginetest.Host, Repository: "test", URL: "/nowhere", StateDir: w.State, Version: "test", Purpose: "a test", Log: zap.NewNop(),
		Open: func(ctx context.Context) (*repository.Repository, error) { return w.open(ctx, nil) }}
}

// once runs the environment web of a configuration.
func (w *world) once(ctx context.Context, environment string) (report.Run, error) {
	w.t.Helper()
	run := report.Run{Trigger: "hand", Started: time.Now()}
	err := w.runner().Run(ctx, "web", w.web(environment), &run, &Live{})
	return run, err
}

func (w *world) web(environment string) *configs.Environment {
	w.t.Helper()
	return w.config("  web: " + environment + "\n").Environments["web"]
}

// lines of the file that hooks write to.
func (w *world) lines(file string) []string {
	w.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func TestHooksRunAroundTheCaptureAndAreToldOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	out := filepath.Join(t.TempDir(), "out")
	say := func(text string) string { return `{command: [sh, -c, 'echo ` + text + ` >>` + out + `']}` }
	hooks := `before: [` + say("before-${KNOWNGOOD_ENVIRONMENT}-${KNOWNGOOD_SNAPSHOT}") + `], after: [` + say("${KNOWNGOOD_HOOK}-${KNOWNGOOD_SNAPSHOT}-${KNOWNGOOD_RESULT}-${KNOWNGOOD_FILES}") + `], on_failure: [` + say("failure-${KNOWNGOOD_RESULT}") + `]`
	env := func(source, before string) string {
		return `{sources: [` + source + `], hooks: {` + strings.Replace(hooks, "before: [", "before: ["+before, 1) + `}}`
	}
	for _, c := range []struct {
		name, source, before string
		want                 []string
		err                  string
	}{
		{"a run that succeeds", "{path: " + w.source + "}", "", []string{"before-web-", "after-web@1-success-1"}, ""},
		{"a hook before that fails stops the run", "{path: " + w.source + "}", `{command: ["false"]}, `, []string{"after--failed-", "failure-failed"}, "nothing was captured: hook before, command 1"},
		{"a command source that fails", `{command: [sh, -c, "echo no >&2; exit 3"], as: x}`, "", []string{"before-web-", "after--failed-", "failure-failed"}, "no"},
	} {
		os.Remove(out)
		e := parseEnvironment(t, env(c.source, c.before))
		run := report.Run{Trigger: "hand", Started: time.Now()}
		err := w.runner().Run(t.Context(), "web", e, &run, &Live{})
		if got := w.lines(out); !slices.Equal(got, c.want) {
			t.Errorf("%s: hooks said %q, want %q", c.name, got, c.want)
		}
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func parseEnvironment(t *testing.T, text string) *configs.Environment {
	t.Helper()
	c, err := configs.Parse("test.yaml", []byte("environments:\n  web: "+text+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return c.Environments["web"]
}

func TestASnapshotIsCommittedWhateverAHookAfterItDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}], hooks: {after: [{command: ["false"]}]}}`)
	if err == nil || !strings.Contains(err.Error(), "web@1 is committed") || run.Snapshot != "web@1" || run.Result != report.Failed {
		t.Errorf("%+v, %v", run, err)
	}
}

func TestHooksThatHangFloodOrForkEndWithTheirTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, hook := range map[string]string{
		"one that hangs":                 `{command: [sleep, "1000"], timeout: 1s}`,
		"one that floods":                `{command: ["yes"], timeout: 1s}`,
		"one that leaves a child":        `{command: [sh, -c, "sleep 20 & exit 1"], timeout: 5s}`,
		"one whose child floods on":      `{command: [sh, -c, "yes & wait"], timeout: 1s}`,
		"one that will not hear of TERM": `{command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"], timeout: 1s}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := *w
			w.t = t
			run := report.Run{Trigger: "hand", Started: time.Now()}
			env := parseEnvironment(t, `{sources: [{path: `+w.source+`}], hooks: {before: [`+hook+`]}}`)
			err := w.runner().Run(t.Context(), strings.ReplaceAll(name, " ", "-"), env, &run, &Live{})
			if err == nil || run.Snapshot != "" {
				t.Errorf("%+v", run)
			}
		})
	}
}

func TestARunIsTriedAgainWhileTheStoreFailsAndNotAfterOtherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		env := `{sources: [{path: $SOURCE}], retries: 3}`
		w.faulty.Add(storagetest.Rule{Op: storagetest.Put, Nth: 1, Fault: storagetest.Throttled()})
		w.faulty.Add(storagetest.Rule{Op: storagetest.Put, Nth: 2, Fault: storagetest.FailBefore(storage.ErrUnreachable)})
		if run, err := w.once(t.Context(), env); err != nil || run.Attempts != 3 || run.Duration() < firstRetry*3 || run.Duration() > firstRetry*4 {
			t.Errorf("%+v, %v", run, err)
		}
		w.faulty.Clear()
		w.faulty.Add(storagetest.Rule{Fault: storagetest.Throttled()})
		if run, err := w.once(t.Context(), env); !errors.Is(err, storage.ErrUnavailable) || run.Attempts != 4 {
			t.Errorf("%+v, %v", run, err)
		}
		w.faulty.Clear()
		w.write("more", "content")
		w.faulty.Add(storagetest.Rule{Op: storagetest.Put, Fault: storagetest.FailBefore(storage.ErrDenied)})
		if run, err := w.once(t.Context(), env); !errors.Is(err, storage.ErrDenied) || run.Attempts != 1 {
			t.Errorf("%+v, %v", run, err)
		}
	})
}

func TestARunEndsWithItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.faulty.Add(storagetest.Rule{Op: storagetest.Put, Fault: storagetest.Delayed(48 * time.Hour)})
		run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}], timeout: 90m, retries: 0}`)
		if err == nil || run.Duration() != 90*time.Minute || !strings.Contains(run.Error, "timeout of 1h30m") {
			t.Errorf("%v after %v", err, run.Duration())
		}
	})
}

func TestTwoRunsOfAnEnvironmentExcludeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		lock, err := tryLock(filepath.Join(w.State, "daemon", "locks", "web"), "somebody")
		w.Check(err)
		run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}], timeout: 1m}`)
		if err == nil || !strings.Contains(err.Error(), "captured already") || !strings.Contains(err.Error(), "somebody") || run.Snapshot != "" {
			t.Errorf("%+v, %v", run, err)
		}
		time.AfterFunc(time.Minute, lock.release)
		told := ""
		r := w.runner()
		r.Waiting = func(holder string) { told = holder }
		run = report.Run{Trigger: "hand", Started: time.Now()}
		if err := r.Run(t.Context(), "web", w.web(`{sources: [{path: $SOURCE}]}`), &run, &Live{}); err != nil || !strings.Contains(told, "somebody") || run.Duration() < time.Minute {
			t.Errorf("%+v, %v, told %q", run, err, told)
		}
	})
}

func TestARunDoesNotWaitForEverForOneByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		lock, err := tryLock(filepath.Join(w.State, "daemon", "locks", "web"), "knowngood snapshot")
		w.Check(err)
		defer lock.release()
		began := time.Now()
		run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}]}`)
		if err == nil || !strings.Contains(err.Error(), "environment web is being captured already: it is held by process ") || !strings.Contains(err.Error(), "(knowngood snapshot)") {
			t.Errorf("%+v, %v", run, err)
		}
		if waited := time.Since(began); waited < stuck || waited > 2*stuck {
			t.Errorf("it waited for %v", waited)
		}
	})
}

func TestARunThatWaitsForOneByHandHoldsNoPlaceOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config("  web: {sources: [{path: $SOURCE}]}\n  db: {sources: [{path: $SOURCE}]}\n")
		c.MaxRuns = 1
		lock, err := tryLock(filepath.Join(w.State, "daemon", "locks", "web"), "knowngood snapshot")
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
		lock.release()
		time.Sleep(time.Minute)
		if e := w.environment(d, "web"); e.Last == nil || e.Last.Result != report.Success {
			t.Errorf("after the one by hand: %+v", e.Last)
		}
		stop()
	})
}

func TestAReloadLetsNoMoreRunAtOnce(t *testing.T) {
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

func TestATimeoutIsOfTheWorkAndNotOfTheWaitForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.runner()
		left := false
		r.Place = func(context.Context) (func(), error) {
			time.Sleep(3 * time.Hour)
			return func() { left = true }, nil
		}
		run := report.Run{Trigger: "hand", Started: time.Now()}
		err := r.Run(t.Context(), "web", w.web(`{sources: [{path: $SOURCE}], timeout: 1m}`), &run, &Live{})
		if err != nil || run.Snapshot != "web@1" || !left {
			t.Errorf("%+v, %v; the place was given back: %v", run, err, left)
		}
	})
}
