package prune_test

import (
	"context"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// collapse leaves nothing of the tree, and captures that as a host does that
// was taken over: its root calls no source suspect.
func (w *world) collapse(times int) {
	w.t.Helper()
	w.check(os.RemoveAll(filepath.Join(w.dir, "file")))
	for range times {
		time.Sleep(time.Hour)
		result, err := w.Capture("web", func(o *snapshot.Options) { o.Expect = []snapshot.Expectation{{}} }, w.dir)
		w.check(err)
		if history.Flagged(result.Snapshot) {
			w.t.Fatal("the host says that it is suspect")
		}
	}
}

// accept accepts a snapshot: as the host, or with the identity as the owner.
func (w *world) accept(r *repository.Repository, s *history.Snapshot) {
	w.t.Helper()
	_, err := r.Accept(w.Ctx, enginetest.Host, s.Environment, []statement.Accepted{{Number: s.Number, ID: s.ID}}, "", time.Now())
	w.check(err)
}

func TestSuspect(t *testing.T) {
	t.Run("who prunes for a host finds out by itself that a source collapsed", testWhoPrunesForAHostFindsOutByItselfThatASourceCollapsed)
	t.Run("a host's acceptance binds nobody else, and the owner's does", testAHostsAcceptanceBindsNobodyElseAndTheOwnersDoes)
	t.Run("a root is read once by who prunes for others", testARootIsReadOnceByWhoPrunesForOthers)
	t.Run("a policy that is weaker than the window protects no less", testAPolicyThatIsWeakerThanTheWindowProtectsNoLess)
}

func testWhoPrunesForAHostFindsOutByItselfThatASourceCollapsed(t *testing.T) {
	for name, c := range map[string]struct {
		policy *retention.Policy
		days   int    // from the last good snapshot to the first look
		kept   uint64 // the newest, and what the pruner keeps
		note   string
	}{
		"with a policy of its own":           {&retention.Policy{Last: 3}, 0, 3 + 1, "that the policy of this run keeps: they stay"},
		"with a policy, after weeks":         {&retention.Policy{Last: 3}, 30, 3 + 1, "that the policy of this run keeps: they stay"},
		"without one, by what was good":      {nil, 0, 1 + 1, ", good and of the last days before the suspect ones: it stays"},
		"without one, weeks after the first": {nil, 30, 1 + 1, ", good and of the last days before the suspect ones: it stays"},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				w.write("file", 1<<20)
				w.capture("web")
				tree := treetest.Snapshot(t, w.dir)
				time.Sleep(time.Duration(c.days) * day)
				w.collapse(4)
				w.forget("web", 1, 2, 3, 4)

				elsewhere := treetest.TempDir(t)
				for range 3 { // announced, deleted
					r := w.Open(elsewhere)
					r.Unlock(w.ID)
					report, err := prune.Run(w.Ctx, r, prune.Options{Policy: func(string, string) *retention.Policy { return c.policy }})
					w.check(err)
					notes := strings.Join(report.Notes, "\n")
					if d := report.Domains[0]; d.Snapshots != c.kept || !strings.Contains(notes, c.note) || !strings.Contains(notes, "web@5 has much less than the snapshots before it") {
						t.Errorf("%d snapshots are kept, not %d; notes:\n%s", d.Snapshots, c.kept, notes)
					}
					time.Sleep(8 * day)
				}
				_, err := w.host().Forget(w.Ctx, enginetest.Host, "web", history.Change{Undo: statement.NumbersOf(1), Now: time.Now()})
				w.check(err)
				w.Restores("web@1", w.dir, tree)
			})
		})
	}
}

