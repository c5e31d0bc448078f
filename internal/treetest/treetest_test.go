package treetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestTree(t *testing.T) {
	t.Run("a seed makes the same tree twice", testASeedMakesTheSameTreeTwice)
	t.Run("seeds make different trees", testSeedsMakeDifferentTrees)
	t.Run("a tree has every part", testATreeHasEveryPart)
	t.Run("parts can be left out", testPartsCanBeLeftOut)
	t.Run("a copy by cp is equal", testACopyByCpIsEqual)
	t.Run("every edit succeeds and is seen", testEveryEditSucceedsAndIsSeen)
	t.Run("an empty directory can be mutated", testAnEmptyDirectoryCanBeMutated)
	t.Run("rapid draws trees", testRapidDrawsTrees)
	t.Run("removal leaves nothing", testRemovalLeavesNothing)
	t.Run("users without rights have trees too", testUsersWithoutRightsHaveTreesToo)
	t.Run("directories that forbid it are removed", testDirectoriesThatForbidItAreRemoved)
	t.Run("equal reports path and kind", testEqualReportsPathAndKind)
}

func testASeedMakesTheSameTreeTwice(t *testing.T) {
	for seed := range uint64(2) {
		a, b := TempDir(t), TempDir(t)
		report := Generate(t, a, Seed(seed), Shape{})
		Generate(t, b, Seed(seed), Shape{})
		Equal(t, a, b, Options{Holes: true})
		t.Logf("seed %d: %v", seed, report)
	}
}

func testSeedsMakeDifferentTrees(t *testing.T) {
	a, b := TempDir(t), TempDir(t)
	Generate(t, a, Seed(1), Shape{LargeDir: 10})
	Generate(t, b, Seed(2), Shape{LargeDir: 10})
	if len(Compare(t, a, b, Options{})) == 0 {
		t.Error("two seeds made equal trees")
	}
}

func testATreeHasEveryPart(t *testing.T) {
	dir := TempDir(t)
	report := Generate(t, dir, Seed(1), Shape{Nodes: 300})
	found := make(map[string]bool)
	inodes := make(map[inode]int)
	for path, n := range Snapshot(t, dir) {
		found[n.Type.String()] = true
		found["deep path"] = found["deep path"] || len(path) > unix.PathMax
		found["hole"] = found["hole"] || len(n.Holes) > 0
		found["before 1970"] = found["before 1970"] || n.Mtime.Unix() < 0
		found["after 2038"] = found["after 2038"] || n.Mtime.Unix() > 1<<31
		found["nanoseconds"] = found["nanoseconds"] || n.Mtime.Nanosecond()%1000 != 0
		found["setuid"] = found["setuid"] || n.Mode&0o4000 != 0
		found["no rights"] = found["no rights"] || n.Mode == 0 && n.Type != unix.S_IFLNK
		found["owner"] = found["owner"] || int(n.UID) != os.Geteuid()
		for name := range n.Xattrs {
			class, _, _ := strings.Cut(name, ".")
			found[class] = true
			found[name] = true
		}
		if n.Type != unix.S_IFDIR {
			if inodes[n.inode]++; inodes[n.inode] > 1 {
				found["linked "+n.Type.String()] = true
			}
		}
	}
	// What the machine refuses may be missing, and nothing else.
	for want, part := range map[string]Part{
		"file": "", "directory": "", "symlink": Symlinks, "fifo": Fifos, "socket": Sockets,
		"deep path": DeepPaths, "hole": SparseFiles, "linked file": HardLinks, "user": UserXattrs,
		"before 1970": OddTimes, "after 2038": OddTimes, "nanoseconds": OddTimes, "setuid": OddModes,
		"system.posix_acl_access": ACLs, "system.posix_acl_default": ACLs,
		"character device": CharDevices, "block device": BlockDevices, "linked symlink": HardLinks,
		"no rights": OddModes, "owner": Owners, "trusted": RootXattrs, "security.capability": Capabilities,
	} {
		if !found[want] && report.Refused[part] == 0 {
			t.Errorf("there is no %s in the tree", want)
		}
	}
	t.Log(report)
}

func testPartsCanBeLeftOut(t *testing.T) {
	dir := TempDir(t)
	report := Generate(t, dir, Seed(3), Shape{LargeDir: 3, Without: []Part{SparseFiles, Symlinks, Fifos, Sockets, CharDevices,
		BlockDevices, HardLinks, DeepPaths, OddNames, OddModes, Owners, UserXattrs, RootXattrs, ACLs, Capabilities, OddTimes}})
	for path, n := range Snapshot(t, dir) {
		if n.Type != unix.S_IFREG && n.Type != unix.S_IFDIR || len(n.Xattrs) > 0 || n.Mtime.Unix() < 1e9 || n.Mode&0o7022 != 0 || int(n.UID) != os.Geteuid() {
			t.Errorf("%q is odd: %+v", path, *n)
		}
	}
	if len(report.Refused) > 0 {
		t.Errorf("refused: %v", report)
	}
}

