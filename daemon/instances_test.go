package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/restore/generation"
	"knowngood/restore/instance"
)

func TestTheReportHasTheInstancesOfAnEnvironment(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "instances")
	c := w.config("  web:\n    sources: [{path: $SOURCE}]\n    root: $SOURCE\n    scale: {dir: " + dir + ", max: 3, timeout: 1s, probes: [{name: up, file: {path: \"{path}/file\"}}]}\n")
	d := w.daemon(c)
	d.jobs.mu.Lock()
	d.jobs.configure(c)
	d.jobs.mu.Unlock()
	none := "web: no instance is there, and at least 1 should be. Next: knowngood scale web"
	if ws := d.Report().Warnings; len(ws) == 0 || ws[len(ws)-1].Text != none {
		t.Errorf("before there are any: %+v", ws)
	}

	env := c.Environments["web"]
	env.Scale.Min = 0
	if e := w.environment(d, "web"); e.Instances != nil {
		t.Errorf("before there need be any: %+v", e.Instances)
	}
	ask := func(_ context.Context, probes []configs.Probe) error {
		_, err := os.Stat(probes[0].File.Path)
		return err
	}
	s, err := instance.Open(t.Context(), &instance.Options{Dir: dir, Environment: "web", Config: env.Scale, Probes: env.Scale.Probes, Ask: ask, Now: time.Now, Note: t.Logf}, true)
	w.Check(err)
	defer s.Close()
	fill := generation.Copy(w.source, nil)
	tree, err := s.Tree(t.Context(), &instance.Tree{Name: instance.TreeName(42, [32]byte{}, ""), Snapshot: "web@42"}, func(ctx context.Context, dir string) error { return fill(ctx, dir, false) })
	w.Check(err)
	_, err = s.Spawn(t.Context(), tree, 0)
	w.Check(errors.Join(err, s.Scale(t.Context(), 3), os.Remove(filepath.Join(dir, "2/file")), s.Check(t.Context())))
	r, e := d.Report(), w.environment(d, "web")
	if i := e.Instances; i == nil || i.CheckedAt.IsZero() || *i != (report.Instances{Snapshot: "web@42", Wanted: 3, Ready: 2, Failed: 1, CheckedAt: i.CheckedAt, Busy: true}) {
		t.Fatalf("instances: %+v", i)
	}
	if n := len(r.Warnings); n == 0 || !strings.Contains(r.Warnings[n-1].Text, "web: 2 of 3 instances of web@42 are ready, 1 failed, checked ") {
		t.Errorf("warnings: %+v", r.Warnings)
	}
	w.Check(os.WriteFile(filepath.Join(dir, "instances.json"), []byte("x"), 0o600))
	if i := w.environment(d, "web").Instances; i == nil || !strings.Contains(i.Error, "instances.json cannot be read") {
		t.Errorf("a state that cannot be read: %+v", i)
	}
	if ws := d.Report().Warnings; len(ws) == 0 || ws[len(ws)-1].Time.IsZero() {
		t.Errorf("warnings of a state that cannot be read: %+v", ws)
	}
}
