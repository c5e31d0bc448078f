package check_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

func TestSizes(t *testing.T) {
	t.Run("sizes", testSizes)
	t.Run("a size that the index has wrong", aSizeThatTheIndexHasWrong)
}

func testSizes(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"hosts/h/packs/", "hosts/h/manifests/"} {
		t.Run("an object below "+prefix+" that is longer than snapshots say is damage, though it can be read", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.MustCapture("e", w.src)
			key := w.keys(prefix)[0]
			size := 0
			w.memory.Edit(key, func(b []byte) []byte { size = len(b); return append(b, "more"...) })

			r := w.run(check.Options{})
			if want := fmt.Sprintf("%s: %d bytes long, e@1 says %d", key, size+4, size); len(r.Damage) != 1 || damage(r)[0] != want {
				t.Errorf("damage %q, not %q", damage(r), want)
			}
			if len(r.Lost) > 0 || len(r.Damage) == 1 && r.Damage[0].Count > 0 {
				t.Errorf("it affects %+v", r.Damage[0].Affected)
			}
		})
	}

	t.Run("an object that something longer was put over is tampering", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.MustCapture("e", w.src)
		key := w.keys("hosts/h/packs/")[0]
		b, err := storage.Append(w.Ctx, nil, w.Store, key, 0, -1)
		w.Check(err)
		w.memory.Overwrite(key, append(b, "more"...))

		r := w.run(check.Options{})
		if len(r.Damage) != 1 || r.Damage[0].Object != key || !errors.As(r.Damage[0].Err, new(*authentic.TamperError)) {
			t.Errorf("damage %q", damage(r))
		}
	})
}

// lie publishes an index run in place of the newest one, with a pack that is a byte
// longer than it is, as the host could. It returns the key of the pack.
func (w *world) lie() string {
	w.t.Helper()
	r := w.Open(w.State)
	host, err := r.Host(w.Ctx)
	w.Check(err)
	key := w.keys("hosts/h/index/")[0]
	object, err := storage.Append(w.Ctx, nil, w.Store, key, 0, -1)
	w.Check(err)
	run, err := statement.ParseIndexRun(object)
	w.Check(err)
	plain, err := seal.OpenOnce(host.Domain.RunKey(run.Salt), run.SealedBody, nil)
	w.Check(err)
	body, err := index.Parse(plain)
	w.Check(err)

	body.Packs[0].Size++
	plain, err = body.Append(nil)
	w.Check(err)
	_, _, _, replaced, _ := layout.ParseIndexRunKey(key)
	run.Generation, run.Salt, run.Replaces = run.Generation+1, seal.NewSalt(), append(run.Replaces, replaced)
	slices.SortFunc(run.Replaces, deletion.CompareHashes)
	run.SealedBody = seal.Once(host.Domain.RunKey(run.Salt), plain, nil)
	object, err = run.Encode(host.SigningKey())
	w.Check(err)
	w.Check(w.Store.Put(w.Ctx, layout.KeyIndexRun("h", host.Domain.ID, run.Generation, sha256.Sum256(object)), object, storage.PutOptions{}))
	return layout.KeyPack("h", host.Domain.ID, body.Packs[0].Hash)
}

func aSizeThatTheIndexHasWrong(t *testing.T) {
	t.Parallel()
	t.Run("is a note where a snapshot has it right", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.MustCapture("e", w.src)
		key := w.lie()
		r := w.run(check.Options{})
		if len(r.Damage) > 0 || !contains(r.Notes, key+" is ") || !contains(r.Notes, "as snapshots say, and the index says") {
			t.Errorf("damage %q, notes %q", damage(r), r.Notes)
		}
	})

	t.Run("is named with the pack where no kept snapshot needs that", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.MustCapture("e", w.src)
		w.memory.Forget(w.keys("hosts/h/roots/e/")[0])
		key := w.lie()
		w.Check(os.WriteFile(filepath.Join(w.src, "other"), []byte("other"), 0o644))
		w.MustCapture("f", filepath.Join(w.src, "other"))
		r := w.run(check.Options{})
		if !contains(r.Suspects, key) || !contains(r.Notes, key+" (") || !contains(r.Notes, "bytes long, the index says ") {
			t.Errorf("suspects %q, damage %q, notes %q", r.Suspects, damage(r), r.Notes)
		}
	})
}
