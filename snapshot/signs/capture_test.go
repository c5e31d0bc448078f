package signs_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/signs"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func TestMain(m *testing.M) {
	if err := enginetest.InMemory(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// captured is a tree on disk, and a repository.
type captured struct {
	*enginetest.World
	dir  string
	disk tree
}

func newCaptured(t *testing.T) *captured {
	return &captured{enginetest.New(t, storagetest.NewMemory()), filepath.Join(treetest.TempDir(t), "share"), tree{}}
}

// write makes the disk hold a tree.
func (c *captured) write(t tree) {
	for p := range c.disk {
		if _, ok := t[p]; !ok {
			c.Check(os.Remove(filepath.Join(c.dir, p)))
		}
	}
	for p, b := range t {
		if old, ok := c.disk[p]; ok && bytes.Equal(old, b) {
			continue
		}
		full := filepath.Join(c.dir, p)
		c.Check(os.MkdirAll(filepath.Dir(full), 0o755))
		c.Check(os.WriteFile(full, b, 0o644))
	}
	c.disk = maps.Clone(t)
}

func (c *captured) reference() string {
	files, err := filepath.Glob(filepath.Join(c.Open(c.State).State.Dir().Path("env", "web"), "reference"))
	c.Check(err)
	if len(files) != 1 {
		c.T.Fatalf("references: %q", files)
	}
	return files[0]
}

// state is what the host remembers after a capture.
func (c *captured) state() (s signs.State) {
	var j struct{ Signs *signs.State }
	b, err := os.ReadFile(c.reference())
	c.Check(err)
	j.Signs = &s
	c.Check(json.Unmarshal(b, &j))
	return s
}

func TestCaptures(t *testing.T) {
	t.Parallel()

	t.Run("see what the simulation sees", func(t *testing.T) {
		t.Parallel()
		testCaptures(t, 2)
	})
}

// The loads and the encryptors, by captures of trees on disk.
func testCaptures(t *testing.T, runs int) {
	all := slices.Clone(loads)
	for _, e := range encryptors {
		var todo []string
		all = append(all, load{e.name, office, func(r *rand.Rand, files tree, run int) {
			work(r, files, run)
			if run == 0 {
				todo = slices.Sorted(maps.Keys(files))
			}
			for n := 0; n < 10 && len(todo) > 0; todo = todo[1:] {
				if b, ok := files[todo[0]]; ok && len(b) > 256 {
					delete(files, todo[0])
					name, content := e.file(r, todo[0], b)
					files[name] = content
					n++
				}
			}
		}})
	}

	for i, l := range all {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(i), 1<<40))
			files, m, c := l.begin(r), &machine{}, newCaptured(t)
			m.run(files)
			c.write(files)
			c.MustCapture("web", c.dir)
			for run := range runs {
				l.step(r, files, run)
				_, suspect := m.run(files)
				c.write(files)
				res := c.MustCapture("web", c.dir)
				if got := looksEncrypted(res); got != suspect {
					t.Errorf("run %d: the capture is suspect: %v, and the simulation: %v", run, got, suspect)
				}
				got := c.state()
				if got.First = m.state.First; got != m.state {
					t.Fatalf("run %d: a capture saw %+v, the simulation %+v", run, got, m.state)
				}
			}
			if m.state.Of == 0 {
				t.Error("nothing changed")
			}
		})
	}
}

// looksEncrypted reports whether a snapshot is suspect for that reason, to the host and
// by its root.
func looksEncrypted(res *snapshot.Result) bool {
	encrypted := func(s snapshot.Suspicion) bool { return s.Reason == statement.LooksEncrypted }
	return slices.ContainsFunc(res.Suspect, encrypted) &&
		slices.ContainsFunc(res.Snapshot.Body.Suspect, func(s statement.Suspicion) bool { return s.Reason == statement.LooksEncrypted })
}

// small are 60 files, of which all are encrypted in place.
func small(r *rand.Rand) (good, bad tree) {
	good, bad = tree{}, tree{}
	for i := range 60 {
		p := filepath.Join("docs", words[i]+".txt")
		good[p] = text(r, 3000)
		bad[p] = ciphertext(r, 3000)
	}
	return good, bad
}

