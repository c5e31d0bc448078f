package main

import (
	"path/filepath"
	"regexp"
	"testing"

	"knowngood/daemon/report"
)

func TestDaemonAfter(t *testing.T) {
	t.Parallel()
	t.Run("a snapshot whose hook after failed is shown as the newest", testASnapshotWhoseHookAfterFailedIsShownAsTheNewest)
}

// A run whose hook fails after the commit has failed, and its snapshot is the
// newest good one all the same.
func testASnapshotWhoseHookAfterFailedIsShownAsTheNewest(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := t.TempDir()
	grow(t, src, "a", 1000)
	s := newService(t, m, "environments: {web: {rpo: 100d, sources: [{path: %s}], hooks: {after: [{command: [\"false\"]}]}}}\n", src)
	s.up(t)
	for i, ref := range []string{"web@1", "web@2"} {
		run, err := s.client.Snapshot(t.Context(), "web", nil)
		if err != nil || run.Result != report.Failed || run.Snapshot != ref {
			t.Fatalf("the run: %+v, %v", run, err)
		}
		e := environmentOf(s.until(t, "it is reported", func(*report.Report) bool { return true }), "web")
		if !e.Newest.Equal(run.Started) || e.LastSuccess == nil || e.LastSuccess.Snapshot != ref || e.Failures != i+1 || e.RPOBroken {
			t.Errorf("the environment: %+v, its last success %+v", e, e.LastSuccess)
		}
		o := s.ask(t, "status")
		if !regexp.MustCompile(`(?m)^web +` + ref + ` .* ok, .* FAILED .* 1000 B `).MatchString(o.stdout.String()) {
			t.Errorf("status: %s", &o.stdout)
		}
		status := decode[struct {
			Environments []struct{ Newest *snapshotResult }
		}](t, s.ask(t, "status", "--json").stdout.String())
		if n := status.Environments[0].Newest; n == nil || n.Ref != ref || n.Status != "complete" || n.Files != 1 {
			t.Errorf("status --json: the newest is %+v", n)
		}
		if _, page := s.fetch(t, "GET", "/"); !regexp.MustCompile(`</b> old <span class="muted">` + ref).MatchString(page) {
			t.Errorf("the page does not name %s as the newest", ref)
		}
	}
}
