package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

// messages are what was sent, in order.
func messages(t *testing.T, file string) []notify.Message {
	t.Helper()
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []notify.Message
	for d := json.NewDecoder(f); ; {
		var m notify.Message
		if err := d.Decode(&m); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return list
		}
		list = append(list, m)
	}
}

func kinds(list []notify.Message) (out []notify.Kind) {
	for _, m := range list {
		out = append(out, m.Kind)
	}
	return out
}

func TestDaemonMessages(t *testing.T) {
	t.Parallel()
	t.Run("damage and failures are reported once", testDamageAndFailuresAreReportedOnce)
	t.Run("a broken promise is reported once and met again once", testABrokenPromiseIsReportedOnceAndMetAgainOnce)
	t.Run("a failure is reported though the daemon was killed before it could be", testAFailureIsReportedThoughTheDaemonWasKilledBeforeItCouldBe)
	t.Run("each environment may have a monitor of its own", testEachEnvironmentMayHaveAMonitorOfItsOwn)
}

func testDamageAndFailuresAreReportedOnce(t *testing.T) {
	t.Parallel()
	repo := filepath.Join(t.TempDir(), "repo")
	m := newMachine(t, repo)
	down, told := filepath.Join(t.TempDir(), "down"), filepath.Join(t.TempDir(), "told")
	s := newService(t, m, "environments: {web: {sources: [{command: [sh, -c, \"echo rows; test ! -e %s\"], as: dump}]}}\nnotify: {command: [sh, -c, \"cat >>%s\"]}\n", down, told)
	s.up(t)
	s.take(t, "web")
	roots, err := filepath.Glob(filepath.Join(repo, "hosts/*/roots/web/*"))
	if err != nil || len(roots) != 1 {
		t.Fatalf("roots: %v, %v", roots, err)
	}
	root, err := os.ReadFile(roots[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range root {
		root[i] ^= 0x55
	}
	replaceFile(t, roots[0], root)
	for range 3 {
		s.take(t, "web") // which needs nothing of it
	}
	r := s.until(t, "the damage is in the report", func(r *report.Report) bool { return len(r.Warnings) > 0 })
	if w := r.Warnings[0]; len(r.Warnings) > 1 || !w.Tampering || !strings.Contains(w.Text, "damaged root hosts/") {
		t.Errorf("the warnings: %+v", r.Warnings)
	}
	if o := s.ask(t, "status"); !strings.Contains(o.stdout.String(), "The repository was tampered with, see the warnings.") {
		t.Errorf("status: %s", &o.stdout)
	}

	if err := os.WriteFile(down, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		run, err := s.client.Snapshot(t.Context(), "web", nil)
		if err != nil {
			t.Fatal(err)
		}
		if run.Result != report.Failed || run.Error == "" {
			t.Fatalf("of a source that fails: %+v", run)
		}
	}
	if err := os.Remove(down); err != nil {
		t.Fatal(err)
	}
	if run := s.take(t, "web"); run.Snapshot != "web@5" {
		t.Errorf("the run after it: %+v", run)
	}
	waitFor(t, "the recovery is reported", func() bool { return slices.Contains(kinds(messages(t, told)), notify.Recovery) })
	s.stop(t)
	if list := kinds(messages(t, told)); !slices.Equal(list, []notify.Kind{notify.Damage, notify.Failure, notify.Recovery}) {
		t.Errorf("told: %v", list)
	}
}

// replaceFile writes a file that may be read-only.
func replaceFile(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func testABrokenPromiseIsReportedOnceAndMetAgainOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	told := filepath.Join(t.TempDir(), "told")
	s := newService(t, m, "environments: {web: {rpo: 3s, sources: [{path: %s}]}}\nnotify: {command: [sh, -c, \"cat >>%s\"]}\n", t.TempDir(), told)
	s.up(t)
	// Without a snapshot it is broken when there was time for one.
	s.until(t, "there was time", func(r *report.Report) bool { return r.Now.Sub(r.Started) > environmentOf(r, "web").RPO() })
	// It looks once a minute by itself. What was promised counts from a moment after the start.
	look := func() { s.hup(t); time.Sleep(200 * time.Millisecond) }
	waitFor(t, "a message says that the promise is broken", func() bool { look(); return len(messages(t, told)) > 0 })
	for range 3 { // further looks send nothing
		s.hup(t)
	}
	if o := s.ask(t, "status"); o.code != exit.Failed {
		t.Errorf("status ends with %d while a promise is broken", o.code)
	}
	s.take(t, "web")
	waitFor(t, "the met promise is told", func() bool { return len(messages(t, told)) > 1 })
	if list := kinds(messages(t, told)); !slices.Equal(list[:2], []notify.Kind{notify.RPO, notify.RPOMet}) {
		t.Errorf("told: %v", list)
	}
	s.until(t, "the promise is broken again", func(r *report.Report) bool { return environmentOf(r, "web").RPOBroken })
	waitFor(t, "a message says so", func() bool { look(); return len(messages(t, told)) > 2 })
	s.stop(t)
	if list := kinds(messages(t, told)); !slices.Equal(list, []notify.Kind{notify.RPO, notify.RPOMet, notify.RPO}) {
		t.Errorf("told: %v", list)
	}
}

// What is to be sent and not delivered outlives a crash and a stop, and is delivered
// once.
func testAFailureIsReportedThoughTheDaemonWasKilledBeforeItCouldBe(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	dir := t.TempDir()
	open, told, src := filepath.Join(dir, "open"), filepath.Join(dir, "told"), filepath.Join(dir, "src")
	s := newService(t, m, "environments: {web: {sources: [{path: %s}]}}\nnotify: {command: [sh, -c, \"test -e %s && cat >>%s\"]}\n", src, open, told)
	said := func(what string) func() bool {
		return func() bool { return strings.Contains(s.log(t), what) }
	}
	s.up(t)
	if run, err := s.client.Snapshot(t.Context(), "web", nil); err != nil || run.Result != report.Failed {
		t.Fatalf("of a source that is not there: %+v, %v", run, err)
	}
	waitFor(t, "it is not told", said("not delivered yet"))
	s.kill()
	s.up(t) // tries again, and fails
	s.stop(t)
	if !strings.Contains(s.log(t), "not delivered before the stop") {
		t.Error("the daemon that came after did not try")
	}
	for _, file := range []string{open, src} {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.up(t)
	waitFor(t, "it is told", func() bool { return len(messages(t, told)) > 0 })
	s.take(t, "web")
	s.stop(t)
	s.up(t)
	s.stop(t)
	if list := kinds(messages(t, told)); !slices.Equal(list, []notify.Kind{notify.Failure, notify.Recovery}) {
		t.Errorf("told: %v", list)
	}
}

func testEachEnvironmentMayHaveAMonitorOfItsOwn(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	t.Cleanup(server.Close)
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	text := "environments:\n  web: {sources: [{path: %[1]s}]}\n  db: {sources: [{path: %[1]s}], ping: %[2]s/%[3]s}\nnotify: {ping: %[2]s/all}\n"
	src := t.TempDir()
	s := newService(t, m, text, src, server.URL, "db")
	s.up(t)
	s.take(t, "web")
	s.take(t, "db")
	s.configure(t, text, src, server.URL, "other")
	s.hup(t)
	s.take(t, "db")
	s.stop(t)
	var paths []string
	for len(asked) > 0 {
		paths = append(paths, <-asked)
	}
	slices.Sort(paths)
	if want := []string{"/all", "/all/start", "/db", "/db/start", "/other", "/other/start"}; !slices.Equal(paths, want) {
		t.Errorf("asked: %q, want %q", paths, want)
	}
}
