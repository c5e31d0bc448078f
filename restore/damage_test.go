package restore_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/localstate"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// archive is a repository with several objects of each kind.
type archive struct {
	*enginetest.World
	memory *storagetest.Memory
	src    string
	trees  []treetest.Tree // of e@1, e@2, …
}

func newArchive(t *testing.T) *archive {
	a := &archive{memory: storagetest.NewMemory(), src: treetest.TempDir(t)}
	a.World = enginetest.New(t, a.memory)
	treetest.Generate(t, a.src, treetest.Seed(3), treetest.Shape{Nodes: 15, MaxFile: 200 << 10, LargeDir: 8, Without: []treetest.Part{treetest.DeepPaths}})
	for i := range 3 {
		for j := range 3 {
			writeRandom(t, filepath.Join(a.src, fmt.Sprintf("set-%d", i), fmt.Sprint(j)), uint64(10*i+j), 400<<10)
		}
		settle()
		a.MustCapture("e", a.src)
		a.trees = append(a.trees, treetest.Snapshot(t, a.src))
	}
	return a
}

// with is the archive over a copy of its store, for a subtest.
func (a *archive) with(t *testing.T) *archive {
	c := *a
	c.trees = slices.Clip(a.trees) // which the copy may add to
	c.memory = copyOf(t, a.memory)
	c.World = a.With(t, c.memory)
	return &c
}

// keys of the objects of a kind, the newest root first.
func (a *archive) keys(prefix string) []string {
	a.T.Helper()
	keys := slices.DeleteFunc(a.memory.Keys(), func(k string) bool { return !strings.HasPrefix(k, prefix) })
	if len(keys) == 0 {
		a.T.Fatalf("no %s", prefix)
	}
	return keys
}

// packs are the keys of the packs of a store, the smallest one first.
func packs(t *testing.T, m *storagetest.Memory) []string {
	t.Helper()
	sizes := map[string]int64{}
	for o, err := range m.List(t.Context(), storage.ListOptions{Prefix: "hosts/h/packs/"}) {
		if err != nil {
			t.Fatal(err)
		}
		sizes[o.Key] = o.Size
	}
	if len(sizes) < 2 {
		t.Fatalf("there are %d packs", len(sizes))
	}
	return slices.SortedFunc(maps.Keys(sizes), func(a, b string) int { return cmp.Compare(sizes[a], sizes[b]) })
}

// outcome is what a restore of one snapshot came to.
type outcome struct {
	err   error
	wrong map[string]bool // paths that are not as they were
}

// restoreAll restores every snapshot. Whatever is not as it was must be
// named, and whatever ends a restore must name damage of the
// repository.
func (a *archive) restoreAll() []outcome {
	a.T.Helper()
	var all []outcome
	for i, want := range a.trees {
		ref := fmt.Sprintf("e@%d", i+1)
		out := treetest.TempDir(a.T)
		res, err := a.TryRestore(ref, restore.Options{Under: enginetest.Under(a.src), Target: out})
		if err != nil {
			if !authentic.Damaged(err) && !errors.Is(err, trust.ErrNoUsableIdentity) && !errors.Is(err, trust.ErrNoRepository) && !errors.Is(err, history.ErrNoSnapshot) {
				a.T.Errorf("restore %s fails with %v", ref, err)
			}
			all = append(all, outcome{err: err})
			continue
		}
		o := outcome{wrong: map[string]bool{}}
		marked := false
		for _, d := range want.Compare(treetest.Snapshot(a.T, out), treetest.Options{}) {
			if d.Path == walk.RestoreMarker {
				marked = true
				continue
			}
			o.wrong[d.Path] = true
			if !names(res.Problems, enginetest.Under(filepath.Join(a.src, d.Path))) {
				a.T.Errorf("restore %s: not named: %v", ref, d)
			}
			if d.Kind == treetest.Content || d.Kind == treetest.Size {
				a.T.Errorf("restore %s left wrong content: %v", ref, d)
			}
		}
		if (len(res.Problems) > 0) != res.Damaged {
			a.T.Errorf("restore %s: damaged %v, problems %v", ref, res.Damaged, res.Problems)
		}
		if marked != res.Unfinished || marked == res.Complete() || marked != res.Damaged {
			a.T.Errorf("restore %s: marker %v, unfinished %v, damaged %v, %+v of %+v restored", ref, marked, res.Unfinished, res.Damaged, res.Restored, res.Planned)
		}
		all = append(all, o)
	}
	return all
}

