package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/cmd/knowngood/exit"
	"knowngood/storage/stores"
)

// somebody is the user of a daemon whose state directory root works in by hand.
const somebody = 65534

// stateDirectory is the state directory of somebody's daemon with all that a
// daemon and commands leave there, and copies of it that are root's.
type stateDirectory struct {
	machine
	base, source string
}

// newStateDirectory has root make everything by hand: a repository, snapshots,
// what is forgotten and pruned, and runs of a daemon.
func newStateDirectory(t *testing.T) *stateDirectory {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("root works by hand in the directory of somebody else")
	}
	base := t.TempDir()
	w := &stateDirectory{machine{repo: filepath.Join(base, "repo"), identity: filepath.Join(base, "identity"), state: filepath.Join(base, "state")}, base, filepath.Join(base, "source")}
	for _, err := range []error{os.Mkdir(w.state, 0o700), os.Chown(w.state, somebody, somebody), os.Mkdir(w.source, 0o700), os.WriteFile(filepath.Join(w.source, "file"), []byte("content"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.must(t, "init", "--identity-type", "x25519", "--host", "h")
	for range 3 {
		w.must(t, "snapshot", "--host", "h", "--env", "web", w.source)
	}
	w.must(t, "forget", "web@1", "--host", "h")
	w.must(t, "prune", "--host", "h")

	s := newService(t, &w.machine, "host: h\nenvironments: {web: {schedule: '@every 1s', sources: [{path: %q}]}}\n", w.source)
	s.up(t)
	s.captured(t, "web", 1)
	s.stop(t)
	return w
}

// node is what somebody must not be able to change.
type node struct {
	mode     fs.FileMode
	uid, gid uint32
	content  string
}

// nodes are all nodes below a directory.
func nodes(t *testing.T, dir string) map[string]node {
	t.Helper()
	all := map[string]node{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		n := node{mode: info.Mode(), uid: st.Uid, gid: st.Gid}
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			n.content = string(b)
		}
		all[strings.TrimPrefix(path, dir+"/")] = n
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// placeHash is the name of what is kept about the repository at a URL.
func placeHash(url string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(stores.Place(url))))[:32]
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// plants are what somebody may put in the place of a file or directory, given
// one of root's that has the same content.
var plants = map[string]func(at, roots string) error{
	"a symbolic link": os.Symlink,
	"a hard link":     os.Link,
	"a named pipe": func(_, at string) error {
		return errors.Join(unix.Mkfifo(at, 0o600), os.Chown(at, somebody, somebody))
	},
	"a directory": func(_, at string) error {
		return errors.Join(os.Mkdir(at, 0o700), os.Chown(at, somebody, somebody))
	},
}

// morePlants are for slow tests.
var morePlants = map[string]func(roots, at string) error{
	"a file": func(_, at string) error {
		return errors.Join(os.WriteFile(at, []byte("x"), 0o600), os.Chown(at, somebody, somebody))
	},
	"a link to a pipe": func(_, at string) error {
		pipe := at + ".pipe"
		return errors.Join(unix.Mkfifo(pipe, 0o600), os.Chown(pipe, somebody, somebody), os.Symlink(filepath.Base(pipe), at))
	},
}

// byHand are the commands that root gives.
func (w *stateDirectory) byHand() [][]string {
	commands := [][]string{{"snapshot", "--host", "h", "--env", "web", w.source}}
	if slow() {
		commands = append(commands, []string{"list"}, []string{"check"}, []string{"forget", "web@2", "--host", "h"}, []string{"prune", "--host", "h"}, []string{"init", "--join", "--reenrol", "--host", "h"})
	}
	return commands
}

func TestStateDir(t *testing.T) {
	t.Parallel()
	t.Run("root in another's state directory is led nowhere", testRootInAnothersStateDirectoryIsLedNowhere)
	t.Run("root in another's state directory wins every race", testRootInAnothersStateDirectoryWinsEveryRace)
}

// testRootInAnothersStateDirectoryIsLedNowhere replaces each file and directory
// by each plant. Root's copies keep owner, mode and content, nothing hangs, and
// what fails names the place.
func testRootInAnothersStateDirectoryIsLedNowhere(t *testing.T) {
	t.Parallel()
	w := newStateDirectory(t)
	var paths []string
	for path, n := range nodes(t, w.state) {
		if n.uid != somebody || n.gid != somebody {
			t.Errorf("%s, made by root by hand, belongs to %d:%d", path, n.uid, n.gid)
		}
		if path != w.state {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, kind := range []string{"pins/", "host.key", "heads/h/web", "env/web/manifest", ".run", "inventory/", "daemon/locks/web", "daemon/jobs/env-web.state", "daemon/jobs/env-web.runs", "daemon/told.state", "/lock"} {
		if !slices.ContainsFunc(paths, func(p string) bool { return strings.Contains(p, kind) }) {
			t.Errorf("no %s among %s", kind, paths)
		}
	}

	if slow() {
		maps.Copy(plants, morePlants)
	}
	random := rand.New(rand.NewPCG(chosenSeed(t), 0))
	for _, path := range paths {
		for _, name := range slices.Sorted(maps.Keys(plants)) {
			plant := plants[name]
			if !slow() && random.IntN(2) == 0 {
				continue // half of them where there is no time for all
			}
			t.Run(path+" is "+name, func(t *testing.T) {
				t.Parallel()
				w.planted(t, path, name, plant)
			})
		}
	}
}

func (w *stateDirectory) planted(t *testing.T, path, name string, plant func(roots, at string) error) {
	t.Helper()
	dir := t.TempDir()
	m := w.machine
	m.state = filepath.Join(dir, "state")
	roots := filepath.Join(dir, "roots")
	copyTree(t, w.state, m.state)
	copyTree(t, w.state, roots)
	m.repo = filepath.Join(dir, "repo")
	copyTree(t, w.repo, m.repo)
	// The state is that of a repository at another place.
	was, is := placeHash(w.repo), placeHash(m.repo)
	for _, base := range []string{m.state, roots} {
		stores, err := filepath.Glob(filepath.Join(base, "repos", "*", "stores"))
		if err != nil || len(stores) != 1 {
			t.Fatalf("%v, %v", stores, err)
		}
		if err := errors.Join(os.Rename(filepath.Join(base, "pins", was), filepath.Join(base, "pins", is)), os.Rename(filepath.Join(stores[0], was), filepath.Join(stores[0], is))); err != nil {
			t.Fatal(err)
		}
	}
	path = strings.ReplaceAll(path, was, is)
	if out, err := exec.Command("chown", "-R", "root:root", roots).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	at, rootsOwn := filepath.Join(m.state, path), filepath.Join(roots, path)
	info, err := os.Lstat(at)
	if err != nil {
		t.Fatal(err)
	}
	if info.IsDir() && name == "a hard link" {
		return // there are none of directories
	}
	if err := errors.Join(os.RemoveAll(at), plant(rootsOwn, at)); err != nil {
		t.Fatal(err)
	}
	if link, err := os.Lstat(at); err == nil && link.Mode()&fs.ModeSymlink != 0 {
		if err := os.Lchown(at, somebody, somebody); err != nil {
			t.Fatal(err)
		}
	}
	before := nodes(t, roots)

	for _, command := range w.byHand() {
		o := m.run(t, command...)
		if o.code < 0 || bytes.Contains(o.stderr.Bytes(), []byte("SIGQUIT")) || bytes.Contains(o.stderr.Bytes(), []byte("panic")) {
			t.Fatalf("knowngood %s: exit code %d\n%s", command, o.code, &o.stderr)
		}
		if text := o.stderr.String(); o.code == exit.Failed && !strings.Contains(text, at) {
			t.Errorf("knowngood %s failed and does not name %s:\n%s", command, at, text)
		}
	}
	after := nodes(t, roots)
	for p, n := range before {
		if after[p] != n {
			t.Errorf("root's %s was %v of %d:%d, and is %v of %d:%d; same content: %v", p, n.mode, n.uid, n.gid, after[p].mode, after[p].uid, after[p].gid, n.content == after[p].content)
		}
	}
	if len(after) != len(before) {
		t.Errorf("root's directory had %d nodes, and has %d", len(before), len(after))
	}
}

// testRootInAnothersStateDirectoryWinsEveryRace has somebody swap files and
// links while root takes snapshots.
func testRootInAnothersStateDirectoryWinsEveryRace(t *testing.T) {
	t.Parallel()
	w := newStateDirectory(t)
	victim := filepath.Join(w.base, "victim")
	if err := errors.Join(os.Mkdir(victim, 0o700), os.WriteFile(filepath.Join(victim, "web"), []byte("root's"), 0o600), os.WriteFile(filepath.Join(victim, "manifest"), []byte("root's"), 0o600), os.Chmod(w.base, 0o755)); err != nil {
		t.Fatal(err)
	}
	repo, err := filepath.Glob(filepath.Join(w.state, "repos", "*"))
	if err != nil || len(repo) != 1 {
		t.Fatalf("%v, %v", repo, err)
	}
	before := nodes(t, victim)

	script := fmt.Sprintf(`while :; do
		for d in %[1]s/heads/h %[1]s/env/web %[2]s/daemon/locks; do
			mv $d $d.away; ln -s %[3]s $d; rm $d; mkdir $d; ln -s %[3]s/web $d/web; rm -r $d; mv $d.away $d
		done
	done`, repo[0], w.state, victim)
	attack := exec.Command("sh", "-c", script)
	attack.Dir = "/"
	attack.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: somebody, Gid: somebody}, Pdeathsig: syscall.SIGKILL}
	if err := attack.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = attack.Wait() }()
	runs := 10
	if slow() {
		runs = 200
	}
	for range runs {
		if o := w.run(t, "snapshot", "--host", "h", "--env", "web", w.source); o.code < 0 || bytes.Contains(o.stderr.Bytes(), []byte("SIGQUIT")) {
			t.Errorf("exit code %d\n%s", o.code, &o.stderr)
		}
	}
	select {
	case <-ended:
		t.Error("the attack ended early")
	default:
	}
	_ = attack.Process.Kill()
	<-ended
	for p, n := range nodes(t, victim) {
		if before[p] != n {
			t.Errorf("root's %s is now %v of %d:%d, %q", p, n.mode, n.uid, n.gid, n.content)
		}
	}
}
