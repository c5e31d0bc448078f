package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
	"knowngood/storage/storagetest"
)

// machine runs the program against one repository, with a state directory of
// its own. The zero environment is that of the test.
type machine struct {
	repo, identity, state string
	env                   []string // more of it
}

// newMachine makes a repository at url.
func newMachine(t *testing.T, url string, env ...string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{repo: url, identity: filepath.Join(dir, "identity"), state: filepath.Join(dir, "state"), env: env}
	m.must(t, "init", "--identity-type", "x25519")
	return m
}

// bare is a machine with the URL and the identity, and nothing else.
func (m *machine) bare(t *testing.T) *machine {
	b := *m
	b.state = t.TempDir()
	return &b
}

func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command("knowngood", args...)
	cmd.Env = append(os.Environ(), "KNOWNGOOD_CONFIG=", "KNOWNGOOD_REPO="+m.repo, "KNOWNGOOD_IDENTITY="+m.identity, "KNOWNGOOD_STATE_DIR="+m.state)
	cmd.Env = append(cmd.Env, m.env...)
	return cmd
}

// outcome is what a run of the program left.
type outcome struct {
	args           []string
	stdout, stderr bytes.Buffer
	code           int // -1: killed
}

// patience is how long a run of the program may take.
const patience = 2 * time.Minute

// wait waits for a command that start returned.
type wait func() *outcome

func (m *machine) start(t treetest.T, args ...string) (*exec.Cmd, wait) {
	t.Helper()
	cmd, o := m.command(args...), &outcome{args: args}
	cmd.Stdout, cmd.Stderr = &o.stdout, &o.stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v", err)
	}
	// One that hangs shows what its goroutines do.
	hung := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	return cmd, func() *outcome {
		defer hung.Stop()
		err := cmd.Wait()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			o.stderr.WriteString(err.Error())
		}
		o.code = cmd.ProcessState.ExitCode()
		return o
	}
}

func (m *machine) run(t treetest.T, args ...string) *outcome {
	t.Helper()
	_, wait := m.start(t, args...)
	return wait()
}

// must demands success and returns standard output.
func (m *machine) must(t treetest.T, args ...string) string {
	t.Helper()
	return m.run(t, args...).exits(t, exit.Done)
}

// exits demands an exit code and returns standard output.
func (o *outcome) exits(t treetest.T, code int) string {
	t.Helper()
	if o.code != code {
		t.Fatalf("knowngood %s: exit code %d, want %d\n%s%s", strings.Join(o.args, " "), o.code, code, &o.stdout, &o.stderr)
	}
	return o.stdout.String()
}

// problems are the paths that a run with --json has named as problems.
func (o *outcome) problems(t treetest.T) (paths []string) {
	t.Helper()
	for line := range strings.Lines(o.stdout.String()) {
		p := decode[struct {
			Type, Path string
			Exact      []byte `json:"path_base64"`
		}](t, line)
		switch {
		case p.Type == "problem" && p.Exact != nil:
			paths = append(paths, string(p.Exact))
		case p.Type == "problem":
			paths = append(paths, p.Path)
		}
	}
	return paths
}

var lostList = regexp.MustCompile(`the list of files from ("(?:[^"\\]|\\.)*") (?:on|to before ("(?:[^"\\]|\\.)*")) cannot be read`)

// lostLists are the ranges of paths, each from the first to before the second, "" for
// the end, that a run with --json has named because the list of files in them is lost.
func (o *outcome) lostLists(t treetest.T) (ranges [][2]string) {
	t.Helper()
	for line := range strings.Lines(o.stdout.String()) {
		p := decode[struct{ Type, Error string }](t, line)
		if m := lostList.FindStringSubmatch(p.Error); p.Type == "problem" && m != nil {
			from, err := strconv.Unquote(m[1])
			next := ""
			if err == nil && m[2] != "" {
				next, err = strconv.Unquote(m[2])
			}
			if err != nil {
				t.Fatalf("%q: %v", p.Error, err)
			}
			ranges = append(ranges, [2]string{from, next})
		}
	}
	return ranges
}

// snapshotResult is what snapshot --json prints at its end.
type snapshotResult struct {
	Ref       string `json:"ref"`
	Files     uint64 `json:"files"`
	ReadFiles uint64 `json:"read_files"`
	Bytes     uint64 `json:"bytes"`
	NewBytes  uint64 `json:"new_bytes"`
	Status    string `json:"status"`

	HealedPacks uint64 `json:"healed_packs"`
	HealedBytes uint64 `json:"healed_bytes"`
}

func (m *machine) snapshot(t treetest.T, env string, paths ...string) snapshotResult {
	t.Helper()
	return decode[snapshotResult](t, m.must(t, append([]string{"snapshot", "--json", "--env", env}, paths...)...))
}

// refs are the snapshots that list shows, with flags or without.
func (m *machine) refs(t treetest.T, flags ...string) []string {
	t.Helper()
	list := decode[struct {
		Snapshots []struct{ Ref string }
	}](t, m.must(t, append([]string{"list", "--json"}, flags...)...))
	refs := []string{}
	for _, s := range list.Snapshots {
		refs = append(refs, s.Ref)
	}
	return refs
}

// decode reads the last line of what --json printed.
func decode[T any](t treetest.T, stdout string) (v T) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &v); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	return v
}

// onStores runs a test on a directory and on a real S3 server.
func onStores(t *testing.T, test func(t *testing.T, m *machine)) {
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		test(t, newMachine(t, filepath.Join(t.TempDir(), "repo")))
	})
	t.Run("versitygw", func(t *testing.T) {
		t.Parallel()
		server := storagetest.VersityGW(t)
		server.Bucket(t, "backups", storagetest.VersionedBucket)
		test(t, newMachine(t, server.URL("backups", "prod"), server.Env(t)...))
	})
}

// slow reports whether the long tests are wanted.
func slow() bool { return os.Getenv("KNOWNGOOD_SLOW") != "" }

func TestSlow(t *testing.T) {
	if !slow() {
		t.Skip("KNOWNGOOD_SLOW=1 runs it")
	}
	t.Run("hooks that hang do not hold a daemon that is stopped", testHooksThatHangDoNotHoldADaemonThatIsStopped)
	t.Run("real services are probed, and each fault is named", testRealServicesAreProbedAndEachFaultIsNamed)
	t.Run("the host policy allows nothing that a host does not need", testTheHostPolicyAllowsNothingThatAHostDoesNotNeed)
}
