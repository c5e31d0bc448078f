package main

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
	"knowngood/snapshot/manifest"
)

// restore runs the program to restore a snapshot, and returns standard output.
func (w *world) restore(h *torturedHost, s *snapshotModel, args ...string) string {
	w.t.Helper()
	o := w.run(h, args...)
	w.wantRestored(s, o)
	return o.stdout.String()
}

func (w *world) wantRestored(s *snapshotModel, o *outcome) {
	w.t.Helper()
	if !s.restored(w.t, o) {
		o.exits(w.t, exit.Done)
	}
}

// restored reports whether a restore left out nothing but what could not be read
// because it changed while the snapshot was taken, and reported that.
func (s *snapshotModel) restored(t *testing.T, o *outcome) bool {
	t.Helper()
	if o.code != exit.Incomplete || !s.busy {
		return o.code == exit.Done
	}
	var named []string
	if slices.Contains(o.args, "--json") {
		named = o.problems(t)
	}
	for line := range strings.Lines(o.stderr.String()) {
		if path, ok := strings.CutPrefix(line, "knowngood: /"); ok {
			named = append(named, "/"+path)
		}
	}
	elsewhere := func(path string) bool { return !strings.HasPrefix(path, filepath.Join(s.src, "busy")+"/") }
	return len(named) > 0 && !slices.ContainsFunc(named, elsewhere)
}

// restoreNew restores all of a snapshot, at its original path below a new directory.
func (w *world) restoreNew() {
	if h, s := w.kept(); s != nil {
		out := w.scratch()
		w.restore(h, s, "restore", s.ref, "--target", out)
		w.equal(s, filepath.Join(out, s.src))
		w.discard(out)
	}
}

// restoreLive takes a live tree back to one of its snapshots.
func (w *world) restoreLive() {
	h, s := w.kept()
	if s == nil {
		return
	}
	w.restore(h, s, "restore", s.ref, "--in-place", "--delete")
	w.equal(s, s.src)
}

// restoreOver restores in place over what has become of another snapshot.
func (w *world) restoreOver() {
	h, s := w.kept()
	_, other := w.kept()
	if s == nil {
		return
	}
	out := w.scratch()
	w.restore(h, other, "restore", other.ref+":"+other.src, "--target", out)
	done := treetest.Mutate(w.t, out, treetest.Seed(w.random.Uint64()), 1+w.random.IntN(10), w.shape())
	w.log("in %s: %s", out, strings.Join(done, "; "))
	defer w.discard(out)
	args := []string{"restore", s.ref + ":" + s.src, "--target", out, "--in-place"}
	if w.random.IntN(2) == 0 {
		w.restore(h, s, append(args, "--delete")...)
		w.equal(s, out)
		again := decode[counts](w.t, w.restore(h, s, append(args, "--delete", "--json")...))
		if again.Created+again.Changed+again.Deleted > 0 {
			w.t.Errorf("step %d: restored again, and changed is %+v", w.step, again)
		}
		return
	}
	// What has come since stays, in the way of what it keeps out, which is named.
	o := w.run(h, append(args, "--json")...)
	problems := o.problems(w.t)
	if len(problems) == 0 || o.code != exit.Incomplete {
		o.exits(w.t, exit.Done)
	}
	for _, d := range s.compare(treetest.Snapshot(w.t, out)) {
		if d.Kind != treetest.Extra && !isNamed(problems, s.src, d.Path) {
			w.t.Errorf("step %d: %s in place: %v", w.step, s.ref, d)
		}
	}
}

// isNamed reports whether a path below src, or one above it, is among those that
// are named.
func isNamed(all []string, src, path string) bool {
	return slices.ContainsFunc(all, func(n string) bool {
		return n == filepath.Join(src, path) || strings.HasPrefix(filepath.Join(src, path), n+"/")
	})
}

// inLost reports whether a path lies in one of the ranges.
func inLost(ranges [][2]string, path string) bool {
	return slices.ContainsFunc(ranges, func(r [2]string) bool {
		return manifest.Compare(path, r[0]) >= 0 && (r[1] == "" || manifest.Compare(path, r[1]) < 0)
	})
}

// counts are those of a restore.
type counts struct{ Created, Changed, Unchanged, Deleted uint64 }

