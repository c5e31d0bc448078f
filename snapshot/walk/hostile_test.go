package walk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// openFDs counts the descriptors of this process.
func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	return len(entries)
}

// deep makes a chain of directories, each with a file before and behind the
// next one, and removes it when the test ends.
func deep(t *testing.T, dir string, levels int, name string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() {
		root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(root)
		removeDeep(t, root, name)
	})
	for range levels {
		for _, file := range []string{"a", "z"} {
			f, err := unix.Openat(fd, file, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			must(t, err)
			unix.Close(f)
		}
		must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}

// removeDeep lifts each directory's successor to the top before removing it.
func removeDeep(t *testing.T, root int, name string) {
	const up = "up"
	must(t, unix.Renameat(root, name, root, up))
	for {
		fd, err := unix.Openat(root, up, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		unix.Unlinkat(fd, "a", 0)
		unix.Unlinkat(fd, "z", 0)
		err = unix.Renameat(fd, name, root, "next")
		unix.Close(fd)
		must(t, unix.Unlinkat(root, up, unix.AT_REMOVEDIR))
		if err != nil {
			return
		}
		must(t, unix.Renameat(root, "next", root, up))
	}
}

func TestHostile(t *testing.T) {
	t.Run("a tree of five thousand levels is walked with few descriptors", aTreeOfFiveThousandLevelsIsWalkedWithFewDescriptors)
	t.Run("nodes open their directory after the walk and close it with the last release", nodesOpenTheirDirectoryAfterTheWalkAndCloseItWithTheLastRelease)
	t.Run("a run that forgets its nodes leaves no descriptors for long", aRunThatForgetsItsNodesLeavesNoDescriptorsForLong)
	t.Run("a directory that was replaced is not taken for the one that was walked", aDirectoryThatWasReplacedIsNotTakenForTheOneThatWasWalked)
	t.Run("a tree that changes all the time is walked in order to its end", aTreeThatChangesAllTheTimeIsWalkedInOrderToItsEnd)
	t.Run("mounted file systems are left empty on request", mountedFileSystemsAreLeftEmptyOnRequest)
	t.Run("directories that may not be read are yielded with their error", directoriesThatMayNotBeReadAreYieldedWithTheirError)
}

func aTreeOfFiveThousandLevelsIsWalkedWithFewDescriptors(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "walk") // in memory: making it takes longest
	if err != nil {
		dir = tempDir(t)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const levels = 5000
	deep(t, dir, levels, "level")
	before := openFDs(t)
	nodes, most := 0, 0
	must(t, walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir}}}, func(n *walk.Node) error {
		nodes++
		if n.Err != nil {
			t.Fatalf("a path of %d bytes: %v", len(n.Path), n.Err)
		}
		if nodes%1000 == 0 {
			most = max(most, openFDs(t)-before)
			fd, err := n.Dir.Open()
			if err == nil {
				_, err = posix.StatAt(fd, n.Name)
			}
			must(t, err)
		}
		n.Dir.Release()
		return nil
	}))
	if want := strings.Count(dir, "/") + 1 + 3*levels; nodes != want {
		t.Errorf("%d nodes, not %d", nodes, want)
	}
	if most > 200 {
		t.Errorf("%d descriptors", most)
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors are left open", after-before)
	}
}

func nodesOpenTheirDirectoryAfterTheWalkAndCloseItWithTheLastRelease(t *testing.T) {
	dir := tempDir(t)
	for i := range 300 {
		build(t, dir, fmt.Sprintf("%03d/file", i))
	}
	before := openFDs(t)
	var nodes []*walk.Node
	must(t, walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir}}}, func(n *walk.Node) error {
		nodes = append(nodes, n)
		return nil
	}))
	for _, n := range nodes {
		fd, err := n.Dir.Open()
		must(t, err)
		if n.Stat.Type == manifest.File {
			f, _, err := posix.OpenFile(fd, n.Name)
			must(t, err)
			unix.Close(f)
		}
		n.Dir.Release()
		if _, err := n.Dir.Open(); err == nil {
			t.Fatal("a directory opens after its release")
		}
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors are left open", after-before)
	}
}

func aRunThatForgetsItsNodesLeavesNoDescriptorsForLong(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "a/b/c")
	before := openFDs(t)
	err := walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir}}}, func(n *walk.Node) error { return nil })
	must(t, err)
	for range 100 {
		runtime.GC()
		if openFDs(t) <= before {
			return
		}
	}
	t.Errorf("%d descriptors are left open", openFDs(t)-before)
}

func aDirectoryThatWasReplacedIsNotTakenForTheOneThatWasWalked(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "0/file", "1/file")
	for i := range 2 * posix.DirsLimit {
		build(t, dir, fmt.Sprintf("more/%03d/file", i))
	}
	var kept, others []*walk.Node
	must(t, walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir}}}, func(n *walk.Node) error {
		if n.Name == "file" && len(kept) < 2 {
			kept = append(kept, n)
		} else {
			others = append(others, n)
		}
		return nil
	}))
	for _, n := range others { // more directories than are kept open
		_, err := n.Dir.Open()
		must(t, err)
		n.Dir.Release()
	}
	must(t, os.Rename(dir+"/0", dir+"/old"))
	build(t, dir, "0/file")
	must(t, os.Rename(dir+"/1", dir+"/gone"))
	if _, err := kept[0].Dir.Open(); !errors.Is(err, walk.ErrReplaced) {
		t.Errorf("replaced: %v", err)
	}
	if _, err := kept[1].Dir.Open(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
	for _, n := range kept {
		n.Dir.Release()
	}
}

