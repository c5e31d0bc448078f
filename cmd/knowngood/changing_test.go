package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
)

// history is what a tree was while it was captured: before the first change,
// between them, and after the last.
type states []treetest.Tree

// moments that a path had, in their order; nil where it did not exist. Those
// of the same inode under other names follow: a directory may be renamed when
// it is open already.
func (h states) moments(path string) (all []*treetest.Node) {
	for _, tree := range h {
		all = append(all, tree[path])
	}
	for _, tree := range h {
		for _, n := range tree {
			if slices.ContainsFunc(all[:len(h)], func(was *treetest.Node) bool { return sameInode(was, n) }) {
				all = append(all, n)
			}
		}
	}
	return all
}

// still reports whether nothing happened to the inode at path.
func (h states) still(path string) bool {
	return !slices.ContainsFunc(h, func(tree treetest.Tree) bool {
		return !sameInode(h[0][path], tree[path]) || !h[0][path].Ctime.Equal(tree[path].Ctime)
	})
}

// inPlace reports whether a path led to its directory all the time.
func (h states) inPlace(path string) bool {
	for dir := filepath.Dir("/" + path); dir != "/"; dir = filepath.Dir(dir) {
		for _, tree := range h[1:] {
			if !sameInode(h[0][dir[1:]], tree[dir[1:]]) {
				return false
			}
		}
	}
	return true
}

func sameInode(a, b *treetest.Node) bool { return a != nil && b != nil && a.Linked(b) }

// linked reports whether two paths were names of one inode, be it at different
// moments: a directory that is renamed may be captured twice.
func (h states) linked(a, b string) bool {
	return slices.ContainsFunc(h, func(tree treetest.Tree) bool {
		return slices.ContainsFunc(h, func(other treetest.Tree) bool { return sameInode(tree[a], other[b]) })
	})
}

// named reports whether an inode had the same names all the time.
func (h states) named(names []string) bool {
	return !slices.ContainsFunc(h, func(tree treetest.Tree) bool { return !slices.Equal(namesOf(tree, names[0]), names) })
}

// namesOf the inode that is at path.
func namesOf(tree treetest.Tree, path string) (names []string) {
	for _, other := range slices.Sorted(maps.Keys(tree)) {
		if sameInode(tree[path], tree[other]) {
			names = append(names, other)
		}
	}
	return names
}

// sameNode reports whether two nodes are equal in all that a restore gives back.
func sameNode(a, b *treetest.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Type == b.Type && a.Type.String() != "file" {
		return a.Target == b.Target
	}
	return len(treetest.Tree{"node": a}.Compare(treetest.Tree{"node": b}, compareOptions())) == 0
}

func compareOptions() treetest.Options {
	return treetest.Options{IgnoreOwners: os.Geteuid() != 0}
}

// captured demands that got, which was restored from a snapshot of a tree with
// this states, has each node as it was at one moment, and what stood still as
// it is. named are the paths of which it was reported what became of them.
func (h states) captured(t treetest.T, got treetest.Tree, named []string) {
	t.Helper()
	paths := maps.Clone(got)
	for _, tree := range h {
		maps.Copy(paths, tree)
	}
	told := func(path string) bool {
		return slices.ContainsFunc(named, func(n string) bool {
			return n == path || strings.HasPrefix(path, n+"/") || sameInode(got[path], got[n])
		})
	}
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		moments := h.moments(path)
		if h.still(path) && h.inPlace(path) && !sameNode(h[0][path], got[path]) {
			t.Errorf("%q stood still, and came back as another: %s", path, h.describe(path, got))
			continue
		}
		if !told(path) && !slices.ContainsFunc(moments, func(n *treetest.Node) bool { return sameNode(n, got[path]) }) {
			t.Errorf("%q came back as it never was, and nobody was told: %s", path, h.describe(path, got))
		}
		names := namesOf(h[0], path)
		if !h.still(path) || !h.named(names) || got[path] == nil {
			continue
		}
		for _, other := range names {
			if got[other] != nil && !got[path].Linked(got[other]) {
				t.Errorf("%q and %q are two nodes, and were one %v all the time", path, other, h[0][path].Type)
			}
		}
	}
	for _, a := range slices.Sorted(maps.Keys(got)) {
		for b := range got {
			if a < b && got[a].Linked(got[b]) && !h.linked(a, b) {
				t.Errorf("%q and %q are one file, and never were", a, b)
			}
		}
	}
}

// describe returns what a path was and what came of it.
func (h states) describe(path string, got treetest.Tree) string {
	if got[path] == nil {
		return "it is missing"
	}
	var all []string
	for i, n := range h.moments(path) {
		if n == nil {
			all = append(all, fmt.Sprintf("moment %d: it did not exist", i))
			continue
		}
		for _, d := range (treetest.Tree{path: n}).Compare(treetest.Tree{path: got[path]}, compareOptions()) {
			all = append(all, fmt.Sprintf("moment %d: %v", i, d))
		}
	}
	return strings.Join(all, "; ")
}

