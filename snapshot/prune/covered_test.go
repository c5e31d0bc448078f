package prune_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func TestHostKey(t *testing.T) {
	t.Run("takes the place of no past day", testNoSnapshotTakesThePlaceOfAPastDay)
	t.Run("replaces no statement unnoticed when the key ended", testAStatementOfAnEndedKeyIsReported)
	t.Run("hides nothing by what the store does not give out", testWhatIsWithheldHidesNothing)
}

func testNoSnapshotTakesThePlaceOfAPastDay(t *testing.T) {
	simulated(t, memory, func(w *world) {
		trees, at := w.days(6)
		w.take("file")
		w.write("evil", 1000)
		evil := w.capture("web") // 7
		object, _ := w.forgeBody(8, evil.ID, evil.Body, func(b *statement.RootBody) {
			b.Started, b.Finished = at[2].Add(time.Second), time.Now()
		})
		w.put(key(8), object)
		w.Warnings()

		ref := "web@" + at[2].Add(time.Minute).UTC().Format(time.RFC3339)
		_, s, err := w.Snapshot(ref)
		w.check(err)
		if s.Number != 3 {
			t.Fatalf("%s is %s", ref, s.Ref())
		}
		if found := w.Warnings(); len(found) != 1 || !strings.Contains(found[0].Error(), "web@8 was passed over") {
			t.Errorf("warnings %v", found)
		}
		w.Restores(ref, w.dir, trees[2])
	})
}

func testAStatementOfAnEndedKeyIsReported(t *testing.T) {
	simulated(t, func() storage.Store { return storagetest.NewPlainMemory() }, func(w *world) {
		w.write("stays", 1000)
		w.capture("web")
		old := w.reenrol()
		w.days(4)
		w.forget("web", 2, 3)                                                                                                      // serial 1
		_, err := w.Bare().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(2, 3), Now: time.Now()}) // serial 2, by the owner
		w.check(err)
		state := treetest.TempDir(t)
		read := func() *statement.Tombstone {
			r := w.Open(state)
			r.Unlock(w.ID)
			x, err := r.Tombstone(w.Ctx, enginetest.Host, "web")
			w.check(err)
			return x
		}
		if x := read(); x.Serial != 2 {
			t.Fatalf("serial %d counts", x.Serial)
		}
		w.Warnings()

		ended := &statement.Tombstone{Repository: w.Bare().ID(), Host: enginetest.Host, Environment: "web", Serial: 2, Made: time.Now(), Certificate: old.Certificate, Forgotten: statement.NumbersOf(2)}
		object, err := ended.Encode(old.SigningKey())
		w.check(err)
		k := layout.KeyTombstone(enginetest.Host, "web", 2)
		w.check(w.Store.Delete(w.Ctx, k))
		w.put(k, object)
		read()
		if found := w.Warnings(); len(found) == 0 || !strings.Contains(found[0].Error(), "it counted when this machine saw it") {
			t.Errorf("warnings %v", found)
		}
	})
}

// withholding is a store that does not give out the current view of some keys.
type withholding struct {
	*storagetest.Memory
	keys map[string]error
}

func (s *withholding) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := s.keys[key]; err != nil {
		return nil, &storage.Error{Op: "get", Key: key, Err: err}
	}
	return s.Memory.Get(ctx, key, offset, length)
}

func testWhatIsWithheldHidesNothing(t *testing.T) {
	for _, as := range []error{storage.ErrWithheld, storage.ErrDenied} {
		t.Run(as.Error(), func(t *testing.T) {
			s := &withholding{storagetest.NewMemory(), map[string]error{}}
			simulated(t, func() storage.Store { return s }, func(w *world) {
				trees, _ := w.days(2)
				var keys []string
				for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/h/"}) {
					w.check(err)
					if !strings.HasPrefix(o.Key, "hosts/h/index/") {
						keys = append(keys, o.Key)
					}
				}
				for _, k := range keys {
					s.Overwrite(k, []byte("x"))
					s.keys[k] = as
				}
				for i, tree := range trees {
					w.Restores([]string{"web@1", "web@2"}[i], w.dir, tree)
				}
				if len(w.Warnings()) == 0 {
					t.Error("nothing is reported")
				}
			})
		})
	}
}