func TestSuspectEnvironment(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T, *captured, tree, tree){
		"stays so until the files are back":             staysSoUntilTheFilesAreBack,
		"ends with an acceptance":                       endsWithAnAcceptance,
		"stays so when what the host remembers is lost": staysSoWhenTheReferenceIsLost,
		"is not found without earlier marks":            isNotFoundWithoutEarlierMarks,
		"is found after a run that died":                isFoundAfterARunThatDied,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good, bad := small(rand.New(rand.NewPCG(7, 7)))
			c := newCaptured(t)
			c.write(good)
			if looksEncrypted(c.MustCapture("web", c.dir)) {
				t.Fatal("the first snapshot looks encrypted")
			}
			test(t, c, good, bad)
		})
	}
}

func (c *captured) mustBe(want bool, what string) *snapshot.Result {
	c.T.Helper()
	res := c.MustCapture("web", c.dir)
	if got := looksEncrypted(res); got != want {
		c.T.Fatalf("%s: it looks encrypted: %v (%v)", what, got, res.Suspect)
	}
	return res
}

func staysSoUntilTheFilesAreBack(t *testing.T, c *captured, good, bad tree) {
	c.write(bad)
	res := c.mustBe(true, "encrypted")
	for _, word := range []string{c.dir + " looks encrypted", "compressibility: 60; ", "60 of 60"} {
		if got := res.Suspect[0].String(); !strings.Contains(got, word) || strings.Contains(got, "docs/") {
			t.Errorf("it says %q, and not %q", got, word)
		}
	}
	c.mustBe(true, "unchanged")

	back := 0
	for p, b := range good { // a third is restored
		if back++; back <= 20 {
			bad[p] = b
		}
	}
	c.write(bad)
	c.mustBe(true, "a third is back")
	c.Restore("web@1", restore.Options{Under: enginetest.Under(c.dir), Target: c.dir, InPlace: true})
	c.mustBe(false, "restored")
	c.mustBe(false, "unchanged, after that")
}

func endsWithAnAcceptance(t *testing.T, c *captured, good, bad tree) {
	c.write(bad)
	c.mustBe(true, "encrypted")
	_, s, err := c.Snapshot("web@2")
	c.Check(err)
	if _, err := snapshot.Accept(c.Ctx, c.Open(c.State), s, nil, "meant to be", time.Now()); err != nil {
		t.Fatal(err)
	}
	c.mustBe(false, "accepted")
	c.write(good)
	c.mustBe(false, "back")
	r := rand.New(rand.NewPCG(8, 8))
	for p := range bad {
		bad[p] = ciphertext(r, 3000)
	}
	c.write(bad)
	c.mustBe(true, "encrypted again, with another key")
}

func staysSoWhenTheReferenceIsLost(t *testing.T, c *captured, _, bad tree) {
	c.write(bad)
	c.mustBe(true, "encrypted")
	c.Check(os.Remove(c.reference()))
	c.mustBe(true, "without the reference")
}

func isNotFoundWithoutEarlierMarks(t *testing.T, c *captured, good, bad tree) {
	c.Check(os.Remove(filepath.Join(filepath.Dir(c.reference()), "manifest")))
	c.write(bad)
	c.mustBe(false, "without marks")
	for p := range bad {
		bad[p] = good[p]
	}
	c.write(bad)
	c.mustBe(false, "plain again")
}

func isFoundAfterARunThatDied(t *testing.T, c *captured, _, bad tree) {
	c.write(bad)
	time.Sleep(100 * time.Millisecond) // else the files are read again
	dead := c.Over(storagetest.NewFaulty(c.Store, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/roots/", Fault: storagetest.FailBefore(nil)}))
	if _, err := dead.Capture("web", nil, c.dir); err == nil {
		t.Fatal("the run did not die")
	}
	res := c.mustBe(true, "after a run that died")
	if res.Read >= 60 {
		t.Errorf("%d files were read again", res.Read)
	}
}
