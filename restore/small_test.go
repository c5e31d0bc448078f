package restore_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot"
	"knowngood/snapshot/check"
	"knowngood/storage/authentic"
	"knowngood/storage/storagetest"
)

// small is a history of snapshots with little content.
type small struct {
	*enginetest.World
	t      *testing.T
	memory *storagetest.Memory
	src    string
	trees  []treetest.Tree
	packs  []string // the key of each snapshot's own
}

func newSmall(t *testing.T, snapshots int) *small {
	s := &small{t: t, memory: storagetest.NewMemory(), src: treetest.TempDir(t)}
	s.World = enginetest.New(t, s.memory)
	s.Apart = false
	for i := range 60 {
		writeRandom(t, filepath.Join(s.src, fmt.Sprint(i)), uint64(i), 2000+100*i)
	}
	for i := range snapshots {
		if i > 0 {
			writeRandom(t, filepath.Join(s.src, fmt.Sprint(7*i%60)), uint64(1000+i), 3000+i)
			settle()
		}
		before := map[string]bool{}
		for _, key := range s.memory.Keys() {
			before[key] = true
		}
		s.MustCapture("e", s.src)
		s.trees = append(s.trees, treetest.Snapshot(t, s.src))
		for _, key := range s.memory.Keys() {
			if strings.Contains(key, "/packs/") && !before[key] {
				s.packs = append(s.packs, key)
			}
		}
	}
	return s
}

// objects counts those of the host by their folders.
func (s *small) objects() map[string]int {
	n := map[string]int{}
	for _, key := range s.memory.Keys() {
		if parts := strings.Split(key, "/"); parts[0] == "hosts" {
			n[parts[2]]++
		}
	}
	return n
}

// restored restores all snapshots but some, on a machine with only the identity.
func (s *small) restored(but ...int) {
	s.t.Helper()
	for i, tree := range s.trees {
		if !slices.Contains(but, i) {
			s.Restores(fmt.Sprintf("e@%d", i+1), s.src, tree)
		}
	}
}

func TestSmallSnapshots(t *testing.T) {
	t.Parallel()
	t.Run("are a pack and a root each", func(t *testing.T) {
		if testing.Short() {
			t.Skip("-short leaves it out")
		}
		t.Parallel()
		const snapshots = 70
		s := newSmall(t, snapshots)
		n := s.objects()
		all := 0
		for of := range maps.Values(n) {
			all += of
		}
		if len(s.packs) != snapshots || n["manifests"] > 0 || n["index"] < 1 || 10*all > 22*snapshots {
			t.Errorf("%d packs of snapshots, objects %v", len(s.packs), n)
		}
		s.restored()
		undamaged(s.World)
		if res := s.MustCapture("e", s.src); res.Read > 0 || res.NewBytes > 0 {
			t.Errorf("nothing changed: %d files read, %d bytes stored", res.Read, res.NewBytes)
		}
	})

	t.Run("are found again by a host that lost its state", func(t *testing.T) {
		t.Parallel()
		for _, lost := range [][]string{{"env"}, {"index"}, {"env", "index"}, {"stores"}, {"env", "index", "stores"}} {
			s := newSmall(t, 5)
			for _, name := range lost {
				found, err := filepath.Glob(filepath.Join(s.State, "repos", "*", name))
				s.Check(err)
				for _, dir := range found {
					s.Check(os.RemoveAll(dir))
				}
			}
			if res := s.MustCapture("e", s.src); res.NewBytes > 0 {
				t.Errorf("without %q %d bytes are stored again", lost, res.NewBytes)
			}
			s.restored()
			undamaged(s.World)
		}
	})

	t.Run("lose with their pack what it held, and the next snapshot stores that again", func(t *testing.T) {
		t.Parallel()
		for _, damage := range []string{"lost", "flipped"} {
			s := newSmall(t, 6)
			in := 3
			if damage == "lost" {
				s.memory.Forget(s.packs[in])
			} else {
				s.memory.Edit(s.packs[in], func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			}
			report, err := check.Run(s.Ctx, s.Bare(), check.Options{ReadData: 1})
			s.Check(err)
			if len(report.Damage) != 1 || report.Damage[0].Object != s.packs[in] || report.Damage[0].Count == 0 {
				t.Errorf("%s: damage %+v", damage, report.Damage)
			}
			sealed, err := check.Run(s.Ctx, s.Open(s.State), check.Options{ReadData: 1, Sealed: true})
			s.Check(err)
			if len(sealed.Damage) != 1 || sealed.Damage[0].Object != s.packs[in] {
				t.Errorf("%s: to the host damage is %+v", damage, sealed.Damage)
			}
			res, err := s.Capture("e", func(o *snapshot.Options) { o.Verify.Data = true }, s.src)
			s.Check(err)
			if res.Partial() || res.NewBytes == 0 {
				t.Errorf("%s: stored %d bytes, problems %v", damage, res.NewBytes, res.Problems)
			}
			s.Restores("e@7", s.src, s.trees[5])
			s.restored(in)
			if _, _, err := s.Snapshot(fmt.Sprintf("e@%d", in+1)); err != nil && !authentic.Damaged(err) {
				t.Errorf("%s: %v", damage, errors.Unwrap(err))
			}
		}
	})
}
