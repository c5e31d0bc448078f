package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// manyFiles makes a tree of n files of 64 KiB that do not compress.
func manyFiles(t *testing.T, n int) string {
	src := treetest.TempDir(t)
	for i := range n {
		writeRandom(t, filepath.Join(src, fmt.Sprintf("%02d", i/20), fmt.Sprint(i)), uint64(i), 64<<10)
	}
	settle()
	return src
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	t.Run("a run after an interrupted one reads only what was not stored", testARunAfterAnInterruptedOneReadsOnlyWhatWasNotStored)
	t.Run("what an interrupted run noted is not used under another key", testWhatAnInterruptedRunNotedIsNotUsedUnderAnotherKey)
	t.Run("a restore continues and ends as if it had not been interrupted", testAnInterruptedRestoreGoesOnAndEndsAsIfItHadNotBeen)
	t.Run("a restore in place that stops leaves no mixed file", testARestoreInPlaceThatStopsLeavesNoMixedFile)
	t.Run("a cancelled restore is reported and continues later", testACancelledRestoreSaysSoAndGoesOn)
}

func testARunAfterAnInterruptedOneReadsOnlyWhatWasNotStored(t *testing.T) {
	t.Parallel()
	const files = 1400
	src := manyFiles(t, files)
	want := treetest.Snapshot(t, src)
	for _, how := range []string{"the store fails", "cancelled"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			memory := storagetest.NewMemory()
			w := enginetest.New(t, memory)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var store *storagetest.Faulty
			if how == "cancelled" {
				w.Store = cancelAt{memory, cancel, "hosts/h/packs/", new(counter), 32}
				w.Ctx = ctx
			} else {
				store = storagetest.NewFaulty(memory, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: 32, Fault: storagetest.FailBefore(nil)})
				w.Store = store
			}
			if _, err := w.Capture("e", nil, src); !errors.Is(err, storagetest.ErrInjected) && !errors.Is(err, context.Canceled) {
				t.Fatalf("the first run: %v", err)
			}
			w.Store, w.Ctx = memory, t.Context()
			left := content(w, memory)
			durable := left / (64 << 10)
			if durable < 800 {
				t.Fatalf("only %d files are stored", durable)
			}
			next := w.MustCapture("e", src)
			if next.NewBytes+left != files*(64<<10) {
				t.Errorf("the interrupted run stored %d bytes, the next %d, of %d", left, next.NewBytes, files*64<<10)
			}
			// Entries are noted each 16 MiB, in path order: how far that got
			// behind what is stored is up to the scheduler of the machine.
			if most := uint64(files - 256); next.Read > most {
				t.Errorf("%d files were stored, and of %d the next run reads %d", durable, files, next.Read)
			}
			w.Restores("e", src, want)
			w.Clean()
		})
	}
}

// A host that enrols again has other chunk IDs: what an interrupted run of the
// old key noted is of no use.
func testWhatAnInterruptedRunNotedIsNotUsedUnderAnotherKey(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Parallel()
	src := manyFiles(t, 400)
	want := treetest.Snapshot(t, src)
	memory := storagetest.NewMemory()
	w := enginetest.New(t, memory)
	w.Store = storagetest.NewFaulty(memory, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: 9, Fault: storagetest.FailBefore(nil)})
	if _, err := w.Capture("e", nil, src); !errors.Is(err, storagetest.ErrInjected) {
		t.Fatalf("the first run: %v", err)
	}
	w.Store = memory
	r := w.Open(w.State)
	r.Unlock(w.ID)
	_, err := r.Join(t.Context(), trust.JoinOptions{Host: enginetest.Host, Reenrol: true, Now: time.Now()})
	w.Check(err)
	if res := w.MustCapture("e", src); res.Read != 400 {
		t.Errorf("%d files are read", res.Read)
	}
	w.Restores("e", src, want)
	w.Clean()
}

// cancelAt cancels a context when so many objects under a prefix are put.
type cancelAt struct {
	storage.Store
	cancel context.CancelFunc
	prefix string
	seen   *counter
	nth    int
}

func (c cancelAt) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if strings.HasPrefix(key, c.prefix) && c.seen.next() == c.nth {
		c.cancel()
	}
	return c.Store.Put(ctx, key, body, o)
}

// cancelAtGet cancels a context when so many ranges under a prefix are read.
type cancelAtGet struct {
	storage.Store
	cancel context.CancelFunc
	prefix string
	seen   *counter
	nth    int
}