// node chooses a path of a type in a snapshot, outside of what was busy.
func (w *world) node(s *snapshotModel, typ treetest.Type) (path string, ok bool) {
	tree := s.tree
	if s.busy {
		tree = still(tree)
	}
	paths := slices.DeleteFunc(slices.Sorted(maps.Keys(tree)), func(p string) bool { return tree[p].Type != typ || p == "" })
	if len(paths) == 0 {
		return "", false
	}
	return paths[w.random.IntN(len(paths))], true
}

// restoreFile restores one file: into a new one, over another, and in its place.
func (w *world) restoreFile() {
	h, s := w.kept()
	if s == nil {
		return
	}
	path, ok := w.node(s, unix.S_IFREG)
	if !ok {
		return
	}
	dir := w.scratch()
	makeDir(w.t, dir)
	defer w.discard(dir)
	file := filepath.Join(dir, "file")
	args := []string{"restore", s.ref + ":" + filepath.Join(s.src, path), "--target", file}
	if w.random.IntN(2) == 0 {
		writeFile(w.t, file, "something else")
		args = append(args, "--in-place")
	}
	w.must(h, args...)
	got := treetest.Snapshot(w.t, dir)
	if !sameNode(s.tree[path], got["file"]) || len(got) != 2 {
		w.t.Errorf("step %d: the file %q of %s is not what was restored as %s", w.step, path, s.ref, file)
	}
}

func (w *world) restoreDirectory() {
	h, s := w.kept()
	if s == nil {
		return
	}
	path, ok := w.node(s, unix.S_IFDIR)
	if !ok {
		return
	}
	below := &snapshotModel{ref: s.ref, tree: treetest.Tree{}}
	for p, n := range s.tree {
		if rest, ok := strings.CutPrefix(p, path); ok && (rest == "" || rest[0] == '/') {
			below.tree[strings.TrimPrefix(rest, "/")] = n
		}
	}
	out := w.scratch()
	w.must(h, "restore", s.ref+":"+filepath.Join(s.src, path), "--target", out)
	w.equal(below, out)
	w.discard(out)
}

// dryRun demands that a plan changes nothing and announces what happens then.
func (w *world) dryRun() {
	h, s := w.kept()
	if s == nil {
		return
	}
	before := treetest.Snapshot(w.t, s.src)
	args := []string{"restore", s.ref, "--in-place", "--delete", "--json"}
	plan := decode[counts](w.t, w.restore(h, s, append(args, "--dry-run")...))
	before.Equal(w.t, s.src, treetest.Options{})
	done := decode[counts](w.t, w.restore(h, s, args...))
	if plan != done {
		w.t.Errorf("step %d: %s: planned was %+v, done is %+v", w.step, s.ref, plan, done)
	}
	w.equal(s, s.src)
}

func (w *world) cat() {
	h, s := w.kept()
	if s == nil {
		return
	}
	path, ok := w.node(s, unix.S_IFREG)
	if !ok {
		return
	}
	content, n := []byte(w.must(h, "cat", s.ref+":"+filepath.Join(s.src, path))), s.tree[path]
	if int64(len(content)) != n.Size {
		w.t.Errorf("step %d: %q of %s has %d bytes, want %d", w.step, path, s.ref, len(content), n.Size)
	}
	for i, piece := 0, []byte(nil); i < len(n.Content) && len(content) > 0; i++ {
		piece, content = content[:min(64<<10, len(content))], content[min(64<<10, len(content)):]
		if sum := sha256.Sum256(piece); !bytes.Equal(sum[:], n.Content[i][:]) {
			w.t.Errorf("step %d: %q of %s has another content", w.step, path, s.ref)
		}
	}
}

// killRestore kills a restore and lets the same command go on.
func (w *world) killRestore() {
	h, s := w.kept()
	if s == nil {
		return
	}
	out := w.scratch()
	args := []string{"restore", s.ref + ":" + s.src, "--target", out}
	o, killed := w.kill(h, args...)
	if killed {
		o = w.run(h, args...)
	}
	// One that was killed when all was done has left nothing to go on with.
	if o.code != exit.Done && strings.Contains(o.stderr.String(), "not empty") {
		o = w.run(h, append(args, "--in-place")...)
	}
	w.wantRestored(s, o)
	w.equal(s, out)
	w.discard(out)
}
