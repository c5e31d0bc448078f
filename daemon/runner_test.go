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
	"knowngood/storage/trust"
)

// runner runs environments of a world.
func (w *world) runner() *Runner {
	return &Runner{Host: enginetest.Host, Repository: "test", URL: "/nowhere", StateDir: w.State, Version: "test", Purpose: "a test", Log: zap.NewNop(),
		Open: func(ctx context.Context) (*repository.Repository, *trust.Host, error) {
			repo, err := w.open(ctx, nil)
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
