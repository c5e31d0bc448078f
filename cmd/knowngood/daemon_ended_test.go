package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

func TestDaemonEnded(t *testing.T) {
	t.Parallel()
	t.Run("a daemon whose name another machine took is degraded", testADaemonWhoseNameAnotherMachineTookIsDegraded)
}

// Another machine that takes the name of a host ends that one: its next run
// notices, and commits nothing.
func testADaemonWhoseNameAnotherMachineTookIsDegraded(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	told := filepath.Join(t.TempDir(), "told")
	s := newService(t, m, "environments: {web: {sources: [{path: %s}]}}\nnotify: {command: [sh, -c, \"cat >>%s\"]}\n", t.TempDir(), told)
	s.up(t)
	s.take(t, "web")
	host := s.until(t, "it answers", func(*report.Report) bool { return true }).Host

	other := *m
	other.state = t.TempDir()
	other.must(t, "init", "--join", "--reenrol", "--host", host)
	run, err := s.client.Snapshot(t.Context(), "web", nil)
	if err != nil {
		t.Fatal(err)
	}
	const why = "another machine has the name of this host: host "
	for _, part := range []string{why + host + " was enrolled again on 2", "with the key ", "(certificate 2); that ended the key of this machine, ", "init --join --reenrol --host " + host, "--host NEWNAME"} {
		if run.Result != report.Failed || run.Snapshot != "" || !strings.Contains(run.Error, part) {
			t.Errorf("the next run: %+v; want %q", run, part)
		}
	}
	s.until(t, "the daemon is degraded", func(r *report.Report) bool { return strings.Contains(r.Degraded, why) })
	if code, _ := s.fetch(t, "GET", "/readyz"); code != 503 {
		t.Errorf("readiness: %d", code)
	}
	if o := s.ask(t, "status"); !strings.Contains(o.stdout.String(), "The daemon cannot do its work: "+why) {
		t.Errorf("status: %s", &o.stdout)
	}
	o := s.ask(t, "snapshot", "web", "--tag", "by-hand")
	o.exits(t, exit.Failed)
	if !strings.Contains(o.stderr.String(), why) {
		t.Errorf("by hand: %s", &o.stderr)
	}
	if refs := other.refs(t); !slices.Equal(refs, []string{"web@1"}) {
		t.Errorf("there are %v", refs)
	}

	// The rightful machine takes its name back.
	m.must(t, "init", "--join", "--reenrol", "--host", host)
	if run := s.take(t, "web"); run.Snapshot != "web@2" {
		t.Errorf("after it was enrolled again: %+v", run)
	}
	// Nobody has to fail for that.
	m.must(t, "init", "--join", "--reenrol", "--host", host)
	s.take(t, "web")
	s.until(t, "the daemon works", func(r *report.Report) bool { return r.Degraded == "" })
	s.stop(t)
	list := kinds(messages(t, told))
	for _, kind := range []notify.Kind{notify.Failure, notify.Degraded, notify.Recovery} {
		if !slices.Contains(list, kind) {
			t.Errorf("told %v, and no %s", list, kind)
		}
	}
	m.must(t, "check")
}
