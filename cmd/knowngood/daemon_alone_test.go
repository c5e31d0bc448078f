package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/report"
)

func TestDaemonAlone(t *testing.T) {
	t.Parallel()
	t.Run("a second daemon refuses and names the first", testASecondDaemonRefusesAndNamesTheFirst)
	t.Run("a daemon that is stopped in a capture goes on from there", testADaemonThatIsStoppedInACaptureGoesOnFromThere)
	t.Run("a snapshot by hand does not collide with the daemon", testASnapshotByHandDoesNotCollideWithTheDaemon)
	t.Run("a snapshot by hand says why the daemon tries again, and when", testASnapshotByHandSaysWhyTheDaemonTriesAgain)
}

func testASecondDaemonRefusesAndNamesTheFirst(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := t.TempDir()
	text := fmt.Sprintf("environments: {web: {sources: [{path: %s}]}}\n", src)
	first := newService(t, m, "%s", text)
	first.up(t)

	second := newService(t, m, "%s", text)
	o := second.ask(t, "daemon")
	o.exits(t, exit.Failed)
	if want := fmt.Sprintf("another daemon uses the state directory %s: process %d (daemon) since ", m.state, first.cmd.Process.Pid); !strings.Contains(o.stderr.String(), want) {
		t.Errorf("on one state directory: %s; want %q", &o.stderr, want)
	}

	other := *m
	other.state = t.TempDir()
	third := newService(t, &other, "%s", text)
	third.write(t, fmt.Sprintf("repository: {url: %q}\nstate_dir: %s\nlisten: %s\n%s", other.repo, other.state, first.listen(), text))
	o = third.ask(t, "daemon")
	o.exits(t, exit.Failed)
	if want := "a daemon runs already and answers there"; !strings.Contains(o.stderr.String(), want) || !strings.Contains(o.stderr.String(), first.socket()) {
		t.Errorf("on one socket: %s; want %q", &o.stderr, want)
	}

	first.take(t, "web") // which the others have not harmed
	first.kill()
	if _, err := os.Lstat(first.socket()); err != nil {
		t.Fatalf("a daemon that was killed leaves its socket: %v", err)
	}
	first.up(t)
	first.take(t, "web")
	first.stop(t)
	if _, err := os.Lstat(first.socket()); !os.IsNotExist(err) {
		t.Errorf("a daemon that was stopped left its socket: %v", err)
	}
}

// A first capture that is stopped ends soon, and what it stored is not stored
// again.
func testADaemonThatIsStoppedInACaptureGoesOnFromThere(t *testing.T) {
	t.Parallel()
	repo := filepath.Join(t.TempDir(), "repo")
	m, k := newMachine(t, repo), newKiller(t)
	src := t.TempDir()
	const files, size = 20, 4 << 20
	for i := range files {
		k.write(t, filepath.Join(src, fmt.Sprintf("file-%02d", i)), size)
	}
	s := newService(t, m, "limits: {upload: 32MiB/s}\nenvironments: {web: {schedule: \"@every 1s\", sources: [{path: %s}]}}\n", src)
	s.up(t)
	packs := filepath.Join(repo, "hosts/*/packs/*/*")
	waitFor(t, "packs are stored", func() bool { return found(t, packs) > 1 })
	took := s.stop(t)
	stored := sizes(t, packs)
	t.Logf("it ended after %v, when %d bytes were stored", took, stored)
	if took > 20*time.Second {
		t.Errorf("it took %v to end", took)
	}
	if refs := m.refs(t); len(refs) > 0 || stored >= files*size {
		t.Fatalf("the capture was over before it was stopped: %v, %d bytes", refs, stored)
	}
	if !strings.Contains(s.log(t), "run interrupted by the stop of the daemon; the next one goes on from there") {
		t.Error("the log does not tell that the run was ended")
	}
	s.up(t)
	runs := s.captured(t, "web", 2)
	if runs[0].Result != report.Interrupted {
		t.Errorf("the run that was stopped: %+v", runs[0])
	}
	run := runs[1]
	if run.Result != report.Success || run.Snapshot != "web@1" || run.Trigger == "hand" {
		t.Fatalf("the run after it: %+v", run)
	}
	if most := files*size + 2<<20 - uint64(stored); run.StoredBytes > most {
		t.Errorf("the run after it stored %d bytes, want at most %d", run.StoredBytes, most)
	}
	waitFor(t, "memory is given back", func() bool { return s.proc(t, "RssAnon") <= idleMemory })
	t.Logf("anonymous memory after a large capture: %d kB", s.proc(t, "RssAnon"))
	s.stop(t)
	m.must(t, "check", "--read-data")
}

