package runner

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/places"
	"knowngood/daemon/report"
	"knowngood/internal/enginetest"
	"knowngood/storage"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// world is an environment over a store that fails on demand.
type world struct {
	*enginetest.World
	t      *testing.T
	faulty *storagetest.Faulty
	source string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	f := storagetest.NewFaulty(storagetest.NewPlainMemory())
	w := &world{World: enginetest.New(t, f), t: t, faulty: f, source: filepath.Join(t.TempDir(), "source")}
	w.Check(os.Mkdir(w.source, 0o755))
	w.write("file", "content")
	return w
}

func (w *world) write(name, content string) {
	w.t.Helper()
	w.Check(os.WriteFile(filepath.Join(w.source, name), []byte(content), 0o644))
}

// runner runs environments of a world.
func (w *world) runner() *Runner {
	return &Runner{Host: enginetest.Host, Repository: "test", URL: "/nowhere", StateDir: w.State, Version: "test", Purpose: "a test", Log: zap.NewNop(),
		Open: func(ctx context.Context) (*repository.Repository, *trust.Host, error) {
			repo, err := repository.Open(ctx, w.faulty, repository.Options{Options: trust.Options{StateDir: w.State, URL: "test", Now: time.Now(), Fresh: time.Hour}})
			if err != nil {
				return nil, nil, err
			}
			host, err := repo.Host(ctx)
			return repo, host, err
		}}
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
	return parseEnvironment(w.t, strings.ReplaceAll(environment, "$SOURCE", w.source))
}

func TestRunner(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"hooks run around the capture and know its result":                      hooksRunAroundTheCaptureAndAreToldOfIt,
		"a snapshot is committed whatever a hook after it does":                 aSnapshotIsCommittedWhateverAHookAfterItDoes,
		"hooks that hang or flood or fork end at their timeout":                 hooksThatHangFloodOrForkEndWithTheirTime,
		"a run is tried again while the store fails and not after other errors": aRunIsTriedAgainWhileTheStoreFailsAndNotAfterOtherErrors,
		"a run ends with its timeout":                                           aRunEndsWithItsTimeout,
		"two runs of an environment exclude each other":                         twoRunsOfAnEnvironmentExcludeEachOther,
		"a run does not wait for ever for one by hand":                          aRunDoesNotWaitForEverForOneByHand,
		"the timeout does not include the wait for a place":                     aTimeoutIsOfTheWorkAndNotOfTheWaitForAPlace,
		"hooks on_failure end before the next run begins":                       hooksOnFailureRunBeforeTheNextRunMay,
		"a run that never got its environment runs no hooks":                    aRunThatNeverHadItsEnvironmentRunsNoHooks,
	} {
		t.Run(name, test)
	}
}

func hooksRunAroundTheCaptureAndAreToldOfIt(t *testing.T) {
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
	c, err := configs.Parse("test.yaml", []byte("environments:\n  web: "+text+"\n"), configs.LoadOptions{Advise: true})
	if err != nil {
		t.Fatal(err)
	}
	return c.Environments["web"]
}

func aSnapshotIsCommittedWhateverAHookAfterItDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}], hooks: {after: [{command: ["false"]}]}}`)
	if err == nil || !strings.Contains(err.Error(), "web@1 is committed") || run.Snapshot != "web@1" || run.Result != report.Failed {
		t.Errorf("%+v, %v", run, err)
	}
}

func hooksThatHangFloodOrForkEndWithTheirTime(t *testing.T) {
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

func aRunIsTriedAgainWhileTheStoreFailsAndNotAfterOtherErrors(t *testing.T) {
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

func aRunEndsWithItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.faulty.Add(storagetest.Rule{Op: storagetest.Put, Fault: storagetest.Delayed(48 * time.Hour)})
		run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}], timeout: 90m, retries: 0}`)
		if err == nil || run.Duration() != 90*time.Minute || !strings.Contains(run.Error, "timeout of 1h30m") {
			t.Errorf("%v after %v", err, run.Duration())
		}
	})
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

// until waits for what must come, in real time.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

func twoRunsOfAnEnvironmentExcludeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		lock, err := jobfiles.TryLock(jobfiles.Locks(w.State), "web", "somebody")
		w.Check(err)
		run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}], timeout: 1m}`)
		if err == nil || !strings.Contains(err.Error(), "captured already") || !strings.Contains(err.Error(), "somebody") || run.Snapshot != "" {
			t.Errorf("%+v, %v", run, err)
		}
		time.AfterFunc(time.Minute, lock.Release)
		told := ""
		r := w.runner()
		r.Waiting = func(holder string) { told = holder }
		run = report.Run{Trigger: "hand", Started: time.Now()}
		if err := r.Run(t.Context(), "web", w.web(`{sources: [{path: $SOURCE}]}`), &run, &Live{}); err != nil || !strings.Contains(told, "somebody") || run.Duration() < time.Minute {
			t.Errorf("%+v, %v, told %q", run, err, told)
		}
	})
}

func aRunDoesNotWaitForEverForOneByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		lock, err := jobfiles.TryLock(jobfiles.Locks(w.State), "web", "knowngood snapshot")
		w.Check(err)
		defer lock.Release()
		began := time.Now()
		run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}]}`)
		if err == nil || !strings.Contains(err.Error(), "environment web is being captured already: it is held by process ") || !strings.Contains(err.Error(), "(knowngood snapshot)") {
			t.Errorf("%+v, %v", run, err)
		}
		if waited := time.Since(began); waited < Stuck || waited > 2*Stuck {
			t.Errorf("it waited for %v", waited)
		}
	})
}

func aTimeoutIsOfTheWorkAndNotOfTheWaitForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.runner()
		r.Places = &places.Places{}
		time.AfterFunc(3*time.Hour, func() { r.Places.Resize(1) })
		run := report.Run{Trigger: "hand", Started: time.Now()}
		err := r.Run(t.Context(), "web", w.web(`{sources: [{path: $SOURCE}], timeout: 1m}`), &run, &Live{})
		if err != nil || run.Snapshot != "web@1" || run.Duration() < 3*time.Hour || !r.Places.Try() {
			t.Errorf("%+v, %v", run, err)
		}
	})
}

func hooksOnFailureRunBeforeTheNextRunMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	began, end := filepath.Join(t.TempDir(), "began"), filepath.Join(t.TempDir(), "end")
	env := w.web(`{sources: [{path: /nowhere}], hooks: {on_failure: [{command: [sh, -c, 'touch "$0"; while ! test -e "$1"; do sleep 0.05; done', ` + began + `, ` + end + `]}]}}`)
	done := make(chan error)
	go func() { done <- w.runner().Run(t.Context(), "web", env, &report.Run{Started: time.Now()}, &Live{}) }()
	until(t, "the hook runs", func() bool {
		_, err := os.Stat(began)
		return !errors.Is(err, fs.ErrNotExist)
	})
	var held *jobfiles.HeldError
	if lock, err := jobfiles.TryLock(jobfiles.Locks(w.State), "web", "the next"); !errors.As(err, &held) {
		t.Errorf("beside the hook the next run begins: %v, %v", lock, err)
	}
	w.Check(os.WriteFile(end, nil, 0o600))
	if err := <-done; err == nil {
		t.Error("it did not fail")
	}
}

func aRunThatNeverHadItsEnvironmentRunsNoHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		lock, err := jobfiles.TryLock(jobfiles.Locks(w.State), "web", "knowngood snapshot")
		w.Check(err)
		defer lock.Release()
		ran := filepath.Join(t.TempDir(), "ran")
		run, err := w.once(t.Context(), `{sources: [{path: $SOURCE}], timeout: 1m, hooks: {on_failure: [{command: [touch, `+ran+`]}]}}`)
		if err == nil || run.Result != report.Failed {
			t.Errorf("%+v, %v", run, err)
		}
		if _, err := os.Stat(ran); !errors.Is(err, fs.ErrNotExist) {
			t.Error("it ran a hook beside the run of another process")
		}
	})
}
