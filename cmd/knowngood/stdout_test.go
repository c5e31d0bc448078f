package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
	"knowngood/storage/identity"
)

// invocation is a run of a command that succeeds and prints something.
type invocation struct {
	command string // its path, without the name of the program
	args    []string
}

// invocations are runs of all commands that print, each possible after those
// before it, in a new world below dir.
func invocations(t *testing.T, dir string) []invocation {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	key, err := identity.Generate(identity.X25519)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.Mkdir(at("src"), 0o755),
		os.WriteFile(at("src/file"), []byte("content"), 0o644),
		os.Mkdir(at("empty"), 0o755),
		os.Mkdir(at("app"), 0o755),
		os.WriteFile(at("app/file"), []byte("content"), 0o644),
		os.WriteFile(at("config.yaml"), fmt.Appendf(nil, "notify: {command: [\"true\"]}\nenvironments: {bare: {sources: [{path: %q, require: not_empty}], scale: {dir: %q}}, app: {sources: [{path: %q}], root: %[3]q, switch: {watch: 1s}}}\n", at("empty"), at("instances"), at("app")), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	file := "web:" + at("src/file")
	return []invocation{
		{"", nil},
		{"version", nil},
		{"help", nil},
		{"completion bash", nil},
		{"completion zsh", nil},
		{"completion fish", nil},
		{"completion powershell", nil},
		{"config", nil},
		{"config check", []string{at("config.yaml")}},
		{"config show", nil},
		{"config test-notify", []string{"--config", at("config.yaml")}},
		{"quickstart", []string{"--state-dir", at("trial"), at("src")}},
		{"init", []string{"--repo", at("other"), "--identity", at("other-id"), "--state-dir", at("other-state"), "--identity-type", "x25519"}},
		{"init", []string{"--join", "--trust-on-first-use", "--request", at("request"), "--unprotected", "--host", "second", "--state-dir", at("second")}},
		{"probe", nil},
		{"keys", nil},
		{"keys grant", []string{at("request")}},
		{"keys list", nil},
		{"keys add", []string{key.Recipient}},
		{"keys remove", []string{key.Recipient}},
		{"snapshot", []string{"--env", "web", at("src")}},
		{"snapshot", []string{"--env", "web", at("src")}},
		{"list", nil},
		{"status", nil},
		{"show", []string{"web"}},
		{"stats", nil},
		{"ls", []string{"web:" + at("src")}},
		{"cat", []string{file}},
		{"find", []string{"web", "file"}},
		{"find-good", []string{"web", "--probe", "true"}},
		{"timeline", []string{"web"}},
		{"diff", []string{"web"}},
		{"diff", []string{"web@1", "web@2"}},
		{"drift", []string{"web@1", "web@2"}},
		{"restore", []string{"web", "--target", at("out"), "--dry-run"}},
		{"restore", []string{"web", "--target", at("out")}},
		{"drill", []string{"web"}},
		{"drill list", []string{"web"}},
		{"attest", nil},
		{"attest key", nil},
		{"attest show", []string{"web@2"}},
		{"attest verify", []string{"web@2"}},
		{"attest export", []string{"web@2"}},
		{"attest bad", []string{"web@2", "--reason", "wrong"}},
		{"snapshot", []string{"app", "--config", at("config.yaml")}},
		{"generations", []string{"app", "--config", at("config.yaml"), "--adopt"}},
		{"generations", []string{"app", "--config", at("config.yaml")}},
		{"patch", []string{"app", "--config", at("config.yaml"), "--dry-run", "--", "true"}},
		{"switch", []string{"app", "app@1", "--config", at("config.yaml"), "--unproven"}},
		{"rollback", []string{"app", "--config", at("config.yaml")}},
		{"spawn", []string{"web@1", "--count", "1", "--dir", at("trees")}},
		{"spawn", []string{"--dir", at("trees"), "--remove"}},
		{"scale", []string{"bare", "--config", at("config.yaml"), "--to", "0"}},
		{"check", nil},
		{"snapshot", []string{"bare", "--config", at("config.yaml")}},
		{"accept", []string{"bare@1"}},
		{"forget", []string{"web@1"}},
		{"forget", []string{"--env", "web", "--keep-last", "1"}},
		{"prune", []string{"--dry-run"}},
		{"prune", nil},
	}
}

// silent are the commands that print nothing on standard output.
// commit prints, and needs a switch that waits for it meanwhile.
var silent = []string{"daemon", "outside", "man", "internal", "internal capture", "cell", "commit"}

func TestStdout(t *testing.T) {
	t.Parallel()
	t.Run("output that is lost", testOutputThatIsLost)
}

func testOutputThatIsLost(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("there is no /dev/full")
	}

	for _, mode := range []struct{ name, flag string }{{"text", "--quiet"}, {"json", "--json"}} {
		t.Run("makes every command exit 1, as "+mode.name, func(t *testing.T) {
			t.Parallel()
			good, bad := newMachine(t, filepath.Join(t.TempDir(), "repo")), newMachine(t, filepath.Join(t.TempDir(), "repo"))
			goodRuns, badRuns := invocations(t, t.TempDir()), invocations(t, t.TempDir())
			for i, run := range goodRuns {
				args := append(strings.Fields(run.command), run.args...)
				o := good.run(t, append(args, mode.flag)...)
				if o.code != exit.Incomplete { // of a suspect snapshot
					o.exits(t, exit.Done)
				}
				if o.stdout.Len() == 0 {
					t.Errorf("knowngood %s prints nothing", run.command)
				}
				failsOnFull(t, bad, append(append(strings.Fields(run.command), badRuns[i].args...), mode.flag)...)
			}
		})
	}
	t.Run("makes the help of every command exit 1", func(t *testing.T) {
		t.Parallel()
		m := &machine{state: t.TempDir()}
		for _, path := range commandPaths(t) {
			failsOnFull(t, m, append(strings.Fields(path), "--help")...)
		}
	})
	t.Run("is tried with every command", func(t *testing.T) {
		t.Parallel()
		tried := slices.Clone(silent)
		for _, run := range invocations(t, t.TempDir()) {
			tried = append(tried, run.command)
		}
		for _, path := range commandPaths(t) {
			if !slices.Contains(tried, path) && path != "completion" {
				t.Errorf("knowngood %s is not tried: add it to invocations", path)
			}
		}
	})
	t.Run("leaves the exit code of a command that failed by itself", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
		if o := onFull(t, m, "show", "web", "--repo", filepath.Join(t.TempDir(), "none"), "--json"); o.code != exit.NoRepository {
			t.Errorf("exit code %d, want %d: %s", o.code, exit.NoRepository, &o.stderr)
		}
	})
}