// names reports whether the problems name a path.
func names(problems []restore.Problem, path string) bool {
	for _, p := range problems {
		var se *snapshot.SegmentError
		switch {
		case p.Path == path:
			return true
		case errors.As(p.Err, &se) && manifest.Compare(se.First, path) <= 0 && (se.Next == "" || manifest.Compare(path, se.Next) < 0):
			return true
		}
	}
	return false
}

// report is the result of a check of everything.
func (a *archive) report() (*check.Report, error) {
	r, err := repository.Open(a.Ctx, a.Store, repository.Options{})
	if err != nil {
		return nil, err
	}
	r.Unlock(a.ID)
	return check.Run(a.Ctx, r, check.Options{ReadData: 1})
}

// named asserts that a check names each object, and every file that a restore
// did not bring back.
func (a *archive) named(outcomes []outcome, keys ...string) {
	a.T.Helper()
	report, err := a.report()
	if err != nil {
		if !authentic.Damaged(err) && !errors.Is(err, trust.ErrNoRepository) {
			a.T.Errorf("check fails with %v", err)
		}
		for _, key := range keys {
			if !strings.Contains(err.Error(), key) && !errors.Is(err, trust.ErrNoRepository) {
				a.T.Errorf("check ends with %v, which does not name %s", err, key)
			}
		}
		return
	}
	var hurt []string
	for _, d := range report.Damage {
		for _, h := range d.Affected {
			hurt = append(hurt, h.String())
		}
	}
	for _, key := range keys {
		if !slices.ContainsFunc(report.Damage, func(d check.Damage) bool { return strings.Contains(d.Object, key) }) {
			a.T.Errorf("check does not name %s, but %+v and notes %q", key, report.Damage, report.Notes)
		}
	}
	for i, o := range outcomes {
		ref := fmt.Sprintf("e@%d", i+1)
		for path := range o.wrong {
			file := ref + ":" + filepath.Join(a.src, path)
			if !slices.ContainsFunc(hurt, func(h string) bool { return h == file || strings.HasPrefix(h, ref+": ") }) {
				a.T.Errorf("check does not name %s as hurt, but %q", file, hurt)
			}
		}
	}
}

// kinds of objects, by the prefix of their keys.
var kinds = []struct{ name, prefix string }{
	{"descriptor", "descriptor"},
	{"epoch", "epochs/"},
	{"wrapped keys", "keys/"},
	{"certificate", "certs/h/"},
	{"pack", "hosts/h/packs/"},
	{"manifest", "hosts/h/manifests/"},
	{"index run", "hosts/h/index/"},
	{"root", "hosts/h/roots/"},
}

func flip(at func(n int) int) func([]byte) []byte {
	return func(b []byte) []byte { b[at(len(b))] ^= 0x40; return b }
}

// harms that something does to the bytes of an object.
var harms = []struct {
	name string
	do   func([]byte) []byte
}{
	{"first byte flipped", flip(func(int) int { return 0 })},
	{"a byte near the start flipped", flip(func(n int) int { return min(40, n-1) })},
	{"a byte in the middle flipped", flip(func(n int) int { return n / 2 })},
	{"last byte flipped", flip(func(n int) int { return n - 1 })},
	{"cut in half", func(b []byte) []byte { return b[:len(b)/2] }},
	{"one byte short", func(b []byte) []byte { return b[:len(b)-1] }},
	{"empty", func([]byte) []byte { return nil }},
	{"a byte longer", func(b []byte) []byte { return append(b, 0) }},
}

