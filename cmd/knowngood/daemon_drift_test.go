package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

// The daemon compares an environment of its own with a known-good snapshot, and, as a drill
// host does, snapshots with each other.
func TestDaemonDrift(t *testing.T) {
	t.Parallel()

	t.Run("the daemon compares with the known-good state", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
		source, told := t.TempDir(), filepath.Join(t.TempDir(), "told")
		page := filepath.Join(source, "page")
		write(t, page, "hello")
		s := newService(t, m, `identity: %s
environments:
  web:
    sources: [{path: %s}]
    shrink: 0%%
    drill: {}
    drift: {schedule: "@every 1s", ignore: [cache]}
drills: [{host: "*", environment: "w*", drift: {schedule: "@every 1s"}}]
notify: {command: [sh, -c, "cat >>%s"]}
`, m.identity, source, told)
		m.must(t, "snapshot", "--env", "web", source)
		s.up(t)
		compared := func(job, what string, is func(*report.Run) bool) report.Drifted {
			t.Helper()
			at := func(r *report.Report) int {
				return slices.IndexFunc(r.Drifts, func(d report.Drift) bool { return d.Name == job && d.Last != nil && is(d.Last) })
			}
			r := s.until(t, what, func(r *report.Report) bool { return at(r) >= 0 })
			return r.Drifts[at(r)].Last.Drifted[0]
		}
		if d := compared("web", "nothing is known-good yet", func(r *report.Run) bool { return r.Result == report.Failed }); !strings.Contains(d.Error, "known-good") {
			t.Errorf("before a drill: %+v", d)
		}
		if o := s.ask(t, "drill", "web"); o.code != 0 {
			t.Fatalf("drill: %s%s", &o.stdout, &o.stderr)
		}
		good := func(r *report.Run) bool { return r.Result == report.Success }
		compared("web", "nothing differs", good)
		compared("*/w*", "nothing differs between snapshots", good)

		write(t, page, "changed")
		write(t, filepath.Join(source, "cache"), "x")
		drifted := func(r *report.Run) bool { return len(r.Drifted) > 0 && r.Drifted[0].ExitCode == 14 }
		d := compared("web", "a file differs", drifted)
		if d.Environment != "web" || d.From != "web@1" || d.Paths != 1 || len(d.First) != 1 || d.First[0] != "changed "+page {
			t.Errorf("of the live tree: %+v", d)
		}
		if o := s.ask(t, "status"); !strings.Contains(o.stdout.String(), "drift: web: 1 path differs from web@1 to this machine: changed "+page) {
			t.Errorf("status: %s", &o.stdout)
		}
		s.take(t, "web")
		d = compared("*/w*", "a file differs between snapshots", drifted)
		if !strings.HasSuffix(d.Environment, "/web") || !strings.HasSuffix(d.From, "/web@1") || !strings.HasSuffix(d.To, "/web@2") || d.Paths != 1 {
			t.Errorf("of snapshots: %+v", d)
		}
		if _, text := s.fetch(t, "GET", "/metrics"); !strings.Contains(text, `knowngood_drift_paths{environment="web"} 1`) || !strings.Contains(text, `/web"} 1`) || !strings.Contains(text, `knowngood_drift_consecutive_failures{drift="web"} 0`) {
			t.Errorf("the metrics: %s", text)
		}
		if o := s.ask(t, "drill", "web"); o.code != 0 {
			t.Fatalf("drill: %s%s", &o.stdout, &o.stderr)
		}
		compared("web", "the new snapshot is known-good", good)
		compared("*/w*", "both are one", good)
		waitFor(t, "the recovery is reported", func() bool {
			return slices.ContainsFunc(messages(t, told), func(m notify.Message) bool {
				return m.Kind == notify.Recovery && m.Environment == "web" && strings.Contains(m.Text, "known-good state again")
			})
		})
		s.stop(t)
		list := messages(t, told)
		if !slices.ContainsFunc(list, func(m notify.Message) bool {
			return m.Kind == notify.Drift && m.Environment == "web" && strings.Contains(m.Text, "changed "+page)
		}) {
			t.Errorf("told: %+v", list)
		}
		if left, err := os.ReadDir(filepath.Join(m.state, "drills")); err == nil && len(left) > 0 {
			t.Errorf("scratch space is left: %v", left)
		}
	})
}