func aTreeThatChangesAllTheTimeIsWalkedInOrderToItsEnd(t *testing.T) {
	dir := tempDir(t)
	for i := range 60 {
		build(t, dir, fmt.Sprintf("d%02d/e/f", i), fmt.Sprintf("d%02d/g", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			p := fmt.Sprintf("%s/d%02d", dir, i%60)
			switch i % 4 {
			case 0:
				os.RemoveAll(p + "/e")
			case 1:
				os.Rename(p, p+"x")
				os.Symlink("/", p)
			case 2:
				os.Mkdir(p+"/e", 0o755)
			case 3:
				os.Remove(p)
				os.Rename(p+"x", p)
			}
		}
	})
	for range 40 {
		last := ""
		must(t, walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir}}}, func(n *walk.Node) error {
			if n.Path != "" && manifest.Compare(last, n.Path) >= 0 {
				t.Errorf("%q comes after %q", n.Path, last)
			}
			last = n.Path
			if !manifest.Within(n.Path, dir[1:]) && !n.Implied {
				t.Errorf("%q is outside", n.Path)
			}
			if n.Listed == (n.Dir == nil) {
				t.Errorf("%q: listed %v, directory %v", n.Path, n.Listed, n.Dir)
			}
			if n.Dir != nil {
				n.Dir.Release()
			}
			return nil
		}))
	}
	cancel()
	wg.Wait()
}

func mountedFileSystemsAreLeftEmptyOnRequest(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "a/below", "mnt/", "mnt2/", "z", "repo/x")
	if err := unix.Mount("none", dir+"/mnt", "tmpfs", 0, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	defer unix.Unmount(dir+"/mnt", unix.MNT_DETACH)
	build(t, dir, "mnt/in/x", "mnt/y")
	one := walk.Source{Path: dir, OneFileSystem: true}
	expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{one}}),
		"a/", "a/below", "mnt/", "- mnt (on another file system)", "mnt2/", "repo/", "repo/x", "z")
	expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{one, {Path: dir + "/mnt/in"}}}),
		"a/", "a/below", "mnt/", "- mnt (on another file system)", "mnt/in/", "mnt/in/x", "mnt2/", "repo/", "repo/x", "z")

	// A bind mount of what is to be omitted is the same directory.
	must(t, unix.Mount(dir+"/repo", dir+"/mnt2", "", unix.MS_BIND, ""))
	defer unix.Unmount(dir+"/mnt2", unix.MNT_DETACH)
	repo, err := posix.StatAt(unix.AT_FDCWD, dir+"/repo")
	must(t, err)
	expect(t, collect(t, dir, walk.Options{Omit: []posix.DevIno{repo.ID()}, Sources: []walk.Source{{Path: dir}}}),
		"a/", "a/below", "mnt/", "mnt/in/", "mnt/in/x", "mnt/y", "- mnt2 (belongs to knowngood)", "- repo (belongs to knowngood)", "z")
}

// walkDenied is what the child of the next test does, without the rights of
// root: it prints the nodes with an error.
func walkDenied(dir string) int {
	err := walk.Walk(context.Background(), walk.Options{Sources: []walk.Source{{Path: dir}}}, func(n *walk.Node) error {
		if n.Dir != nil {
			n.Dir.Release()
		}
		rel := strings.TrimPrefix("/"+n.Path, dir)
		switch {
		case n.Err != nil:
			fmt.Printf("%s listed=%v denied=%v\n", rel, n.Listed, errors.Is(n.Err, os.ErrPermission))
		case !n.Implied:
			fmt.Println(rel)
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func directoriesThatMayNotBeReadAreYieldedWithTheirError(t *testing.T) {
	dir, err := os.MkdirTemp("", "walk")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	dir, err = filepath.EvalSymlinks(dir)
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	build(t, dir, "closed/x", "names/x", "open/x", "parent/in/x")
	must(t, os.Chmod(dir+"/closed", 0))
	must(t, os.Chmod(dir+"/names", 0o444))
	must(t, os.Chmod(dir+"/parent", 0o111))
	t.Cleanup(func() {
		for _, name := range []string{"closed", "names", "parent"} {
			os.Chmod(filepath.Join(dir, name), 0o755)
		}
	})
	run := func(source string) string {
		exe, err := os.Executable()
		must(t, err)
		cmd := exec.Command(exe)
		if os.Geteuid() == 0 {
			// The test binary may lie where nobody but root can reach it.
			bin := filepath.Join(dir, "open", "walk.test")
			if _, err := os.Stat(bin); err != nil {
				data, err := os.ReadFile(exe)
				must(t, err)
				must(t, os.WriteFile(bin, data, 0o755))
			}
			cmd = exec.Command(bin)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		cmd.Dir, cmd.Env = "/", append(os.Environ(), "WALK_TEST_DENIED="+source)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.ReplaceAll(string(out), "/open/walk.test\n", "")
	}
	want := "\n/closed listed=true denied=true\n/names\n/names/x listed=false denied=true\n/open\n/open/x\n/parent listed=true denied=true\n"
	if got := run(dir); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	// A parent that may be passed, though not read, leads to its source.
	if got := run(dir + "/parent/in"); got != "\n/x\n" {
		t.Errorf("source below an unreadable parent: %s", got)
	}
}
