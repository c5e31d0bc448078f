package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"knowngood/cmd/knowngood/exit"
)

// TestSwitchInterrupted interrupts switches and patches, each while something of it is held:
// what was live is live again, the message has that and the next command, and the same
// command then does it.
func TestSwitchInterrupted(t *testing.T) {
	t.Parallel()
	m, dir := newMachine(t, filepath.Join(t.TempDir(), "repo")), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"app", "host", "built"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, at(name+"/index"), "old")
	}
	// A step that finds a file of its name removes it, and waits.
	write(t, at("step"), "cd $(dirname $0)\nif [ -e $1 ]; then rm $1; sleep 60; fi\n")
	m.env = append(m.env, "KNOWNGOOD_CONFIG="+m.configured(t, `environments:
  app:
    sources: [{path: %[1]s/app}]
    root: %[1]s/app
    hooks: {before: [{command: [sh, %[1]s/step, build]}]}
    switch:
      stop: [{command: [sh, %[1]s/step, stop]}]
      start: [{command: [sh, %[1]s/step, start]}]
      watch: 0s
    drill: {probes: [{command: [sh, %[1]s/step, watch]}]}
  host:
    sources: [{path: %[1]s/host}]
    switch: {watch: 0s}
    drill: {probes: [{command: [sh, %[1]s/step, watch]}]}
  many:
    sources: [{path: %[1]s/built}]
    root: %[1]s/built
    scale: {dir: %[1]s/many, start: [{command: [sh, %[1]s/step, come]}]}
`, dir))
	m.must(t, "snapshot", "app")
	m.must(t, "generations", "app", "--adopt")
	m.must(t, "snapshot", "many")
	m.must(t, "switch", "many", "many@latest", "--unproven")
	m.must(t, "scale", "many", "--to", "1")

	back := `generation \S+ \(.*\) is live again, and \S+ is bad: interrupted %s. To try it anew, run the same command again\n`
	changed := `what the command changed is put back: interrupted %s. To try it anew, run the same command again\n`
	for i, c := range []struct{ step, of, text string }{
		{"build", "app", `interrupted: \S+/app is as before. What was stored is kept; run the same command again to begin anew\n`},
		{"stop", "app", fmt.Sprintf(back, "before it was watched")},
		{"start", "app", fmt.Sprintf(back, "before it was watched")},
		{"watch", "app", fmt.Sprintf(back, "while it was watched")},
		{"run", "host", fmt.Sprintf(changed, "while the command ran")},
		{"watch", "host", fmt.Sprintf(changed, "while it was watched")},
		{"come", "many", `all instances are of many@1 again: interrupted. To try it anew, run the same command again\n`},
	} {
		index := func() string {
			tree := at(c.of)
			if c.of == "many" { // of which there is one, with any number
				files, err := filepath.Glob(at("many/[0-9]/index"))
				if err != nil || len(files) != 1 {
					t.Fatalf("instances %v, %v", files, err)
				}
				tree = filepath.Dir(files[0])
			}
			b, err := os.ReadFile(tree + "/index")
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(b))
		}
		was, now := index(), fmt.Sprint("version ", i)
		write(t, at("built/index"), now)
		args := []string{"switch", "app", "--from", at("built"), "--unproven"}
		switch c.of {
		case "many":
			args = []string{"switch", "many", strings.TrimSpace(m.must(t, "snapshot", "many", "--quiet")), "--unproven"}
		case "host":
			args = []string{"patch", "host", "--no-packages", "--", "sh", "-c", "echo " + now + " >" + at("host/index") + "; sh " + at("step") + " run"}
		}
		write(t, at(c.step), "")
		cmd, wait := m.start(t, args...)
		waitFor(t, c.of+" waits at "+c.step, func() bool { return found(t, at(c.step)) == 0 })
		if err := cmd.Process.Signal([]os.Signal{syscall.SIGINT, syscall.SIGTERM}[i%2]); err != nil {
			t.Fatal(err)
		}
		if text := wait().says(t, exit.Interrupted); !regexp.MustCompile(c.text).MatchString(text) {
			t.Errorf("%s at %s: it says %s", c.of, c.step, text)
		}
		if got := index(); got != was {
			t.Errorf("%s at %s: %q is live, want %q", c.of, c.step, got, was)
		}
		if m.must(t, args...); index() != now {
			t.Errorf("%s at %s: then %q is live, want %q", c.of, c.step, index(), now)
		}
	}
}