func testAHostsAcceptanceBindsNobodyElseAndTheOwnersDoes(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("file", 1<<20)
		w.capture("web")
		w.check(os.RemoveAll(filepath.Join(w.dir, "file")))
		last := w.capture("web")
		if !history.Flagged(last) {
			t.Fatal("the host does not say that it is suspect")
		}
		w.accept(w.host(), last)
		w.forget("web", 1)
		elsewhere := treetest.TempDir(t)
		kept := func() uint64 {
			t.Helper()
			r := w.Open(elsewhere)
			r.Unlock(w.ID)
			report, err := prune.Run(w.Ctx, r, prune.Options{})
			w.check(err)
			return report.Domains[0].Snapshots
		}
		for range 2 { // the second rests on what the first remembers
			if n := kept(); n != 2 {
				t.Errorf("with the host's acceptance %d snapshots are kept", n)
			}
		}
		w.accept(w.Bare(), last)
		if n := kept(); n != 1 {
			t.Errorf("with the owner's acceptance %d snapshots are kept", n)
		}
		// The host itself believes both, and its own word.
		if d := w.free(); d.Snapshots != 1 {
			t.Errorf("the host keeps %d", d.Snapshots)
		}
	})
}

// rootReads counts how often roots are read.
type rootReads struct {
	storage.Store
	n atomic.Int64
}

func (c *rootReads) Unwrap() storage.Store { return c.Store }

func (c *rootReads) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if strings.Contains(key, "/roots/") {
		c.n.Add(1)
	}
	return c.Store.Get(ctx, key, offset, length)
}

// List shows nothing by which a root need not be read.
func (c *rootReads) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for x, err := range c.Store.List(ctx, o) {
			x.MD5 = [16]byte{}
			if !yield(x, err) {
				return
			}
		}
	}
}

// What was judged is remembered, and read again where another history is there.
func testARootIsReadOnceByWhoPrunesForOthers(t *testing.T) {
	simulated(t, memory, func(w *world) {
		w.write("file", 1<<20)
		var forgotten []uint64
		for n := range uint64(20) {
			w.capture("web")
			forgotten = append(forgotten, n+1)
			time.Sleep(time.Hour)
		}
		w.forget("web", forgotten[:19]...)
		elsewhere := treetest.TempDir(t)
		reads := func() int64 {
			t.Helper()
			kept, err := filepath.Glob(filepath.Join(elsewhere, "repos", "*", "stores", "*", "copies"))
			w.check(err)
			for _, roots := range kept {
				w.check(os.RemoveAll(roots))
			}
			store := &rootReads{Store: w.Store}
			r, err := repository.Open(w.Ctx, store, repository.Options{Options: trust.Options{StateDir: elsewhere, URL: w.URL, Now: time.Now()}})
			w.check(err)
			r.Unlock(w.ID)
			policy := &retention.Policy{Last: 1}
			_, err = prune.Run(w.Ctx, r, prune.Options{Policy: func(string, string) *retention.Policy { return policy }})
			w.check(err)
			return store.n.Load()
		}
		if first, second := reads(), reads(); first < 20 || second > 5 {
			t.Errorf("%d roots were read, then %d", first, second)
		}
		remembered, err := filepath.Glob(filepath.Join(elsewhere, "repos", "*", "judged", enginetest.Host, "web"))
		if err != nil || len(remembered) != 1 {
			t.Fatalf("it remembers in %v, %v", remembered, err)
		}
		w.check(os.WriteFile(remembered[0], []byte(`{"number":7,"id":"00"}`), 0o600))
		if again := reads(); again < 20 {
			t.Errorf("with another history remembered %d roots were read", again)
		}
	})
}

func testAPolicyThatIsWeakerThanTheWindowProtectsNoLess(t *testing.T) {
	for name, c := range map[string]struct {
		policy *retention.Policy
		kept   uint64 // the newest, and what the pruner keeps
	}{
		"no policy":                {nil, 3 + 1},
		"a weaker one":             {&retention.Policy{Last: 1}, 3 + 1},
		"one that has more of all": {&retention.Policy{Last: 5}, 5 + 5},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, memory, func(w *world) {
				for _, wait := range []time.Duration{20 * day, 20 * day, day, day, 0} { // three in the last week
					w.write("file", 1<<20)
					w.capture("web")
					time.Sleep(wait)
				}
				w.collapse(5)
				w.forget("web", 1, 2, 3, 4, 5, 6, 7, 8, 9)
				if d := w.under(c.policy).Domains[0]; d.Snapshots != c.kept {
					t.Errorf("%d snapshots are kept, not %d", d.Snapshots, c.kept)
				}
			})
		})
	}
}
