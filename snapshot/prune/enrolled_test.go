package prune_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
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
	t.Run("its policy goes by the times of the store for what another key signed", func(t *testing.T) {
		simulated(t, memory, func(w *world) {
			_, at := w.days(10)
			w.write("file", 10)
			evil := w.capture("web")
			previous, n := evil.ID, evil.Number
			for _, d := range at { // one a day, in the place of those that are there
				n++
				object, hash := w.forge(n, previous, evil.Body, d.Add(time.Hour))
				w.put(key(n), object)
				previous = hash
			}
			w.reenrol()
			w.write("file", 1<<20)
			w.capture("web")

			for name, r := range map[string]*repository.Repository{"with an identity": w.unlocked(), "without": w.host()} {
				judged, damaged, err := prune.Judge(w.Ctx, r, enginetest.Host, "web", retention.Policy{Daily: 30}, attest.Policy{}, time.Now(), time.UTC)
				w.check(err)
				for n := range uint64(10) {
					if unkept := prune.Unkept(judged); unkept.Has(n+1) || len(damaged) > 0 {
						t.Errorf("%s: %v would be forgotten, %v are damaged", name, unkept, damaged)
						break
					}
				}
			}
		})
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