func TestDamage(t *testing.T) {
	t.Parallel()
	t.Run("is named and never restored as content", testDamageIsNamedAndNeverRestoredAsContent)
	t.Run("a missing object is named with what it affects", testAMissingObjectIsNamedWithWhatItHurts)
	t.Run("objects in each other's place are not mistaken for each other", testObjectsInEachOthersPlaceAreNotTakenForEachOther)
	t.Run("an object of another repository is refused", testAnObjectOfAnotherRepositoryIsRefused)
	t.Run("an older root in place of a newer is refused", testAnOlderRootInPlaceOfANewerIsRefused)
	t.Run("a roll back is detected where a newer head is remembered", testARollBackIsDetectedWhereANewerHeadIsRemembered)
	t.Run("what is hidden or covered is found among the versions", testWhatIsHiddenOrCoveredIsFoundAmongTheVersions)
}

func testDamageIsNamedAndNeverRestoredAsContent(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	each := harms
	if testing.Short() {
		each = harms[:2]
	}
	for _, k := range kinds {
		for _, harm := range each {
			t.Run(k.name+", "+harm.name, func(t *testing.T) {
				t.Parallel()
				a := a.with(t)
				keys := a.keys(k.prefix)
				for _, key := range keys[:min(len(keys), 1)] {
					a.memory.Edit(key, harm.do)
				}
				a.named(a.restoreAll(), keys[0])
			})
		}
	}
}

func testAMissingObjectIsNamedWithWhatItHurts(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			a := a.with(t)
			keys := a.keys(k.prefix)
			key := keys[len(keys)/2] // a root in the middle: the last one's end shows only where it is remembered
			a.memory.Forget(key)
			outcomes := a.restoreAll()
			switch k.name {
			case "index run":
				// Restores need none, and the packs' contents have the same.
				for i, o := range outcomes {
					if o.err != nil || len(o.wrong) > 0 {
						t.Errorf("e@%d: %+v", i+1, o)
					}
				}
				a.named(outcomes, key[len(key)-64:])
			default:
				a.named(outcomes, key)
			}
		})
	}
}

func testObjectsInEachOthersPlaceAreNotTakenForEachOther(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			a := a.with(t)
			keys := a.keys(k.prefix)
			if len(keys) < 2 {
				t.Skip("there is one only")
			}
			one, other := keys[0], keys[1]
			x, err := storage.Append(t.Context(), nil, a.memory, one, 0, -1)
			a.Check(err)
			y, err := storage.Append(t.Context(), nil, a.memory, other, 0, -1)
			a.Check(err)
			a.memory.Edit(one, func([]byte) []byte { return y })
			a.memory.Edit(other, func([]byte) []byte { return x })
			a.named(a.restoreAll(), one, other)
		})
	}
}

func testAnObjectOfAnotherRepositoryIsRefused(t *testing.T) {
	t.Parallel()
	a, b := newArchive(t), newArchive(t)
	for _, k := range kinds {
		if k.name == "descriptor" {
			continue // it makes the store that other repository: the pin shows that, below
		}
		t.Run(k.name, func(t *testing.T) {
			a := a.with(t)
			key := a.keys(k.prefix)[0]
			foreign, err := storage.Append(t.Context(), nil, b.memory, b.keys(k.prefix)[0], 0, -1)
			a.Check(err)
			a.memory.Edit(key, func([]byte) []byte { return foreign })
			a.named(a.restoreAll(), key)
		})
	}
	t.Run("descriptor", func(t *testing.T) {
		a := a.with(t)
		foreign, err := storage.Append(t.Context(), nil, b.memory, "descriptor", 0, -1)
		a.Check(err)
		a.memory.Edit("descriptor", func([]byte) []byte { return foreign })
		var tampered *authentic.TamperError
		if _, err := a.Capture("e", nil, a.src); !errors.As(err, &tampered) {
			t.Errorf("a capture where it is remembered: %v", err)
		}
		pin := a.World.Pin
		if _, err := repository.Open(a.Ctx, a.Store, repository.Options{Options: trust.Options{Given: &localstate.Pin{Descriptor: pin, Source: "--pin"}}}); !errors.As(err, &tampered) {
			t.Errorf("with the pin: %v", err)
		}
		for i, o := range a.restoreAll() {
			if o.err == nil {
				t.Errorf("e@%d is restored under a foreign descriptor", i+1)
			}
		}
	})
}