// commandPaths are the commands of the program, by their names after its own.
func commandPaths(t *testing.T) (paths []string) {
	t.Helper()
	root := newRoot(session.New(console.New(io.Discard, io.Discard), version))
	root.SetOut(&bytes.Buffer{})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		paths = append(paths, strings.TrimSpace(strings.TrimPrefix(cmd.CommandPath(), root.Name())))
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
	if len(paths) < 20 {
		t.Fatalf("found %d commands alone: %q", len(paths), paths)
	}
	return paths
}

func onFull(t *testing.T, m *machine, args ...string) *outcome {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd, o := m.command(args...), &outcome{args: args}
	cmd.Stdout, cmd.Stderr = full, &o.stderr
	_ = cmd.Run()
	o.code = cmd.ProcessState.ExitCode()
	return o
}

// failsOnFull demands that a command reports that its output is lost, once.
func failsOnFull(t *testing.T, m *machine, args ...string) {
	t.Helper()
	o := onFull(t, m, args...)
	if n := strings.Count(o.stderr.String(), "knowngood: write the output: "); o.code != exit.Failed || n != 1 {
		t.Errorf("knowngood %s >/dev/full: exit code %d and %d reports of it:\n%s", strings.Join(args, " "), o.code, n, &o.stderr)
	}
}
