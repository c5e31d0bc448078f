package prune_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"

	capture "knowngood/snapshot"
)

// together is a host whose captures, some of which take days, are forgotten
// and pruned while they run.
type together struct {
	*world
	memory  *storagetest.Memory
	trees   map[string]map[uint64]treetest.Tree // what snapshots hold
	gone    map[string]map[uint64]bool          // forgotten
	running map[string]chan ended
	counts  map[string]int // of what happened
}

// ended is the result of a capture.
type ended struct {
	number uint64
	tree   treetest.Tree
	err    error
}

func TestTogether(t *testing.T) {
	t.Run("every kept snapshot restores whatever runs beside the pruner", testEveryKeptSnapshotRestoresWhateverRunsBesideThePruner)
}

func testEveryKeptSnapshotRestoresWhateverRunsBesideThePruner(t *testing.T) {
	seeds := uint64(12)
	switch {
	case enginetest.Slow():
		seeds = 300
	case testing.Short():
		seeds = 4
	}
	total := map[string]int{}
	var done []map[string]int
	t.Run("seeds", func(t *testing.T) {
		for seed := range seeds {
			counts := map[string]int{}
			done = append(done, counts)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				m := storagetest.NewMemory()
				simulated(t, func() storage.Store { return m }, func(w *world) {
					w.rand = rand.New(rand.NewPCG(seed, 7))
					x := &together{w, m, map[string]map[uint64]treetest.Tree{"web": {}, "db": {}}, map[string]map[uint64]bool{"web": {}, "db": {}}, map[string]chan ended{}, counts}
					for range 80 {
						x.step()
					}
					x.end()
				})
			})
		}
	})
	for _, counts := range done {
		for what, n := range counts {
			total[what] += n
		}
	}
	t.Logf("in all: %v", total)
	all := []string{"captured", "forgotten", "deleted", "spared", "undone"}
	if enginetest.Slow() {
		all = append(all, "overtaken") // which is rare
	}
	for _, what := range all {
		if total[what] == 0 {
			t.Errorf("never was anything %s: this test tests less than it says", what)
		}
	}
}

func (x *together) step() {
	env := []string{"web", "db"}[x.rand.IntN(2)]
	switch n := x.rand.IntN(20); {
	case n < 5:
		x.change()
	case n < 9:
		x.start(env)
	case n < 12:
		time.Sleep(time.Duration(1+x.rand.IntN(30)) * time.Hour)
	case n < 15:
		x.forgetSome(env)
	case n < 16:
		x.undo(env)
	default:
		x.pruneAndLook()
	}
	x.collect()
}

// change gives a few files one of a few contents, so that what was forgotten
// comes back.
func (x *together) change() {
	for range 1 + x.rand.IntN(3) {
		blob := make([]byte, 60<<10)
		from := rand.New(rand.NewPCG(99, x.rand.Uint64N(12)))
		for i := range blob {
			blob[i] = byte(from.Uint64())
		}
		x.check(os.WriteFile(filepath.Join(x.dir, fmt.Sprint(x.rand.IntN(6))), blob, 0o644))
	}
}

