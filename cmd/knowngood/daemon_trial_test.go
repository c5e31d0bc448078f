package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

func TestDaemonTrial(t *testing.T) {
	t.Parallel()
	t.Run("that is over goes back and is reported until it did", aTrialThatIsOverIsTakenBack)
}

func aTrialThatIsOverIsTakenBack(t *testing.T) {
	t.Parallel()
	m, dir := newMachine(t, filepath.Join(t.TempDir(), "repo")), t.TempDir()
	app, told := filepath.Join(dir, "app"), filepath.Join(dir, "told")
	generations := filepath.Join(dir, ".app.generations")
	if err := os.Mkdir(app, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(app, "index"), "old")
	s := newService(t, m, `environments:
  app:
    sources: [{path: %[1]s}]
    schedule: "@every 1s"
    root: %[1]s
    switch: {watch: 0s, confirm: external}
notify: {command: [sh, -c, "cat >>%[2]s"]}
`, app, told)
	run := func(args ...string) {
		t.Helper()
		if o := s.ask(t, args...); o.code != 0 {
			t.Fatalf("%v: %s%s", args, &o.stdout, &o.stderr)
		}
	}
	run("snapshot", "app")
	run("generations", "app", "--adopt")
	adopted, err := os.Readlink(app)
	if err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(dir, "built")
	if err := os.Mkdir(built, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(built, "index"), "new")
	run("switch", "app", "--from", built, "--unproven", "--discard") // the snapshot began right after index was written

	if o := s.ask(t, "status", "--no-daemon"); !regexp.MustCompile(`(?m)^app has generation 2-\S+ on trial until .*: it goes back then, unless it is committed \(knowngood commit app\)\.$`).MatchString(o.stdout.String()) {
		t.Errorf("status with a trial: %s", &o.stdout)
	}
	// Its deadline has passed, and another process holds the generations.
	state := filepath.Join(generations, "generations.json")
	b, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	over := time.Now().Add(-time.Hour).Format(time.RFC3339)
	b = regexp.MustCompile(`"deadline": ?"[^"]*"`).ReplaceAll(b, []byte(`"deadline":"`+over+`"`))
	if err := os.WriteFile(state, b, 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(generations, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s.up(t)
	s.until(t, "the trial is known", func(r *report.Report) bool {
		return slices.ContainsFunc(r.Warnings, func(w report.Warning) bool {
			return w.Degraded && strings.Contains(w.Text, "Next: knowngood generations app --recover")
		})
	})
	if o := s.ask(t, "status"); !strings.Contains(o.stdout.String(), "DEGRADED") {
		t.Errorf("status: %s", &o.stdout)
	}
	if _, text := s.fetch(t, "GET", "/metrics"); !strings.Contains(text, `knowngood_trial_deadline_timestamp_seconds{environment="app"}`) || !strings.Contains(text, "knowngood_degraded 1") {
		t.Errorf("the metrics: %s", text)
	}
	sent := func(kind notify.Kind, what string) bool {
		return slices.ContainsFunc(messages(t, told), func(m notify.Message) bool { return m.Kind == kind && strings.Contains(m.Text, what) })
	}
	waitFor(t, "a message has it", func() bool { return sent(notify.Degraded, "which was not committed by") })
	waitFor(t, "the log has it", func() bool { return strings.Contains(s.log(t), "on trial, which was not committed by") })

	lock.Close()
	waitFor(t, "it went back", func() bool {
		now, err := os.Readlink(app)
		return err == nil && now == adopted
	})
	waitFor(t, "the recovery is reported", func() bool { return sent(notify.Recovery, "its trial is over") })
	s.stop(t)
	if n := len(slices.DeleteFunc(messages(t, told), func(m notify.Message) bool { return m.Kind != notify.Degraded })); n != 1 {
		t.Errorf("it was reported %d times", n)
	}
}
