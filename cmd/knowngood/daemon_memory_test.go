package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"knowngood/daemon/report"
)

// idleMemory is the anonymous memory that a daemon may hold between runs, in kB.
const idleMemory = 40 << 10

func TestDaemonMemory(t *testing.T) {
	t.Run("an unchanged run of a daemon costs little", testAnUnchangedRunOfADaemonCostsLittle)
}

func testAnUnchangedRunOfADaemonCostsLittle(t *testing.T) {
	m, requests := loggedMachine(t)
	src := t.TempDir()
	files := 10_000
	if slow() {
		files = 100_000
	}
	for i := range files {
		dir := filepath.Join(src, fmt.Sprintf("%03d", i/500))
		if i%500 == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d.txt", i)), fmt.Appendf(nil, "the content of file %d", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := newService(t, m, "environments: {web: {keep: {last: 100}, sources: [{path: %s}]}}\n", src)
	s.up(t)
	first := s.take(t, "web")
	t.Logf("the first run of %d files took %v", first.Files, first.Duration())
	for range 2 { // the first run after it may still warm up
		s.take(t, "web")
	}
	const runs = 5
	before, fewest := s.cpu(t), 100
	for range runs {
		// Directories above the source are captured as well, and others may write
		// to those: then one container of the manifest is put.
		fewest = min(fewest, requests.atMost(t, 5, "a run in which nothing changed", func() {
			if r := s.take(t, "web"); r.NewBytes != 0 || r.Files != first.Files {
				t.Errorf("the run: %+v", r)
			}
		}))
	}
	if fewest > 4 {
		t.Errorf("every run took %d requests or more, want 4", fewest)
	}
	s.until(t, "nothing runs", func(r *report.Report) bool { return environmentOf(r, "web").Running == nil })
	each := (s.cpu(t) - before) / runs
	t.Logf("a run of %d unchanged files: %v of processor time", files, each)
	if each > 5*500*time.Millisecond {
		t.Errorf("an unchanged run takes %v of processor time, want less than 0.5 s", each)
	}
	waitFor(t, "memory is given back", func() bool { return s.proc(t, "RssAnon") <= idleMemory })
	t.Logf("anonymous memory between runs: %d kB", s.proc(t, "RssAnon"))
	if slow() {
		time.Sleep(3 * time.Second) // what follows a run
		before, cpu := s.wakes(t), s.cpu(t)
		const watched = 65 * time.Second
		time.Sleep(watched)
		t.Logf("an idle daemon woke up %d times in %v, and used %v of processor time", s.wakes(t)-before, watched, s.cpu(t)-cpu)
	}
	s.stop(t)
}

// wakes is how often the daemon's threads gave up the processor by themselves.
func (s *service) wakes(t *testing.T) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, task := range tasks {
		if b, err := os.ReadFile(task); err == nil {
			n += statusField(t, b, "voluntary_ctxt_switches")
		}
	}
	return n
}
