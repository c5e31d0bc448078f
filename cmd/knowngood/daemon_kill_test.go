package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
	"knowngood/internal/treetest"
)

func TestDaemonKill(t *testing.T) {
	t.Parallel()
	t.Run("a daemon that is killed loses nothing", testADaemonThatIsKilledLosesNothing)
}

// testADaemonThatIsKilledLosesNothing kills a daemon at random moments, while
// its sources change. Its state is readable at each start, no scheduled time
// is skipped for ever, and what was committed is there.
func testADaemonThatIsKilledLosesNothing(t *testing.T) {
	t.Parallel()
	if !slow() {
		killADaemon(t, newMachine(t, filepath.Join(t.TempDir(), "repo")), 8)
		return
	}
	onStores(t, func(t *testing.T, m *machine) { killADaemon(t, m, 100) })
}

func killADaemon(t *testing.T, m *machine, cycles int) {
	k := newKiller(t)
	const every = time.Second
	names := []string{"db", "web"}
	source, hooked := map[string]string{}, filepath.Join(t.TempDir(), "hooked")
	text := "limits: {upload: 8MiB/s}\nenvironments:\n"
	for _, name := range names {
		source[name] = t.TempDir()
		text += fmt.Sprintf("  %s: {schedule: \"@every 1s\", rpo: 1h, sources: [{path: %s}], keep: {last: 5}, hooks: {before: [{command: [sh, -c, \"echo $KNOWNGOOD_HOOK >>%s\"]}], after: [{command: [sh, -c, \"sleep 0.1; echo $KNOWNGOOD_HOOK >>%s\"]}]}}\n", name, source[name], hooked, hooked)
	}
	s := newService(t, m, "%s", text)
	killed := map[string]int{}
	for cycle := range cycles {
		for _, name := range names {
			k.write(t, filepath.Join(source[name], fmt.Sprint("file-", k.random.IntN(4))), 1+k.random.IntN(2<<20))
		}
		s.up(t)
		if cycle%5 == 4 { // now and then it gets to an end
			began := time.Now()
			s.until(t, "both environments were captured", func(r *report.Report) bool { return newerThan(r, names, began) })
		}
		// Runs begin when a second does, and are short.
		within := every / 4
		if cycle%3 == 0 {
			within = every
		}
		time.Sleep(time.Until(time.Now().Truncate(every).Add(every + time.Duration(k.random.Int64N(int64(within))))))
		r := s.until(t, "it answers", func(*report.Report) bool { return true })
		for _, w := range r.Warnings {
			t.Errorf("cycle %d: warning: %s", cycle, w.Text)
		}
		if r.Degraded != "" {
			t.Errorf("cycle %d: degraded: %s", cycle, r.Degraded)
		}
		for _, e := range r.Environments {
			phase := "idle"
			if e.Running != nil {
				phase = e.Running.Phase
			}
			killed[phase]++
		}
		s.kill()
	}
	t.Logf("in these phases were environments when the daemon was killed, %d times: %v", cycles, killed)
	if slow() && killed["capture"] == 0 {
		t.Error("no capture was killed")
	}

	s.up(t)
	began := time.Now()
	r := s.until(t, "both environments are captured", func(r *report.Report) bool { return newerThan(r, names, began) })
	s.stop(t)
	died := 0
	for _, name := range names {
		e := environmentOf(r, name)
		covered(t, name, e.Runs, every)
		for _, run := range e.Runs {
			if run.Result != report.Success && !run.Died && run.Result != report.Interrupted {
				t.Errorf("%s: a run ended otherwise: %+v", name, run)
			}
			if run.Died {
				died++
			}
		}
	}
	t.Logf("%d runs died", died)
	for _, pattern := range []string{"env/*/partial-*", "runs/*"} {
		if n := found(t, filepath.Join(m.state, "repos/*", pattern)); n > 2*len(names) {
			t.Errorf("the dead left %d of %s in the state directory", n, pattern)
		}
	}
	m.must(t, "check", "--read-data")
	numbered := map[string]int{}
	for _, ref := range m.refs(t, "--all") {
		name, _, _ := strings.Cut(ref, "@")
		numbered[name]++
		if want := fmt.Sprintf("%s@%d", name, numbered[name]); ref != want {
			t.Errorf("%s stands where %s should", ref, want)
		}
	}
	for _, name := range names {
		if numbered[name] < 2 {
			t.Errorf("there are %d snapshots of %s", numbered[name], name)
		}
		out := filepath.Join(t.TempDir(), name)
		m.bare(t).must(t, "restore", name+":"+source[name], "--target", out)
		treetest.Equal(t, source[name], out, treetest.Options{IgnoreOwners: os.Geteuid() != 0})
	}
	b, err := os.ReadFile(hooked)
	if err != nil {
		t.Fatal(err)
	}
	before, after := strings.Count(string(b), "before\n"), strings.Count(string(b), "after\n")
	if before < numbered["web"]+numbered["db"] || after < before {
		t.Errorf("hooks ran before %d runs of %v, and after %d", before, numbered, after)
	}
}

// newerThan reports whether the newest snapshots of all were begun after a time.
func newerThan(r *report.Report, names []string, at time.Time) bool {
	for _, name := range names {
		if e := environmentOf(r, name); e == nil || !e.Newest.After(at) || e.Last == nil || !e.Last.Started.After(at) {
			return false
		}
	}
	return true
}

// covered demands that each time of an interval schedule, from the first that
// a run was for to the last, was one that a run was for or made up for. A run
// whose end a crash hid is made again.
func covered(t *testing.T, name string, runs []report.Run, every time.Duration) {
	t.Helper()
	if len(runs) == 0 {
		t.Errorf("%s: there are no runs", name)
		return
	}
	done := runs[0].Scheduled
	for _, r := range runs[1:] {
		if from := r.Scheduled.Add(-time.Duration(r.Missed) * every); from.After(done.Add(every)) {
			t.Errorf("%s: no run was for what was due after %v and before %v: %+v", name, done, from, r)
		}
		if r.Scheduled.After(done) {
			done = r.Scheduled
		}
	}
}
