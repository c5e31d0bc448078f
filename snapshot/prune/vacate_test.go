package prune_test

import (
	"fmt"
	"testing"
	"time"

	"knowngood/internal/treetest"
	"knowngood/snapshot"
)

// vacate captures "web" on a host without an identity, which may read so many
// bytes of unchanged files again. It returns how many files were read.
func (w *world) vacate(budget uint64) uint64 {
	w.t.Helper()
	res, err := w.Capture("web", func(o *snapshot.Options) { o.MaxRepack = budget }, w.dir)
	w.check(err)
	if len(res.Problems) > 0 {
		w.t.Errorf("problems: %v", res.Problems)
	}
	return res.Read
}

// afterForgetting is how many bytes of packs and containers are left when all but
// the newest snapshot are forgotten and everything is deleted that can be.
func (w *world) afterForgetting() uint64 {
	w.t.Helper()
	for n := w.newest("web") - 1; n > 1; n-- {
		w.forget("web", n)
	}
	for range 3 {
		time.Sleep(8 * day)
		w.free()
	}
	w.Clean()
	return w.bytes()
}

func TestVacate(t *testing.T) {
	t.Run("a capture without an identity", testACaptureWithoutAnIdentity)
}

func testACaptureWithoutAnIdentity(t *testing.T) {
	t.Run("reads files again whose packs are mostly dead, and a prune frees those", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.sparse()
			if n := w.vacate(1 << 30); n < 4 || n > 6 {
				t.Errorf("%d files were read", n)
			}
			if n := w.vacate(1 << 30); n > 0 {
				t.Errorf("%d files were read again after that", n)
			}
			tree := treetest.Snapshot(t, w.dir)
			if left := w.afterForgetting(); left > 1<<20 {
				t.Errorf("%d bytes are left for 800 KiB", left)
			}
			w.Restores("web@latest", w.dir, tree)
		})
	})
	t.Run("keeps such packs without a budget", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.sparse()
			if n := w.vacate(0); n > 0 {
				t.Errorf("%d files were read", n)
			}
			if left := w.afterForgetting(); left < 3<<20 {
				t.Errorf("only %d bytes are left: the test shows nothing", left)
			}
		})
	})
	t.Run("reads no more than its budget", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			w.sparse()
			if n := w.vacate(300 << 10); n > 1 {
				t.Errorf("%d files of 200 KiB were read within 300 KiB", n)
			}
		})
	})
	t.Run("stores tiny packs together", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			for i := range 20 {
				w.write(fmt.Sprintf("file-%02d", i), 10<<10)
				w.capture("web")
			}
			time.Sleep(3 * day)
			if n := w.vacate(1 << 30); n != 20 {
				t.Errorf("%d files were read", n)
			}
			tree := treetest.Snapshot(t, w.dir)
			w.forget("web", 1)
			w.afterForgetting()
			if packs, _ := w.stored(); packs > 2 {
				t.Errorf("%d packs are left", packs)
			}
			w.Restores("web@latest", w.dir, tree)
		})
	})
}