func testAnOlderRootInPlaceOfANewerIsRefused(t *testing.T) {
	t.Parallel()
	a := newArchive(t).with(t)
	keys := a.keys("hosts/h/roots/e/")
	older, err := storage.Append(t.Context(), nil, a.memory, keys[2], 0, -1)
	a.Check(err)
	a.memory.Edit(keys[0], func([]byte) []byte { return older })
	outcomes := a.restoreAll()
	if outcomes[2].err == nil || outcomes[0].err != nil || outcomes[1].err != nil {
		t.Errorf("restores: %+v", outcomes)
	}
	a.named(outcomes, keys[0])
	if _, err := a.TryRestore("e", restore.Options{Target: t.TempDir()}); !authentic.Damaged(err) {
		t.Errorf("restore of the newest: %v", err)
	}
}

func testARollBackIsDetectedWhereANewerHeadIsRemembered(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	for _, gone := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("%d roots gone", gone), func(t *testing.T) {
			a := a.with(t)
			for _, key := range a.keys("hosts/h/roots/e/")[:gone] {
				a.memory.Forget(key)
			}
			var tampered *authentic.TamperError
			if _, err := a.Capture("e", nil, a.src); !errors.As(err, &tampered) {
				t.Errorf("the host's next capture: %v", err)
			}
			r := a.Open(a.State)
			r.Unlock(a.ID)
			ref, _, err := history.ParseRef("e")
			a.Check(err)
			if s, err := r.Resolve(a.Ctx, ref, enginetest.Host); !errors.As(err, &tampered) {
				t.Errorf("the host's newest is %v, %v", s, err)
			}
			report, err := check.Run(a.Ctx, r, check.Options{})
			if err != nil || len(report.Damage) == 0 {
				t.Errorf("the host's check: %+v, %v", report, err)
			}
		})
	}
}

// Where the store keeps versions, what an attacker with a host's credentials
// hides or covers is found beneath.
func testWhatIsHiddenOrCoveredIsFoundAmongTheVersions(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	for _, k := range kinds {
		for _, cover := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, covered %v", k.name, cover), func(t *testing.T) {
				t.Parallel()
				a := a.with(t)
				keys := a.keys(k.prefix)
				if k.name == "root" {
					keys = keys[:2] // with all roots gone nothing shows that the environment was there
				}
				for _, key := range keys {
					if cover {
						body, err := storage.Append(t.Context(), nil, a.memory, key, 0, -1)
						a.Check(err)
						a.memory.Overwrite(key, flip(func(n int) int { return n / 2 })(body))
					} else {
						a.Check(a.memory.Delete(t.Context(), key))
					}
				}
				report, err := a.report()
				if k.name != "descriptor" { // without the pin nobody can know
					a.Check(err)
					for _, key := range keys {
						known := cover || k.name != "index run" // nothing needs a run, or knows of it
						if known && !slices.ContainsFunc(report.Damage, func(d check.Damage) bool { return strings.Contains(d.Object, key) }) {
							t.Errorf("check does not name %s, but %+v", key, report.Damage)
						}
					}
					for _, d := range report.Damage {
						if d.Count > 0 {
							t.Errorf("check: %s affects %q", d.Object, d.Affected)
						}
					}
				}
				pin := a.World.Pin
				for i, want := range a.trees {
					r, err := repository.Open(a.Ctx, a.Store, repository.Options{Options: trust.Options{Given: &localstate.Pin{Descriptor: pin, Source: "--pin"}}})
					a.Check(err)
					r.Unlock(a.ID)
					ref, _, err := history.ParseRef(fmt.Sprintf("h/e@%d", i+1))
					a.Check(err)
					s, err := r.Resolve(a.Ctx, ref, enginetest.Host)
					a.Check(err)
					tree, err := snapshot.OpenTree(a.Ctx, r, s)
					a.Check(err)
					out := treetest.TempDir(t)
					res, err := restore.Run(a.Ctx, restore.Options{Tree: tree, Under: enginetest.Under(a.src), Target: out})
					a.Check(err)
					for _, p := range res.Problems {
						t.Errorf("%q: %v", p.Path, p.Err)
					}
					want.Equal(t, out, treetest.Options{})
					tree.Reader.Close()
				}
			})
		}
	}
}
