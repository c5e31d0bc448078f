package prune_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

// drillHost is another machine that has the identity.
func (w *world) drillHost() *repository.Repository {
	r := w.Open(w.t.TempDir())
	r.Unlock(w.ID)
	return r
}

// attest stores on a machine what a drill found of web@number.
func (w *world) attest(on *repository.Repository, number uint64, edit func(*attest.Result)) {
	w.t.Helper()
	_, s, err := w.Snapshot(fmt.Sprintf("web@%d", number))
	w.check(err)
	key, err := on.Attest.EnsureKey(w.Ctx, enginetest.Host, "drill-1", time.Now())
	w.check(err)
	r := &attest.Result{Subject: attest.Subject{Host: enginetest.Host, Environment: "web", Number: number, ID: s.ID}, Content: s.Body.Content, Machine: key.Machine, Started: time.Now(), Passed: true, Level: attest.Restored}
	if edit != nil {
		edit(r)
	}
	_, err = on.Attest.Put(w.Ctx, r, key, time.Now())
	w.check(err)
}

// kept are the snapshots that a policy keeps of web, and why, except the newest.
func (w *world) kept(r *repository.Repository, policy retention.Policy, proof attest.Policy) map[uint64][]string {
	w.t.Helper()
	judged, damaged, err := prune.Judge(w.Ctx, r, enginetest.Host, "web", policy, proof, time.Now(), time.UTC)
	w.check(err)
	if len(damaged) > 0 {
		w.t.Error(damaged)
	}
	out := map[uint64][]string{}
	for _, j := range judged[1:] {
		if len(j.Reasons) > 0 {
			out[j.Number] = j.Reasons
		}
	}
	return out
}

func TestKnownGood(t *testing.T) {
	t.Run("a policy keeps the newest known-good ones", testAPolicyKeepsTheNewestKnownGoodOnes)
	t.Run("nothing is forgotten while proofs cannot be read", testNothingIsForgottenWhileProofsCannotBeRead)
	t.Run("what a host forgets and a drill proved stays for a pruner of others", testWhatAHostForgetsAndADrillProvedStays)
}

func testAPolicyKeepsTheNewestKnownGoodOnes(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.days(9)
		drill, host := w.drillHost(), w.host()
		for n := range uint64(6) {
			w.attest(drill, n+1, func(r *attest.Result) {
				r.Level = []attest.Level{attest.Restored, attest.Probed}[n%2]
			})
		}
		w.attest(w.unlocked(), 7, nil)
		w.attest(w.unlocked(), 8, func(r *attest.Result) { r.Level = attest.Probed })
		w.attest(drill, 4, func(r *attest.Result) { r.Passed = false })

		good := func(policy attest.Policy) (numbers []uint64) {
			for i, r := range []*repository.Repository{host, w.Bare()} {
				kept := w.kept(r, retention.Policy{Last: 1, KnownGood: 3}, policy)
				for n, why := range kept {
					if !slices.Equal(why, []string{"known-good"}) {
						t.Errorf("web@%d is kept as %q", n, why)
					}
				}
				before := numbers
				if numbers = slices.Sorted(maps.Keys(kept)); i > 0 && !slices.Equal(numbers, before) {
					t.Errorf("the host keeps %v, and others %v", before, numbers)
				}
			}
			return numbers
		}
		for _, c := range []struct {
			name   string
			policy attest.Policy
			want   []uint64
		}{
			{"any level", attest.Policy{}, []uint64{3, 5, 6}},
			{"probed", attest.Policy{Require: attest.Probed}, []uint64{2, 6}},
			{"what its own machine attests counts", attest.Policy{SelfAttested: true}, []uint64{6, 7, 8}},
			{"probed, and what its own machine attests", attest.Policy{Require: attest.Probed, SelfAttested: true}, []uint64{2, 6, 8}},
			{"an old proof", attest.Policy{NotOlderThan: time.Second}, []uint64{3, 5, 6}},
		} {
			if got := good(c.policy); !slices.Equal(got, c.want) {
				t.Errorf("%s: it keeps %v, not %v", c.name, got, c.want)
			}
		}
		if kept := w.kept(host, retention.Policy{Last: 1}, attest.Policy{}); len(kept) > 0 {
			t.Errorf("without that rule it keeps %v", kept)
		}

		key, err := drill.Attest.EnsureKey(w.Ctx, enginetest.Host, "drill-1", time.Now())
		w.check(err)
		_, err = drill.Attest.Revoke(w.Ctx, key.ID(), time.Now().Add(-30*day), time.Now())
		w.check(err)
		if got := good(attest.Policy{}); len(got) > 0 {
			t.Errorf("it keeps %v, proven by a key that is revoked", got)
		}
	})
}

func testNothingIsForgottenWhileProofsCannotBeRead(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.days(3)
		w.attest(w.drillHost(), 1, nil)
		denied := w.over(storagetest.NewFaulty(w.Store, storagetest.Rule{Op: storagetest.List, Prefix: "attestations/", Fault: storagetest.FailBefore(storage.ErrDenied)}))
		if _, _, err := prune.Judge(w.Ctx, denied.host(), enginetest.Host, "web", retention.Policy{Last: 1, KnownGood: 1}, attest.Policy{}, time.Now(), time.UTC); !errors.Is(err, storage.ErrDenied) {
			t.Errorf("a policy: %v", err)
		}
		w.forget("web", 1, 2)
		if _, err := prune.Run(w.Ctx, denied.Bare(), prune.Options{Policy: func(string, string) *retention.Policy { return &retention.Policy{KnownGood: 1} }}); !errors.Is(err, storage.ErrDenied) {
			t.Errorf("a prune: %v", err)
		}
		if kept := w.kept(denied.host(), retention.Policy{Last: 1}, attest.Policy{}); len(kept) > 0 {
			t.Errorf("a policy that asks for no proof keeps %v", kept)
		}
	})
}

// A taken host forgets what is proven, and attests what it made since.
func testWhatAHostForgetsAndADrillProvedStays(t *testing.T) {
	simulated(t, memory, func(w *world) {
		trees, _ := w.days(4)
		w.attest(w.drillHost(), 1, nil)
		w.attest(w.drillHost(), 2, nil)
		w.attest(w.drillHost(), 3, func(r *attest.Result) { r.Passed = false })
		w.days(3)
		for n := range uint64(3) {
			w.attest(w.unlocked(), 5+n, nil) // by its own machine
		}
		w.forget("web", 1, 2, 3, 4)
		for range 3 {
			if d := w.under(&retention.Policy{KnownGood: 1, Last: 1}).Domains[0]; d.Snapshots != 4 { // web@2, and what is not forgotten
				t.Errorf("%d snapshots are kept", d.Snapshots)
			}
			time.Sleep(8 * day)
		}
		_, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(2), Now: time.Now()})
		w.check(err)
		w.Restores("web@2", w.dir, trees[1])
		if _, _, err := w.Snapshot("web@1"); err == nil {
			t.Error("the second newest stays, too")
		}
	})
}