func (c cancelAtGet) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if strings.HasPrefix(key, c.prefix) && c.seen.next() == c.nth {
		c.cancel()
	}
	return c.Store.Get(ctx, key, offset, length)
}

func testAnInterruptedRestoreGoesOnAndEndsAsIfItHadNotBeen(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.MustCapture("e", h.src)
	whole := h.With(t, storagetest.NewFaulty(h.memory))
	whole.Restores("e@2", h.src, h.now)
	operations := len(whole.Store.(*storagetest.Faulty).Log())
	for n := 1; n <= operations+1; n++ {
		t.Run(fmt.Sprintf("operation %d", n), func(t *testing.T) {
			t.Parallel()
			store := storagetest.NewFaulty(h.memory)
			w := h.With(t, store)
			o := restore.Options{Under: enginetest.Under(h.src), Target: filepath.Join(treetest.TempDir(t), "new")}
			store.StopAt(n, false)
			if _, err := w.TryRestore("e@2", o); err == nil {
				t.Log("the restore was complete before that")
			} else if !errors.Is(err, storagetest.ErrStopped) {
				t.Errorf("the restore failed with %v", err)
			}
			store.Clear()
			if _, err := os.Stat(filepath.Join(o.Target, ".knowngood-restore")); err == nil {
				if _, err := w.TryRestore("e@1", o); !errors.Is(err, restore.ErrNotEmpty) {
					t.Errorf("another snapshot goes on where this one stopped: %v", err)
				}
				w.Restore("e@2", o)
			} else if treetest.Empty(o.Target) == nil {
				w.Restore("e@2", o)
			}
			h.now.Equal(t, o.Target, treetest.Options{})
		})
	}
}

// In place, each file is at any moment as it was or as it will be.
func testARestoreInPlaceThatStopsLeavesNoMixedFile(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.MustCapture("e", h.src)
	for n := 1; n <= 24; n++ {
		t.Run(fmt.Sprintf("operation %d", n), func(t *testing.T) {
			t.Parallel()
			store := storagetest.NewFaulty(h.memory)
			w := h.With(t, store)
			o := restore.Options{Under: enginetest.Under(h.src), Target: treetest.TempDir(t)}
			w.Restore("e@2", o)
			o.InPlace, o.Delete = true, true
			store.Clear()
			store.StopAt(n, false)
			if _, err := w.TryRestore("e@1", o); err != nil && !errors.Is(err, storagetest.ErrStopped) {
				t.Errorf("the restore failed with %v", err)
			}
			store.Clear()
			h.unmixed(t, o.Target)
			w.Restore("e@1", o)
			h.before.Equal(t, o.Target, treetest.Options{})
		})
	}
}

// unmixed asserts that each file below a directory has the content of one of
// the two snapshots.
func (h *changedTree) unmixed(t *testing.T, target string) {
	t.Helper()
	for path, got := range treetest.Snapshot(t, target) {
		if got.Content == nil || strings.HasPrefix(filepath.Base(path), ".knowngood-") {
			continue
		}
		same := func(want *treetest.Node) bool {
			return want != nil && want.Type == got.Type && want.Size == got.Size && fmt.Sprint(want.Content) == fmt.Sprint(got.Content)
		}
		if !same(h.before[path]) && !same(h.now[path]) {
			t.Errorf("%q is neither as it was nor as it will be", path)
		}
	}
}

func testACancelledRestoreSaysSoAndGoesOn(t *testing.T) {
	t.Parallel()
	const files = 200
	src := manyFiles(t, files)
	w := enginetest.New(t, storagetest.NewMemory())
	w.MustCapture("e", src)
	o := restore.Options{Under: enginetest.Under(src), Target: treetest.TempDir(t), Progress: &restore.Progress{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cancelled := *w
	cancelled.Ctx = ctx
	done := new(counter)
	o.Progress.Change = func(action, path string) {
		if done.next() == files/2 {
			cancel()
		}
	}
	if _, err := cancelled.TryRestore("e", o); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	have := 0
	err := filepath.WalkDir(o.Target, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), ".knowngood-") {
			have++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Progress = &restore.Progress{}
	res := w.Restore("e", o)
	if res.Unchanged < uint64(have)/2 {
		t.Errorf("%d files were there, %d are left alone", have, res.Unchanged)
	}
	if found, all := o.Progress.Found.Load(), o.Progress.Bytes.Load(); found == 0 || found > all || all != res.Restored.Bytes {
		t.Errorf("%d of %d bytes were there, of %d restored", found, all, res.Restored.Bytes)
	}
	treetest.Equal(t, src, o.Target, treetest.Options{})
}
