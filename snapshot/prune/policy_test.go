package prune_test

import (
	"fmt"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/storagetest"
)

func TestPolicy(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("a policy of the pruner goes by when the roots that count were written", testAPolicyOfThePrunerGoesByWhenTheRootsThatCountWereWritten)
	t.Run("forgotten rubbish takes no place in a policy of the pruner", testForgottenRubbishTakesNoPlaceInAPolicyOfThePruner)
	t.Run("a policy of the pruner", testAPolicyOfThePruner)
}

// A taken host forgets all but the newest, and puts something over the roots,
// so that the store took them all at once; versions keep what there was.
func testAPolicyOfThePrunerGoesByWhenTheRootsThatCountWereWritten(t *testing.T) {
	for name, over := range map[string]func(root []byte) []byte{
		"not put over":        nil,
		"rubbish put over":    func([]byte) []byte { return []byte("rubbish") },
		"the roots put again": func(root []byte) []byte { return root },
	} {
		t.Run(name, func(t *testing.T) {
			m := storagetest.NewMemory()
			simulated(t, func() storage.Store { return m }, func(w *world) {
				var trees []treetest.Tree
				for range 6 {
					w.write("file", 1<<20)
					w.capture("web")
					trees = append(trees, treetest.Snapshot(t, w.dir))
					time.Sleep(day)
				}
				w.forget("web", 1, 2, 3, 4, 5)
				for n := range uint64(5) {
					if key := layout.KeyRoot(enginetest.Host, "web", n+1); over != nil {
						m.Overwrite(key, over(w.copyOf(key)))
					}
				}
				for range 3 {
					d := w.under(&retention.Policy{Daily: 5}).Domains[0]
					if d.Snapshots != 5 {
						t.Errorf("%d snapshots are kept", d.Snapshots)
					}
					time.Sleep(8 * day)
				}
				w.Restores("web@2", w.dir, trees[1])
			})
		})
	}
}

// under prunes on another machine by a policy of its own.
func (w *world) under(policy *retention.Policy) *prune.Report {
	w.t.Helper()
	report, err := prune.Run(w.Ctx, w.Bare(), prune.Options{Policy: func(string, string) *retention.Policy { return policy }})
	w.check(err)
	for _, b := range report.Blocked {
		w.t.Error(b)
	}
	return report
}

func testForgottenRubbishTakesNoPlaceInAPolicyOfThePruner(t *testing.T) {
	for name, policy := range map[string]*retention.Policy{"none": nil, "by number": {Last: 3}, "by time": {Daily: 3}} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				for range 4 {
					w.write("file", 1<<20)
					w.capture("web")
					time.Sleep(day)
				}
				for n := range uint64(4) { // each on another day
					n += 7
					w.rubbishAt(n)
					w.forget("web", n)
					time.Sleep(day)
				}
				w.forget("web", 1, 2, 3)
				want := uint64(1)
				if policy != nil {
					want = 3
				}
				if d := w.under(policy).Domains[0]; d.Snapshots != want {
					t.Errorf("%d snapshots are kept, not %d", d.Snapshots, want)
				}
			})
		})
	}
}

func testAPolicyOfThePruner(t *testing.T) {
	t.Run("gives no place to roots of a key that ended", func(t *testing.T) {
		for name, policy := range map[string]*retention.Policy{"by number": {Last: 4}, "by time": {Daily: 4}} {
			t.Run(name, func(t *testing.T) {
				simulated(t, memory, func(w *world) {
					trees, _ := w.days(3)
					body, forged := mustBody(w, 3), map[string][]byte{}
					for n := uint64(5); n < 25; n++ {
						forged[key(n)], _ = w.forge(n, [32]byte{1}, body, time.Now())
					}
					w.reenrol()
					w.days(1)                         // 4
					for n := uint64(5); n < 25; n++ { // each on another day
						w.put(key(n), forged[key(n)])
						time.Sleep(day)
					}
					w.forget("web", 1, 2, 3)
					for range 3 {
						report, kept := w.under(policy), uint64(0)
						for _, d := range report.Domains {
							kept += d.Snapshots
						}
						if kept != 4 {
							t.Errorf("%d snapshots are kept", kept)
						}
						if len(report.Notes) > 12 {
							t.Errorf("%d notes, such as %s", len(report.Notes), report.Notes[0])
						}
						time.Sleep(8 * day)
					}
					for i, tree := range trees {
						w.Restores(fmt.Sprintf("web@%d", i+1), w.dir, tree)
					}
				})
			})
		}
	})
}
