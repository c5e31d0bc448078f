package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/report"
)

// takenBy writes down that a daemon of a version took the configuration as it is,
// as such a daemon does.
func (s *service) takenBy(t *testing.T, version string) {
	t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{"version": version, "sha256": fmt.Sprintf("%x", sha256.Sum256(text))})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.record(), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *service) record() string { return filepath.Join(s.state, "daemon", "configuration") }

// refusesToStart demands that the configuration is refused, by the check and at
// the start.
func (s *service) refusesToStart(t *testing.T, want string) {
	t.Helper()
	for _, args := range [][]string{{"config", "check", s.config}, {"daemon"}} {
		if o := s.ask(t, args...); o.code != exit.Usage || !strings.Contains(o.stderr.String(), want) {
			t.Errorf("%v exits with %d, and says\n%s", args, o.code, &o.stderr)
		}
	}
}

// runsDegraded demands that the check takes the configuration with a warning, and
// that a daemon with it captures and calls itself degraded.
func (s *service) runsDegraded(t *testing.T, want string) {
	t.Helper()
	if o := s.ask(t, "config", "check", s.config); o.code != exit.Done || !strings.Contains(o.stdout.String(), "warning (degraded): ") || !strings.Contains(o.stdout.String(), want) {
		t.Errorf("the check exits with %d, and says\n%s%s", o.code, &o.stdout, &o.stderr)
	}
	s.up(t)
	r := s.until(t, "the repository is open", func(r *report.Report) bool { return r.Degraded == "" })
	if len(r.Warnings) != 1 || !r.Warnings[0].Degraded || !strings.Contains(r.Warnings[0].Text, want) {
		t.Errorf("the warnings are %+v", r.Warnings)
	}
	s.take(t, "web")
	status := s.ask(t, "status")
	if out := status.stdout.String(); status.code != exit.Done || !strings.HasPrefix(out, "Degraded, though snapshots are taken: ") || !strings.Contains(out, "\nDEGRADED, ") {
		t.Errorf("status exits with %d, and says\n%s%s", status.code, out, &status.stderr)
	}
	if _, metrics := s.fetch(t, "GET", "/metrics"); !strings.Contains(metrics, "knowngood_degraded 1") {
		t.Error("the metrics do not call it degraded")
	}
}

func TestConfigUpgrade(t *testing.T) {
	t.Parallel()
	t.Run("an upgrade that finds more in a configuration keeps the daemon capturing", testAnUpgradeThatFindsMoreInAConfigurationKeepsTheDaemonCapturing)
}

func testAnUpgradeThatFindsMoreInAConfigurationKeepsTheDaemonCapturing(t *testing.T) {
	t.Parallel()
	const fails = "the kind rpo-met"
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	text := fmt.Sprintf("environments: {web: {sources: [{path: %q}]}}\n", t.TempDir())
	bad := text + "notify: {webhook: [{url: 'http://127.0.0.1:1/', template: '{{if eq .Kind \"rpo-met\"}}{{.Run.Error}}{{end}}'}]}\n"
	s := newService(t, m, "%s", text)
	s.up(t)
	s.take(t, "web")
	s.stop(t)

	// This version has not taken it, and does not.
	s.configure(t, "%s", bad)
	s.refusesToStart(t, fails)

	// An earlier one has, and goes on having done so.
	s.takenBy(t, "0.0.1")
	for range 2 {
		s.runsDegraded(t, fails)
		s.stop(t)
	}

	// Another text is not that one.
	s.up(t)
	s.configure(t, "%s", bad+"max_runs: 3\n")
	s.hup(t)
	if log := s.log(t); !strings.Contains(log, "the new configuration was not taken") {
		t.Error("a reload takes what the check refuses")
	}
	s.stop(t)
	s.refusesToStart(t, fails)

	// Without the record nobody has taken it, whatever else is in the state directory.
	s.configure(t, "%s", bad)
	if err := os.Remove(s.record()); err != nil {
		t.Fatal(err)
	}
	s.refusesToStart(t, fails)

	// What this version took, it does not forgive later.
	s.configure(t, "%s", text)
	s.up(t)
	s.stop(t)
	if b, err := os.ReadFile(s.record()); err != nil || !strings.Contains(string(b), `"version":"`+version+`"`) {
		t.Errorf("what was taken is written down as %s, %v", b, err)
	}
	if err := os.Chmod(s.config, 0o606); err != nil {
		t.Fatal(err)
	}
	s.refusesToStart(t, "can be written by every user")
}
