package restore_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot/check"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/deletion"
	"knowngood/storage/storagetest"
)

// wide makes a tree whose manifest takes several segments.
func wide(t *testing.T) string {
	src := treetest.TempDir(t)
	for i := range 60 {
		for j := range 120 {
			write(t, filepath.Join(src, fmt.Sprintf("directory-%02d", i), fmt.Sprintf("file-%03d", j)), "")
		}
	}
	settle()
	return src
}

func TestSegments(t *testing.T) {
	t.Parallel()
	t.Run("a barely changed tree writes few segments", testABarelyChangedTreeWritesFewSegments)
	t.Run("a damaged segment is named by its paths and the rest is restored", testADamagedSegmentIsNamedByItsPathsAndTheRestIsRestored)
	t.Run("a reply damaged on its way is requested again", testAReplyDamagedOnItsWayIsAskedForAgain)
}

func testABarelyChangedTreeWritesFewSegments(t *testing.T) {
	t.Parallel()
	src := wide(t)
	w := enginetest.New(t, storagetest.NewMemory())
	w.MustCapture("e", src)
	all := len(w.Tree("e").Table.Segments)
	if all < 2 {
		t.Fatalf("%d segments", all)
	}
	write(t, filepath.Join(src, "directory-30", "file-060"), "changed")
	second := w.MustCapture("e", src)
	table := w.Tree("e").Table
	own := 0
	for _, s := range table.Segments {
		if s.Container == 0 {
			own++
		}
	}
	// One segment has the file, and the same or the one before its directory.
	if own < 1 || own > 2 || len(table.Segments) != all || second.Read != 1 {
		t.Errorf("%d of %d segments are written, %d files read", own, len(table.Segments), second.Read)
	}
	w.Restores("e", src, treetest.Snapshot(t, src))
	w.Clean()
}

func testADamagedSegmentIsNamedByItsPathsAndTheRestIsRestored(t *testing.T) {
	t.Parallel()
	src := wide(t)
	memory := storagetest.NewMemory()
	w := enginetest.New(t, memory)
	w.MustCapture("e", src)
	tree := w.Tree("e")
	i := len(tree.Table.Segments) / 2
	s := tree.Table.Segments[i]
	host := w.Open(w.State)
	h, err := host.Host(w.Ctx)
	w.Check(err)
	key := deletion.Key(enginetest.Host, h.Domain.ID, tree.Container(i))
	memory.Edit(key, flip(func(int) int { return int(s.Offset + s.SealedLen/2) }))

	target := treetest.TempDir(t)
	res, err := w.TryRestore("e", restore.Options{Under: enginetest.Under(src), Target: target})
	w.Check(err)
	if !res.Damaged || len(res.Problems) == 0 {
		t.Errorf("the result says %+v", res)
	}
	lost := 0
	if !res.Unfinished || res.Unlisted != uint64(s.Entries) {
		t.Errorf("unfinished %v, %d entries are not listed, the segment has %d", res.Unfinished, res.Unlisted, s.Entries)
	}
	for _, d := range treetest.Compare(t, src, target, treetest.Options{}) {
		if d.Path == walk.RestoreMarker {
			continue
		}
		path := enginetest.Under(filepath.Join(src, d.Path))
		if !names(res.Problems, path) {
			t.Errorf("not named: %v", d)
		}
		if manifest.Compare(path, s.First) >= 0 {
			lost++
		}
	}
	if lost == 0 || lost > int(s.Entries)+130 {
		t.Errorf("%d paths differ, the segment has %d", lost, s.Entries)
	}
	report, err := check.Run(w.Ctx, w.Bare(), check.Options{})
	w.Check(err)
	if len(report.Damage) != 1 || report.Damage[0].Object != key || len(report.Damage[0].Affected) != 1 || !strings.Contains(report.Damage[0].Affected[0].Part, "/"+s.First) {
		t.Errorf("check: %+v", report.Damage)
	}
	// In place, nothing is called extra while the list is not whole.
	again, err := w.TryRestore("e", restore.Options{Under: enginetest.Under(src), Target: src, InPlace: true, Delete: true})
	w.Check(err)
	if again.Deleted > 0 {
		t.Errorf("%d files are deleted for a damaged list", again.Deleted)
	}
}

// One reply that is damaged on its way is no damage: the frame is read again.
func testAReplyDamagedOnItsWayIsAskedForAgain(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	for _, prefix := range []string{"hosts/h/packs/", "hosts/h/manifests/"} {
		w := h.With(t, storagetest.NewFaulty(h.memory, storagetest.Rule{Op: storagetest.Get, Prefix: prefix, Nth: 1, Fault: storagetest.FlippedBit(100)}))
		w.Restores("e", h.src, h.before)
	}
}
