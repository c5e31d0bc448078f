package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/daemon/report"
)

func TestDaemonReplaced(t *testing.T) {
	t.Parallel()
	t.Run("a daemon whose store is replaced", testADaemonWhoseStoreIsReplaced)
}

func testADaemonWhoseStoreIsReplaced(t *testing.T) {
	t.Parallel()
	repo := filepath.Join(t.TempDir(), "repo")
	m := newMachine(t, repo)
	src := t.TempDir()
	grow(t, src, "a", 1000)
	s := newService(t, m, "environments: {web: {sources: [{path: %s}]}}\n", src)
	s.up(t)
	s.take(t, "web")

	// Moved away, it is no success to write there.
	if err := os.Rename(repo, repo+".away"); err != nil {
		t.Fatal(err)
	}
	run, err := s.client.Snapshot(t.Context(), "web", nil)
	if err != nil || run.Result != report.Failed || !strings.Contains(run.Error, " does not exist: check the path") {
		t.Errorf("without its store, the run: %+v, %v", run, err)
	}
	if code, body := s.fetch(t, "GET", "/readyz"); code == 200 {
		t.Errorf("without its store, the daemon is ready: %s", body)
	}

	// A copy in its place is another directory with the same repository.
	if err := os.CopyFS(repo, os.DirFS(repo+".away")); err != nil {
		t.Fatal(err)
	}
	s.take(t, "web")
	if err := os.Rename(repo, repo+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(repo, os.DirFS(repo+".old")); err != nil {
		t.Fatal(err)
	}
	if run, err = s.client.Snapshot(t.Context(), "web", nil); err != nil || run.Snapshot != "web@3" {
		t.Errorf("with a copy of its store, the run: %+v, %v", run, err)
	}
	if code, body := s.fetch(t, "GET", "/readyz"); code != 200 {
		t.Errorf("with a copy of its store, the daemon is not ready: %s", body)
	}
}
