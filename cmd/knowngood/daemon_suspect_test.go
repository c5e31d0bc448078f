package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

func TestDaemonSuspect(t *testing.T) {
	t.Parallel()
	t.Run("a daemon forgets nothing while a source has collapsed", testADaemonForgetsNothingWhileASourceHasCollapsed)
	t.Run("a daemon takes in what is accepted by hand", testADaemonTakesInWhatIsAcceptedByHand)
}

// A directory of files with keep: {last: 3} is emptied, and four more runs come.
func testADaemonForgetsNothingWhileASourceHasCollapsed(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src, told := t.TempDir(), filepath.Join(t.TempDir(), "told")
	for _, name := range []string{"a", "b", "c"} {
		grow(t, src, name, 1000)
	}
	full := contents(t, src)
	s := newService(t, m, "environments: {web: {rpo: 100d, sources: [{path: %s}], keep: {last: 3}}}\nnotify: {command: [sh, -c, \"cat >>%s\"]}\n", src, told)
	s.up(t)
	good := s.take(t, "web")

	for name := range full {
		if err := os.Remove(filepath.Join(src, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		run, err := s.client.Snapshot(t.Context(), "web", nil)
		if err != nil {
			t.Fatal(err)
		}
		if run.Result != report.Suspect || run.Forgotten != 0 || len(run.Suspect) != 1 || !strings.Contains(run.Suspect[0], src+" has 0 of 3 files") {
			t.Errorf("the run: %+v", run)
		}
	}
	r := s.until(t, "the report is suspect", func(r *report.Report) bool { return environmentOf(r, "web").Suspect != nil })
	e := environmentOf(r, "web")
	if !e.Newest.Equal(good.Started) || e.LastSuccess.Snapshot != "web@1" || e.Suspect.Snapshot != "web@5" || e.Suspect.Good != "web@1" || e.Totals[report.Suspect] != 4 {
		t.Errorf("the environment: %+v, suspect %+v", e, e.Suspect)
	}
	waitFor(t, "it is told once", func() bool { return slices.Equal(kinds(messages(t, told)), []notify.Kind{notify.Suspect}) })
	if text := messages(t, told)[0].Text; !strings.Contains(text, "web@2 is suspect: "+src+" has 0 of 3 files") || !strings.Contains(text, "knowngood accept web@2") {
		t.Errorf("told: %s", text)
	}
	if o := s.ask(t, "list"); strings.Count(o.stdout.String(), " suspect ") != 4 || !strings.Contains(o.stdout.String(), "web@1 ") {
		t.Errorf("list: %s", &o.stdout)
	}
	o := s.ask(t, "status")
	for _, want := range []string{"web is suspect: " + src, "web is SUSPECT since", "Next: bring the source back", " suspect "} {
		if !strings.Contains(o.stdout.String(), want) {
			t.Errorf("status lacks %q: %s", want, &o.stdout)
		}
	}
	if _, page := s.fetch(t, "GET", "/"); !strings.Contains(page, "knowngood accept web@5") || !strings.Contains(page, `class="env attention"`) {
		t.Errorf("the page does not say that it is suspect")
	}
	if _, metrics := s.fetch(t, "GET", "/metrics"); !strings.Contains(metrics, "knowngood_suspect{environment=\"web\"} 1\n") || !strings.Contains(metrics, `knowngood_runs_total{environment="web",result="suspect"} 4`) {
		t.Error("the metrics do not say that it is suspect")
	}
	by := s.ask(t, "snapshot", "web")
	if by.code != exit.Incomplete || !strings.Contains(by.stderr.String(), "SUSPECT: web@6: "+src+" has 0 of 3 files") {
		t.Errorf("by hand, by the daemon: code %d, %s", by.code, &by.stderr)
	}

	// The full one is there, and what it holds; the source comes back.
	out := filepath.Join(t.TempDir(), "out")
	m.must(t, "restore", "web@1:"+src, "--target", out)
	if got := contents(t, out); len(got) != 3 || got["a"] != full["a"] {
		t.Errorf("restored are %d files", len(got))
	}
	for name, content := range full {
		if err := os.WriteFile(filepath.Join(src, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	back := s.take(t, "web")
	r = s.until(t, "it is over", func(r *report.Report) bool { return environmentOf(r, "web").Suspect == nil })
	if e := environmentOf(r, "web"); !e.Newest.Equal(back.Started) {
		t.Errorf("the newest is of %v, not of %v", e.Newest, back.Started)
	}
	waitFor(t, "that it is over is told", func() bool {
		return slices.Equal(kinds(messages(t, told)), []notify.Kind{notify.Suspect, notify.Recovery})
	})
}

// The acceptance is made by another process; no run comes after it.
func testADaemonTakesInWhatIsAcceptedByHand(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := t.TempDir()
	grow(t, src, "a", 1000)
	s := newService(t, m, "environments: {web: {sources: [{path: %s}], keep: {last: 1}}}\n", src)
	s.up(t)
	s.take(t, "web")
	if err := os.Remove(filepath.Join(src, "a")); err != nil {
		t.Fatal(err)
	}
	run, err := s.client.Snapshot(t.Context(), "web", nil)
	if err != nil || run.Result != report.Suspect {
		t.Fatalf("the run: %+v, %v", run, err)
	}
	if o := s.ask(t, "accept", "web@2"); o.code != exit.Done {
		t.Fatalf("accept: %s", &o.stderr)
	}
	s.kill() // its next look would come within a minute
	s.up(t)
	r := s.until(t, "it is accepted", func(r *report.Report) bool { return environmentOf(r, "web").Suspect == nil })
	if e := environmentOf(r, "web"); e.LastSuccess == nil || e.LastSuccess.Snapshot != "web@2" || !e.Newest.Equal(e.LastSuccess.Started) {
		t.Errorf("the environment: %+v", e)
	}
	if run := s.take(t, "web"); run.Forgotten != 2 {
		t.Errorf("%d were forgotten after it", run.Forgotten)
	}
}