// start begins a capture that has read its files when start returns, and
// whose packs may take days.
func (x *together) start(env string) {
	if x.running[env] != nil {
		return
	}
	slow := *x.World
	hours := []int{0, 0, 5, 22, 30, 40, 70}[x.rand.IntN(7)]
	slow.Store = storagetest.NewFaulty(x.memory, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/packs/", Nth: 1, Fault: storagetest.Delayed(time.Duration(hours) * time.Hour)})
	tree := treetest.Snapshot(x.t, x.dir)
	done := make(chan ended, 1)
	x.running[env] = done
	go func() {
		res, err := slow.Capture(env, func(o *capture.Options) { o.Sources = []walk.Source{{Path: x.dir}} }, x.dir)
		if err != nil {
			done <- ended{err: err}
			return
		}
		done <- ended{res.Snapshot.Number, tree, nil}
	}()
	synctest.Wait()
}

// collect takes the result of captures that ended.
func (x *together) collect() {
	for env, done := range x.running {
		select {
		case res := <-done:
			delete(x.running, env)
			switch {
			case res.err == nil:
				x.trees[env][res.number] = res.tree
				x.counts["captured"]++
			case errors.Is(res.err, objects.ErrOvertaken):
				x.counts["overtaken"]++
			default:
				x.t.Fatalf("capture of %s: %v", env, res.err)
			}
		default:
		}
	}
}

// kept are the numbers of snapshots that are not forgotten.
func (x *together) kept(env string) []uint64 {
	var out []uint64
	for _, n := range slices.Sorted(maps.Keys(x.trees[env])) {
		if !x.gone[env][n] {
			out = append(out, n)
		}
	}
	return out
}

func (x *together) forgetSome(env string) {
	numbers := x.kept(env)
	if len(numbers) < 2 {
		return
	}
	for _, n := range numbers[:len(numbers)-1] {
		if x.rand.IntN(3) > 0 {
			x.forget(env, n)
			x.gone[env][n] = true
			x.counts["forgotten"]++
		}
	}
}

func (x *together) undo(env string) {
	for n := range x.gone[env] {
		_, err := x.host().Forget(x.Ctx, enginetest.Host, env, history.Change{Undo: statement.NumbersOf(n), Now: time.Now()})
		if errors.Is(err, history.ErrPruned) {
			continue
		}
		x.check(err)
		delete(x.gone[env], n)
		x.counts["undone"]++
		return
	}
}

func (x *together) pruneAndLook() {
	report := x.prune(prune.Options{Announce: prune.MinAnnounce})
	for _, b := range report.Blocked {
		x.t.Fatal(b)
	}
	for _, d := range report.Domains {
		x.counts["deleted"] += int(d.Deleted.Objects)
		x.counts["spared"] += int(d.Spared.Objects)
	}
	x.collect()
	x.indexSays(false)
	for env := range x.trees {
		for _, n := range x.kept(env) {
			x.Restores(fmt.Sprintf("%s@%d", env, n), x.dir, x.trees[env][n])
		}
	}
}

// indexSays makes sure that a pack which the index names is there, or known to
// be none to refer to; and when all runs ended, that no replaced run is left.
func (x *together) indexSays(ended bool) {
	r := x.host()
	h, err := r.Host(x.Ctx)
	x.check(err)
	ix, err := r.ReadIndex(x.Ctx, enginetest.Host, h.Domain, nil)
	x.check(err)
	defer ix.Close()
	there := map[string]bool{}
	for _, key := range x.memory.Keys() {
		there[key] = true
	}
	for hash := range ix.PackSizes() {
		if !there[layout.KeyPack(enginetest.Host, h.Domain.ID, hash)] && !ix.Absent(wire.KindPack, hash) {
			x.t.Fatalf("the index names pack %x, which was deleted, and nothing says so any more", hash[:8])
		}
	}
	if old, more, err := ix.Replaced(x.Ctx, time.Now(), nil); err != nil || ended && (more || len(old) > 0) {
		x.t.Errorf("replaced index runs are left: %v, %v", old, err)
	}
}

// end lets all captures end, and frees all that only they needed.
func (x *together) end() {
	time.Sleep(100 * time.Hour)
	x.collect()
	for range 4 {
		x.pruneAndLook()
		time.Sleep(60 * time.Hour)
	}
	x.Clean()
	x.indexSays(true)
	report := x.prune(prune.Options{Announce: prune.MinAnnounce})
	if len(report.Domains) == 0 {
		return
	}
	if packs, containers := x.stored(); uint64(packs+containers) != report.Domains[0].Needed.Objects {
		x.t.Errorf("%d packs and %d containers are stored, %d are needed", packs, containers, report.Domains[0].Needed.Objects)
	}
}