// sizes is what files take up together.
func sizes(t *testing.T, pattern string) (n int64) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// While a daemon is up, a snapshot by hand is asked of it, and one that it
// cannot be asked for waits until it has done.
func testASnapshotByHandDoesNotCollideWithTheDaemon(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	s := newService(t, m, "environments: {web: {schedule: \"0 0 1 1 *\", catch_up: 0s, sources: [{command: [sh, -c, \"while test -e %s; do sleep 0.05; done; date +%%%%N\"], as: dump}]}}\n", gate)
	s.up(t)

	o := s.ask(t, "snapshot", "web", "--json")
	if r := decode[struct{ Ref, By string }](t, o.exits(t, exit.Done)); r.Ref != "web@1" || r.By != "daemon" {
		t.Errorf("asked of the daemon: %+v", r)
	}
	o = s.ask(t, "snapshot", "web")
	if out := o.exits(t, exit.Done); out != "web@2\n" || !strings.Contains(o.stderr.String(), "the daemon captures it\n") {
		t.Errorf("asked of the daemon: %s%s", out, &o.stderr)
	}

	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	asked := make(chan *outcome, 2)
	go func() { asked <- s.ask(t, "snapshot", "web") }()
	s.until(t, "the daemon captures", func(r *report.Report) bool {
		e := environmentOf(r, "web")
		return e.Running != nil && e.Running.Phase == "capture"
	})
	o = s.ask(t, "snapshot", "web")
	o.exits(t, exit.Failed)
	if text := o.stderr.String(); !strings.HasPrefix(text, "knowngood: web is being captured by the daemon already: see how far it is with knowngood status") || strings.Count(text, "\n") != 1 {
		t.Errorf("a second one while the daemon captures: %s", text)
	}
	cmd := s.program("snapshot", "web", "--tag", "by-hand")
	said := filepath.Join(dir, "said")
	file, err := os.Create(said)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	words := func() string {
		b, err := os.ReadFile(said)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	want := fmt.Sprintf("web is being captured by process %d (the daemon) since ", s.cmd.Process.Pid)
	waitFor(t, "the one with a tag waits", func() bool { return strings.Contains(words(), want) })
	if refs := m.refs(t); len(refs) != 2 {
		t.Errorf("while all wait there are %v", refs)
	}
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	if o := <-asked; o.exits(t, exit.Done) != "web@3\n" {
		t.Errorf("asked of the daemon: %s", &o.stdout)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(words(), "web@4\n") {
		t.Errorf("the one with a tag: %v, %s", err, words())
	}

	// The daemon sees it by itself within a minute; a look wakes it up here.
	if !slow() {
		s.hup(t)
	}
	type snapshots struct {
		Snapshots []struct {
			Ref  string
			Time time.Time
		}
	}
	shown := decode[snapshots](t, m.must(t, "list", "--json"))
	newest := shown.Snapshots[0]
	for _, v := range shown.Snapshots {
		if v.Time.After(newest.Time) {
			newest = v
		}
	}
	if newest.Ref != "web@4" {
		t.Fatalf("list shows %+v", shown)
	}
	s.until(t, "the report tells the age of the one by hand", func(r *report.Report) bool {
		return environmentOf(r, "web").Newest.Sub(newest.Time).Abs() < time.Millisecond
	})
	s.stop(t)
}

func testASnapshotByHandSaysWhyTheDaemonTriesAgain(t *testing.T) {
	t.Parallel()
	m := &machine{repo: "s3://bucket/?endpoint=http://127.0.0.1:1", state: t.TempDir(), env: []string{"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"}}
	s := newService(t, m, "environments: {web: {sources: [{path: %s}]}}\n", t.TempDir())
	s.up(t)

	cmd, said := s.program("snapshot", "web"), filepath.Join(t.TempDir(), "said")
	file, err := os.Create(said)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stderr = file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	running := environmentOf(s.until(t, "the run is tried again", func(r *report.Report) bool {
		e := environmentOf(r, "web")
		return e.Running != nil && e.Running.Phase == "retry"
	}), "web").Running
	const why = "127.0.0.1:1: connect: connection refused"
	if wait := running.Retry.Sub(running.Started); !strings.Contains(running.Error, why) || wait < 30*time.Second || wait > time.Minute {
		t.Errorf("the report: %+v", running)
	}

	want := "attempt 1 failed, and the next begins at " + running.Retry.Local().Format("15:04:05 MST") + ": "
	if out := s.ask(t, "status").stdout.String(); !strings.Contains(out, "\nweb is running:\n  "+want) {
		t.Errorf("status: %s", out)
	}
	var lines []string
	waitFor(t, "the command says something of it", func() bool {
		b, err := os.ReadFile(said)
		if err != nil {
			t.Fatal(err)
		}
		lines = strings.SplitAfter(string(b), "\n")
		return len(lines) > 2
	})
	if lines[0] != "the daemon captures it\n" || !strings.HasPrefix(lines[1], "knowngood: warning: "+want) || !strings.Contains(lines[1], why) {
		t.Errorf("the command: %q", lines)
	}
}
