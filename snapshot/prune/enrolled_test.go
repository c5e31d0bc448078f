package prune_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// TestEnrolledAgain is of a host that was taken over and enrolled again: its old
// domain and what the old key signed are still there.
func TestEnrolledAgain(t *testing.T) {
	t.Run("a false repack of the old domain has nothing deleted by the host itself", func(t *testing.T) {
		for name, since := range map[string]bool{"signed before": false, "signed with the key that ended": true} {
			t.Run(name, func(t *testing.T) {
				simulated(t, memory, func(w *world) {
					trees, _ := w.days(3)
					domain := w.domain()
					old, err := w.host().Host(w.Ctx)
					w.check(err)
					sign := func() {
						d, err := w.Bare().Deletions(w.Ctx, enginetest.Host, domain)
						w.check(err)
						x := &statement.Deletion{Repository: w.Bare().ID(), Host: enginetest.Host, Domain: domain, Serial: d.Free(), Since: 1, Made: time.Now(), Certificate: old.Certificate}
						x.Repacks = []statement.Repack{{
							Manifests: w.hashes(layout.PrefixManifests(enginetest.Host, domain)),
							Moves:     []statement.Move{{Old: w.hashes(layout.PrefixPacks(enginetest.Host, domain))}},
						}}
						object, err := x.Encode(old.SigningKey())
						w.check(err)
						w.put(layout.KeyDeletion(enginetest.Host, domain, x.Serial), object)
					}
					if !since {
						sign()
					}
					w.reenrol()
					if since {
						sign()
					}
					w.write("file", 1<<20)
					w.capture("web")

					for range 3 {
						time.Sleep(8 * day)
						report, err := prune.Run(w.Ctx, w.unlocked(), prune.Options{})
						w.check(err)
						for _, d := range report.Domains {
							if d.ID == domain && d.Announced.Objects+d.Deleted.Objects > 0 {
								t.Errorf("%d objects of kept snapshots announced, %d deleted", d.Announced.Objects, d.Deleted.Objects)
							}
						}
					}
					for i, tree := range trees {
						w.Restores(fmt.Sprintf("web@%d", i+1), w.dir, tree)
					}
				})
			})
		}
	})
	t.Run("the host itself frees its old domain", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			trees, _ := w.days(3)
			domain := w.domain()
			w.reenrol()
			w.write("file", 1<<20)
			w.capture("web")
			w.forget("web", 1, 2)

			deleted := uint64(0)
			for range 2 {
				time.Sleep(8 * day)
				report, err := prune.Run(w.Ctx, w.unlocked(), prune.Options{})
				w.check(err)
				for _, d := range report.Domains {
					if d.ID == domain {
						deleted += d.Deleted.Objects
					}
				}
			}
			if deleted == 0 {
				t.Error("nothing is deleted")
			}
			w.Restores("web@3", w.dir, trees[2])
		})
	})
}

// hashes are the names of the packs or containers with a prefix, in order.
func (w *world) hashes(prefix string) (out [][32]byte) {
	w.t.Helper()
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: prefix}) {
		w.check(err)
		id, _ := deletion.ParseKey(o.Key)
		out = append(out, id.Hash)
	}
	slices.SortFunc(out, deletion.CompareHashes)
	return out
}
