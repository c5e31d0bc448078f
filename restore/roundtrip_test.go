package restore_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot/check"
	"knowngood/storage/storagetest"
)

func TestRoundTrip(t *testing.T) {
	t.Run("random trees come back from snapshots", testRandomTreesRoundTripThroughSnapshots)
	t.Run("a restore in place makes any tree that of the snapshot", testRestoreInPlaceMakesAnyTreeTheSnapshot)
	t.Run("an unchanged tree writes only a root", testAnUnchangedTreeWritesOnlyARoot)
}

func testRandomTreesRoundTripThroughSnapshots(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := enginetest.New(rt, storagetest.NewMemory())
		src := treetest.TempDir(rt)
		c := treetest.Rapid(rt)
		treetest.Generate(rt, src, c, treetest.Shape{Nodes: 40, MaxFile: 600 << 10})
		for i := 1; i <= 3; i++ {
			w.MustCapture("e", src)
			out := treetest.TempDir(rt)
			w.Restore(fmt.Sprintf("e@%d", i), restore.Options{Under: enginetest.Under(src), Target: out})
			treetest.Equal(rt, src, out, treetest.Options{Holes: true, HoleSlack: 64 << 10})
			treetest.Mutate(rt, src, c, 10, treetest.Shape{MaxFile: 200 << 10})
		}
	})
}

func testRestoreInPlaceMakesAnyTreeTheSnapshot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := enginetest.New(rt, storagetest.NewMemory())
		src := treetest.TempDir(rt)
		c := treetest.Rapid(rt)
		treetest.Generate(rt, src, c, treetest.Shape{Nodes: 40, MaxFile: 600 << 10})
		w.MustCapture("e", src)
		out := treetest.TempDir(rt)
		w.Restore("e", restore.Options{Under: enginetest.Under(src), Target: out})
		treetest.Mutate(rt, out, c, 25, treetest.Shape{MaxFile: 200 << 10})
		o := restore.Options{Under: enginetest.Under(src), Target: out, InPlace: true, Delete: true}
		w.Restore("e", o)
		treetest.Equal(rt, src, out, treetest.Options{})
		again := w.Restore("e", o)
		if again.Created+again.Changed+again.Deleted > 0 {
			rt.Errorf("restored again: %+v", again)
		}
	})
}

func testAnUnchangedTreeWritesOnlyARoot(t *testing.T) {
	w := enginetest.New(t, storagetest.NewMemory())
	src := treetest.TempDir(t)
	treetest.Generate(t, src, treetest.Seed(1), treetest.Shape{Nodes: 200})
	time.Sleep(60 * time.Millisecond) // files as young as a snapshot are read again
	first := w.MustCapture("e", src)
	before := len(w.Store.(*storagetest.Memory).Keys())
	w.Check(os.WriteFile(src+".beside", nil, 0o600)) // which changes the directory above
	second := w.MustCapture("e", src)
	if n := len(w.Store.(*storagetest.Memory).Keys()) - before; n != 1 {
		t.Errorf("%d new objects", n)
	}
	if second.Read != 0 || second.NewBytes != 0 || second.Totals != first.Totals {
		t.Errorf("second snapshot: %+v", second)
	}
	report, err := check.Run(w.Ctx, w.Bare(), check.Options{ReadData: 1})
	if err != nil || len(report.Damage) > 0 || len(report.Notes) > 0 {
		t.Errorf("check: %+v, %v", report, err)
	}
}
