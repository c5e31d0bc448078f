package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
	"knowngood/daemon/report"
	"knowngood/daemon/web"
)

// shownDaemon is a daemon of which nothing but the report is real.
type shownDaemon struct{ report report.Report }

func (d shownDaemon) Report() report.Report                   { return d.report }
func (d shownDaemon) Problems(string) (report.Problems, bool) { return report.Problems{}, false }
func (d shownDaemon) Timeline(string) report.Timeline         { return report.Timeline{} }

func (d shownDaemon) Ready() error                        { return nil }
func (d shownDaemon) Start(context.Context, string) error { return web.ErrUnknown }

// statusOf runs the status command beside a daemon that reports r.
func statusOf(t *testing.T, r report.Report, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return statusWith(t, r, "", args...)
}

// statusWith has more text in the configuration.
func statusWith(t *testing.T, r report.Report, more string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kg") // short enough for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if r.Repository == "" {
		r.Repository = "file://" + dir + "/repo"
	}
	listen := "unix://" + filepath.Join(dir, "api.sock")
	l, err := web.Listen(listen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	d := shownDaemon{r}
	go func() { ended <- web.Serve(ctx, l, web.Handler(d, d)) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("repository: {url: \"file://%s/repo\"}\nhost: web-7\nstate_dir: %s/state\nlisten: %s # a socket\n%s", dir, dir, listen, more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	sess := session.New(console.New(&out, &errs), version)
	code = run(sess, append([]string{"status", "--config", config}, args...))
	return code, out.String(), errs.String()
}

func TestStatus(t *testing.T) {
	t.Parallel()
	t.Run("status exits 13 when the last check found damage", testStatusExits13WhenTheLastCheckFoundDamage)
	t.Run("status shows what the daemon reports", testStatusShowsWhatTheDaemonReports)
	t.Run("status is done when all holds", testStatusIsDoneWhenAllHolds)
	t.Run("status does not take another repository's daemon for its own", testStatusDoesNotTakeAnotherRepositorysDaemonForItsOwn)
	t.Run("a variable that the daemon alone has is no fault of the configuration", testAVariableThatTheDaemonAloneHasIsNoFaultOfTheConfiguration)
	t.Run("status of a daemon is shown whatever became of the configuration", testStatusOfADaemonIsShownWhateverBecameOfTheConfiguration)
}

func testStatusExits13WhenTheLastCheckFoundDamage(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ok := &report.Run{Started: now.Add(-14 * time.Minute), Finished: now.Add(-13 * time.Minute), Result: report.Success, Snapshot: "web@42", Attempts: 1}
	r := report.Report{Version: "1.4.0", Host: "web-7", Now: now, Environments: []report.Environment{
		{Name: "web", RPOSeconds: 3600, AgeSeconds: 840, Newest: ok.Started, Job: report.Job{Last: ok, LastSuccess: ok}}}}
	for damaged, want := range map[int]int{0: exit.Done, 1: exit.Damage} {
		r.Check = &report.Check{Began: now, Damaged: damaged}
		for _, flags := range [][]string{nil, {"--json"}} {
			if code, out, errs := statusOf(t, r, flags...); code != want {
				t.Errorf("with %d damaged objects, %v: exit code %d, want %d: %s%s", damaged, flags, code, want, out, errs)
			}
		}
	}
}

func testStatusShowsWhatTheDaemonReports(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ok := &report.Run{Started: now.Add(-14 * time.Minute), Finished: now.Add(-13 * time.Minute), Result: report.Success, Snapshot: "web@42", Files: 12, Bytes: 3 << 30, Attempts: 1}
	bad := &report.Run{Started: now.Add(-9 * time.Minute), Finished: now.Add(-8 * time.Minute), Result: report.Failed, Error: "put packs/3f: 503\x1b[31m Slow Down:\nlook at the store"}
	r := report.Report{Version: "1.4.0", Host: "web-7", Now: now, Environments: []report.Environment{
		{Name: "web", RPOSeconds: 3600, AgeSeconds: 840, Newest: ok.Started, Kept: 87, ProtectedUntil: now.Add(29*24*time.Hour + time.Minute),
			Job: report.Job{Last: ok, LastSuccess: ok, Next: now.Add(5*time.Minute + 30*time.Second)}, Runs: []report.Run{*ok}},
		{Name: "db", RPOSeconds: 7200, AgeSeconds: 10800, Newest: now.Add(-3 * time.Hour), RPOBroken: true,
			Job: report.Job{Last: bad, Failures: 3, Next: now.Add(-time.Second), Running: &report.Progress{Started: now.Add(-40 * time.Second), Phase: "capture"}}},
		{Name: "etc", AgeSeconds: -1},
	},
		Storage:  report.Storage{UsedBytes: 2 << 30, LimitBytes: 8 << 30, FreeBytes: 6 << 30, BytesPerDay: 1 << 20, FullAt: now.Add(98*24*time.Hour + time.Minute), UnprovenPuts: true, UnprotectedAt: now},
		Warnings: []report.Warning{{Time: now, Text: "root web@40 was overwritten", Tampering: true}},
	}
	code, out, errs := statusOf(t, r)
	if code != exit.Damage || errs != "" {
		t.Errorf("exit code %d, %s", code, errs)
	}
	for _, want := range []string{
		"The repository was tampered with, see the warnings.\n",
		"web          web@42  14 min  ok, 1 h      in 5 min  success 13 min ago         3.0 GiB  29 d                      87\n",
		"db           -       3 h     BROKEN, 2 h  due       running for 40 s: capture  -        no lock                   -\n",
		"etc          none    -       -            by hand   never                      -        no lock                   -\n",
		"\n  put packs/3f: 503\\x1b[31m Slow Down:\n  look at the store\n  Next: fix the cause, then run: knowngood snapshot db; ",
		"\nTAMPERING, ", "\n  root web@40 was overwritten\n",
		"\nStore: 2.0 GiB used by the packs of this host, 6.0 GiB of 8.0 GiB left; grows by 1.0 MiB a day, full in 98 d.\n",
		"\nWARNING: an attacker who takes over a host can destroy its history here: a directory keeps no older versions (probed on ",
		"\nThis store does not prove puts: ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it lacks %q:\n%s", want, out)
		}
	}
	if strings.Index(out, "\ndb ") > strings.Index(out, "\nweb ") {
		t.Error("what is broken does not come first")
	}

	code, out, _ = statusOf(t, r, "--json")
	var j struct {
		Source, Level, Summary string
		Environments           []struct {
			Environment, Host string
			Newest            *struct{ Ref string }
			RPOBroken         bool `json:"rpo_broken"`
			Failures          int
			Runs              []any
		}
		Warnings []struct{ Text string }
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code != exit.Damage || j.Source != "daemon" || j.Level != "broken" || len(j.Environments) != 3 || len(j.Warnings) != 1 {
		t.Errorf("exit code %d: %s", code, out)
	}
	if e := j.Environments[0]; e.Environment != "db" || e.Host != "web-7" || !e.RPOBroken || e.Failures != 3 || e.Newest != nil {
		t.Errorf("db: %+v", e)
	}
	if e := j.Environments[2]; e.Newest == nil || e.Newest.Ref != "web@42" || e.Runs != nil {
		t.Errorf("web: %+v", e)
	}
}

func testStatusIsDoneWhenAllHolds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	code, out, errs := statusOf(t, report.Report{Host: "web-7", Now: now, Environments: []report.Environment{{Name: "web", RPOSeconds: 60, AgeSeconds: 1, Newest: now}}})
	if code != exit.Done || !strings.HasPrefix(out, "web is within its RPO.\n") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

func testStatusDoesNotTakeAnotherRepositorysDaemonForItsOwn(t *testing.T) {
	t.Parallel()
	for _, r := range []report.Report{{Host: "web-7", Repository: "s3://other"}, {Host: "other"}} {
		code, out, errs := statusOf(t, r)
		if code != exit.NoRepository || !strings.Contains(errs, "is that of host "+r.Host) {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
	}
	another := []string{"s3://b/p?endpoint=https://s3.example.com&region=eu-1", "s3://b/p/?region=eu-1&endpoint=https://S3.example.com:443&path_style=true"}
	if code, _, errs := statusOf(t, report.Report{Host: "web-7", Repository: another[0]}, "--repo", another[1]); code != exit.Done || errs != "" {
		t.Errorf("another spelling of the URL: exit code %d: %s", code, errs)
	}
	if code, _, errs := statusOf(t, report.Report{Host: "web-7"}, "--no-daemon"); code != exit.NoRepository || strings.Contains(errs, "daemon") {
		t.Errorf("--no-daemon: exit code %d: %s", code, errs)
	}
}

func testAVariableThatTheDaemonAloneHasIsNoFaultOfTheConfiguration(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := report.Report{Host: "web-7", Now: now, Environments: []report.Environment{{Name: "web", RPOSeconds: 60, AgeSeconds: 1, Newest: now}}}
	for _, more := range []string{"notify: {ping: \"${NO_SUCH}\"}", "notify: {webhook: [{url: \"${NO_SUCH}\"}]}"} {
		code, out, errs := statusWith(t, r, more)
		if code != exit.Done || !strings.Contains(errs, "not set here: NO_SUCH ") || !strings.HasPrefix(out, "web is within its RPO.\n") {
			t.Errorf("with %q: exit code %d: %s%s", more, code, out, errs)
		}
		if code, out, errs = statusWith(t, r, more, "--no-daemon"); code != exit.Usage || out != "" || !strings.Contains(errs, "NO_SUCH is not set") {
			t.Errorf("with %q, without the daemon: exit code %d: %s%s", more, code, out, errs)
		}
	}
}

func testStatusOfADaemonIsShownWhateverBecameOfTheConfiguration(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := report.Report{Host: "web-7", Now: now, Environments: []report.Environment{{Name: "web", RPOSeconds: 60, AgeSeconds: 1, Newest: now}}}
	for more, mistake := range map[string]string{
		"shedule: x\n":            `config.yaml:5:1: unknown key "shedule"`,
		"environments: {web: [\n": "config.yaml:5:",
		"notify: {ping: \"ftp://${NO_SUCH}\", repeat: x}": "config.yaml:5:",
	} {
		code, out, errs := statusWith(t, r, more)
		if code != exit.Failed || errs != "" || !strings.HasPrefix(out, "THE CONFIGURATION CANNOT BE USED. ") || !strings.Contains(out, mistake) || !strings.Contains(out, "web is within its RPO.\n") {
			t.Errorf("with %q: exit code %d: %s%s", more, code, out, errs)
		}
		code, out, _ = statusWith(t, r, more, "--json")
		var j struct {
			Level string
			Error string `json:"configuration_error"`
		}
		if err := json.Unmarshal([]byte(out), &j); err != nil || code != exit.Failed || j.Level != "attention" || j.Error == "" {
			t.Errorf("with %q: exit code %d: %v: %s", more, code, err, out)
		}
		if code, out, errs = statusWith(t, r, more, "--no-daemon"); code != exit.Usage || out != "" || !strings.Contains(errs, "config.yaml:5:") {
			t.Errorf("with %q, without the daemon: exit code %d: %s%s", more, code, out, errs)
		}
	}
}
