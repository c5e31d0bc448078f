package check_test

import (
	"errors"
	"fmt"
	"testing"

	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/authentic"
)

func TestSizes(t *testing.T) {
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
				t.Errorf("it hurts %+v", r.Damage[0].Hurts)
			}
		})
	}

	t.Run("an object that something longer was put over is tampering", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.MustCapture("e", w.src)
		key := w.keys("hosts/h/packs/")[0]
		b, err := storage.ReadAll(w.Ctx, w.Store, key, 0, -1)
		w.Check(err)
		w.memory.Overwrite(key, append(b, "more"...))

		r := w.run(check.Options{})
		if len(r.Damage) != 1 || r.Damage[0].Object != key || !errors.As(r.Damage[0].Err, new(*authentic.TamperError)) {
			t.Errorf("damage %q", damage(r))
		}
	})
}