// edit of a tree while it is captured.
type edit struct {
	after int  // so many system calls on it after the edit before
	here  bool // of the node that the next call is about, else of a random one
	seed  uint64
}

func TestChanging(t *testing.T) {
	t.Run("trees that change while they are captured", testTreesThatChangeWhileTheyAreCaptured)
}

// A tree changes before any system call by which a capture looks at it. What
// stood still comes back as it is, everything else as it was at one moment, or
// its name is printed; and the next snapshot has all of it.
func testTreesThatChangeWhileTheyAreCaptured(t *testing.T) {
	needSupervision(t)
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		src := treetest.TempDir(rt)
		shape := treetest.Shape{Nodes: rapid.IntRange(0, 20).Draw(rt, "nodes"), MaxFile: 64 << 10, LargeDir: 10,
			Without: []treetest.Part{treetest.OddNames, treetest.DeepPaths, treetest.CharDevices, treetest.BlockDevices}}
		treetest.Generate(rt, src, treetest.Seed(rapid.Uint64().Draw(rt, "tree")), shape)
		linkSome(rt, src)
		edits := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) edit {
			return edit{rapid.IntRange(0, 100).Draw(rt, "after"), rapid.Bool().Draw(rt, "here"), rapid.Uint64().Draw(rt, "seed")}
		}), 1, 6).Draw(rt, "edits")

		env, calls, since := fmt.Sprint("e", runs), 0, 0
		h := states{treetest.Snapshot(rt, src)}
		o := m.supervise(rt, src, func(c call) bool {
			for ; len(edits) > 0 && edits[0].after <= since; edits = edits[1:] {
				since = 0
				path := ""
				if edits[0].here {
					path = strings.TrimPrefix(strings.TrimPrefix(c.path, src), "/")
				}
				what := treetest.MutateAt(rt, src, path, treetest.Seed(edits[0].seed), shape)
				rt.Logf("before call %d, %s %q: %s", calls, c.name, c.path, what)
				h = append(h, treetest.Snapshot(rt, src))
			}
			calls, since = calls+1, since+1
			return true
		}, "snapshot", "--json", "--env", env, src)
		if o.code != exit.Incomplete {
			o.exits(rt, exit.Done)
		}
		rt.Logf("%d calls, exit code %d\n%s", calls, o.code, &o.stderr)
		m.must(rt, "check", "--read-data")
		got, problems := m.restoreChanged(rt, env+"@1", src)
		if o.code == exit.Done && len(problems) > 0 {
			rt.Errorf("exit code 0, and %q", problems)
		}
		h.captured(rt, got, problems)

		m.must(rt, "snapshot", "--env", env, src)
		got, _ = m.restoreChanged(rt, env+"@2", src)
		for _, d := range h[len(h)-1].Compare(got, compareOptions()) {
			rt.Errorf("a second snapshot, of a tree that stands still: %v", d)
		}
	})
}

// linkSome gives files names in two directories of their own, one of which
// comes before them in path order.
func linkSome(t *rapid.T, src string) {
	t.Helper()
	for _, dir := range []string{"!first", "~last"} {
		if err := os.Mkdir(filepath.Join(src, dir), 0o755); err != nil {
			t.Fatalf("%v", err)
		}
	}
	tree := treetest.Snapshot(t, src)
	for i, path := range slices.Sorted(maps.Keys(tree)) {
		if tree[path].Content == nil {
			continue
		}
		dir := rapid.SampledFrom([]string{"", "~last", "!first"}).Draw(t, "link in")
		if dir == "" {
			continue
		}
		if err := os.Link(filepath.Join(src, path), filepath.Join(src, dir, fmt.Sprint("link-", i))); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// restoreChanged restores the tree at src of a snapshot, and returns it with
// the paths below src that the snapshot and the restore name.
func (m *machine) restoreChanged(t treetest.T, ref, src string) (got treetest.Tree, named []string) {
	t.Helper()
	out := filepath.Join(treetest.TempDir(t), "out")
	o := m.run(t, "restore", "--json", ref+":"+src, "--target", out)
	if o.code != exit.Incomplete {
		o.exits(t, exit.Done)
	}
	shown := decode[struct {
		List []struct{ Path string } `json:"problem_list"`
	}](t, m.must(t, "show", "--json", ref))
	problems := o.problems(t)
	for _, p := range shown.List {
		problems = append(problems, p.Path)
	}
	for _, p := range problems {
		if path, ok := strings.CutPrefix(p, src); ok {
			named = append(named, strings.TrimPrefix(path, "/"))
		}
	}
	return treetest.Snapshot(t, out), named
}