// cp is a witness from outside for what a faithful copy is.
func testACopyByCpIsEqual(t *testing.T) {
	cp, err := exec.LookPath("cp")
	if err != nil {
		t.Skip("no cp on this machine")
	}
	a, b := TempDir(t), TempDir(t)
	Generate(t, a, Seed(4), Shape{Without: []Part{DeepPaths}})
	if out, err := exec.Command(cp, "-a", "--sparse=auto", a+"/.", b).CombinedOutput(); err != nil {
		t.Skipf("cp -a: %v: %s", err, out)
	}
	Equal(t, a, b, Options{HoleSlack: 64 << 10})
}

func testEveryEditSucceedsAndIsSeen(t *testing.T) {
	shape := Shape{Nodes: 30, MaxFile: 100_000, LargeDir: 5}
	edits := make(map[string]int)
	for seed := range uint64(6) {
		dir := TempDir(t)
		Generate(t, dir, Seed(seed), shape)
		before := Snapshot(t, dir)
		for _, what := range Mutate(t, dir, Seed(seed), 60, shape) {
			kind, _, _ := strings.Cut(what, ` "`)
			edits[kind]++
		}
		if len(before.Compare(Snapshot(t, dir), Options{})) == 0 {
			t.Errorf("seed %d: nothing has changed", seed)
		}
	}
	if len(edits) != 16 {
		t.Errorf("%d kinds of edits in 360, want 16: %v", len(edits), edits)
	}
}

func testAnEmptyDirectoryCanBeMutated(t *testing.T) {
	dir := TempDir(t)
	Mutate(t, dir, Seed(1), 30, Shape{MaxFile: 10_000})
	if len(Snapshot(t, dir)) < 2 {
		t.Error("thirty edits left the directory empty")
	}
}

func testRapidDrawsTrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := TempDir(t)
		shape := Shape{Nodes: 6, MaxFile: 20_000, LargeDir: 3, Without: []Part{DeepPaths}}
		Generate(t, dir, Rapid(t), shape)
		before := Snapshot(t, dir)
		before.Equal(t, dir, Options{Holes: true})
		Mutate(t, dir, Rapid(t), 5, shape)
		Snapshot(t, dir)
	})
}

func testRemovalLeavesNothing(t *testing.T) {
	parent := TempDir(t)
	dir := filepath.Join(parent, "tree")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	Generate(t, dir, Seed(5), Shape{})
	if err := Remove(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tree is still there: %v", err)
	}
	if err := Remove(dir); err != nil {
		t.Errorf("removing what does not exist: %v", err)
	}
}

// As another user everything but what needs root must work, and directories
// that forbid it must be removed. The test runs itself as nobody.
func testUsersWithoutRightsHaveTreesToo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("all tests run without rights already")
	}
	dir := TempDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "self")
	copyFile(t, self)
	cmd := exec.Command(self, "-test.run", "TestTree/^(a_tree_has|every_edit|removal|directories_that_forbid)", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
	if n := bytes.Count(out, []byte("    --- PASS: TestTree/")); n < 4 {
		t.Errorf("%d tests ran as nobody, want 4:\n%s", n, out)
	}
	if !bytes.Contains(out, []byte("owners refused")) {
		t.Errorf("the right to chown was not missed:\n%s", out)
	}
	left, err := filepath.Glob(filepath.Join(dir, "treetest-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func copyFile(t *testing.T, to string) {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, from); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func testDirectoriesThatForbidItAreRemoved(t *testing.T) {
	dir := TempDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "closed", "inner"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"closed/inner", "closed"} {
		if err := os.Chmod(filepath.Join(dir, d), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// recorder is a T that remembers errors.
type recorder struct {
	T
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func testEqualReportsPathAndKind(t *testing.T) {
	a, b := TempDir(t), TempDir(t)
	for _, dir := range []string{a, b} {
		Generate(t, dir, Seed(6), Shape{Nodes: -1, LargeDir: 1, Without: []Part{OddNames}})
	}
	if err := os.WriteFile(filepath.Join(b, "stranger"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &recorder{T: t}
	Equal(r, a, b, Options{IgnoreRoot: true})
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], `"stranger": extra: want nothing, got file`) {
		t.Errorf("reported %q", slices.Clone(r.errors))
	}
}
