package main

import (
	"maps"
	"slices"
	"strings"

	"knowngood/internal/treetest"
)

// listing is a snapshot as list --json shows it.
type listing struct {
	Ref, Host, Environment, Status string
	Number                         int
	Forgotten                      bool
}

// listed are the snapshots that the program knows, the forgotten ones too.
func (w *world) listed() []listing {
	w.t.Helper()
	return decode[struct{ Snapshots []listing }](w.t, w.must(w.hosts[0], "list", "--json", "--all", "--all-hosts")).Snapshots
}

// verify demands that the repository is that of the model: its list, a check,
// and all that must be restorable.
func (w *world) verify() {
	w.t.Helper()
	shown := map[string]bool{} // and forgotten or not
	for _, l := range w.listed() {
		shown[l.Host+"/"+l.Ref] = l.Forgotten
	}
	w.all(func(_ *torturedHost, _ *environment, _ int, s *snapshotModel) bool {
		forgotten, ok := shown[s.ref]
		if ok && forgotten != s.forgotten || !ok && !s.forgotten {
			w.t.Errorf("step %d: %s: listed %v, forgotten %v, which should be %v", w.step, s.ref, ok, forgotten, s.forgotten)
		}
		delete(shown, s.ref)
		return true
	})
	for ref, forgotten := range shown {
		if !forgotten {
			w.t.Errorf("step %d: %s is listed, and nobody took it", w.step, ref)
		}
	}
	args := []string{"check"}
	if w.random.IntN(4) == 0 {
		args = append(args, "--read-data")
	}
	w.must(w.anybody(), args...)
	w.verifyAll()
	w.thin()
}

// verifyAll restores everything that must be restorable.
func (w *world) verifyAll() {
	w.t.Helper()
	anybody := w.anybody()
	w.all(func(_ *torturedHost, _ *environment, _ int, s *snapshotModel) bool {
		if !s.forgotten {
			w.restores(anybody, s)
		}
		return !w.t.Failed()
	})
}

// restores demands that a snapshot restores whole.
func (w *world) restores(h *torturedHost, s *snapshotModel) {
	w.t.Helper()
	out := w.scratch()
	w.wantRestored(s, h.machine.run(w.t, "restore", s.ref+":"+s.src, "--target", out))
	w.runs++
	w.equal(s, out)
	w.discard(out)
}

// equal demands that a directory is what a snapshot has.
func (w *world) equal(s *snapshotModel, dir string) {
	w.t.Helper()
	for _, d := range s.compare(treetest.Snapshot(w.t, dir)) {
		w.t.Errorf("step %d: %s in %s: %v", w.step, s.ref, dir, d)
	}
}

// compare leaves out what changed while the snapshot was taken.
func (s *snapshotModel) compare(got treetest.Tree) []treetest.Difference {
	want, o := s.tree, compareOptions()
	if s.busy {
		want, got = still(want), still(got)
	}
	return want.Compare(got, o)
}

// still is a tree without the directory in which files come and go.
func still(tree treetest.Tree) treetest.Tree {
	tree = maps.Clone(tree)
	maps.DeleteFunc(tree, func(path string, _ *treetest.Node) bool { return path == "busy" || strings.HasPrefix(path, "busy/") })
	return tree
}

// thin forgets the oldest snapshots of an environment when there are many, so
// that verifying them does not take all the time.
func (w *world) thin() {
	w.t.Helper()
	for _, h := range w.hosts {
		for _, e := range h.envs {
			kept := slices.DeleteFunc(slices.Sorted(maps.Keys(e.snapshots)), func(n int) bool { return e.snapshots[n].forgotten })
			for len(kept) > 4 {
				s := e.snapshots[kept[w.random.IntN(len(kept)-1)]]
				w.must(h, "forget", s.ref)
				s.forgotten = true
				kept = slices.DeleteFunc(kept, func(n int) bool { return e.snapshots[n].forgotten })
			}
		}
	}
}
