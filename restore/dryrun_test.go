package restore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage/storagetest"
)

// both is what a dry run and a restore of the same thing come to.
func (a *archive) both(ref string, o restore.Options) (dry, real *restore.Result) {
	a.T.Helper()
	o.DryRun, o.Verify = true, true
	dry, err := a.TryRestore(ref, o)
	a.Check(err)
	o.DryRun, o.Verify = false, false
	real, err = a.TryRestore(ref, o)
	a.Check(err)
	return dry, real
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	under := enginetest.Under(a.src)

	t.Run("reads one listing of the packs, and none of them", func(t *testing.T) {
		a := a.with(t)
		store := storagetest.NewFaulty(a.Store)
		a.World.Store = store
		store.Clear()
		res := a.Restore("e", restore.Options{Under: under, Target: filepath.Join(treetest.TempDir(t), "missing"), DryRun: true, Verify: true})
		if !res.Complete() || res.Packs < 2 || len(res.Lacking) > 0 {
			t.Errorf("%+v", res)
		}
		lists, gets := 0, 0
		for _, op := range store.Log() {
			if strings.Contains(op.Key, "/packs/") {
				if op.Op == storagetest.List {
					lists++
				} else {
					gets++
				}
			}
		}
		if lists != 1 || gets > 0 {
			t.Errorf("%d listings, %d packs read", lists, gets)
		}
	})

	for _, harm := range []struct {
		name    string
		do      func(a *archive, key string)
		damaged bool // a restore does not bring everything back
		lacking bool
	}{
		{"missing", func(a *archive, key string) { a.memory.Forget(key) }, true, true},
		{"empty", func(a *archive, key string) { a.memory.Edit(key, func([]byte) []byte { return nil }) }, true, true},
		{"cut in half", func(a *archive, key string) { a.memory.Edit(key, func(b []byte) []byte { return b[:len(b)/2] }) }, true, true},
		{"a byte short", func(a *archive, key string) { a.memory.Edit(key, func(b []byte) []byte { return b[:len(b)-1] }) }, false, true},
		{"a byte longer", func(a *archive, key string) { a.memory.Edit(key, func(b []byte) []byte { return append(b, 0) }) }, false, true},
		{"hidden", func(a *archive, key string) { a.Check(a.memory.Delete(a.Ctx, key)) }, false, false},
		{"covered by less", func(a *archive, key string) { a.memory.Overwrite(key, []byte("xxx")) }, false, false},
		{"covered by more", func(a *archive, key string) { a.memory.Overwrite(key, make([]byte, 4<<20)) }, false, false},
		{"as it was", func(*archive, string) {}, false, false},
	} {
		t.Run("ends as the restore does when a pack is "+harm.name, func(t *testing.T) {
			t.Parallel()
			a := a.with(t)
			all := packs(t, a.memory)
			key := all[len(all)-1]
			harm.do(a, key)
			dry, real := a.both("e", restore.Options{Under: under, Target: treetest.TempDir(t)})
			if dry.Planned != real.Planned || dry.Restored != real.Restored || dry.Damaged != real.Damaged || dry.Count != real.Count {
				t.Errorf("dry run: %+v\nrestore: %+v", dry, real)
			}
			if real.Damaged != harm.damaged || len(dry.Lacking) > 0 != harm.lacking {
				t.Errorf("damaged %v, lacking %+v", real.Damaged, dry.Lacking)
			}
			for _, l := range dry.Lacking {
				missing := real.Planned.Files - real.Restored.Files
				if l.Key != key || l.Files == 0 == harm.damaged || l.Files > missing || uint64(len(l.Paths)) != min(l.Files, 10) {
					t.Errorf("lacking: %+v; %d files are missing", l, missing)
				}
			}
		})
	}

	t.Run("asks only for what would be read", func(t *testing.T) {
		a := a.with(t)
		out := treetest.TempDir(t)
		a.Restore("e", restore.Options{Under: under, Target: out})
		for _, key := range packs(t, a.memory) {
			a.memory.Forget(key)
		}
		o := restore.Options{Under: under, Target: out, InPlace: true}
		dry, real := a.both("e", o)
		if dry.Packs != 0 || dry.Damaged || real.Damaged || !dry.Complete() {
			t.Errorf("dry run: %+v\nrestore: %+v", dry, real)
		}
		a.Check(os.Remove(filepath.Join(out, "set-0", "1")))
		dry, real = a.both("e", o)
		if dry.Packs == 0 || !dry.Damaged || !real.Damaged || dry.Planned.Files-dry.Restored.Files != 1 || dry.Restored != real.Restored {
			t.Errorf("dry run: %+v\nrestore: %+v", dry, real)
		}
		o.Under, o.Target = under+"/set-2", filepath.Join(out, "set-2")
		if dry, _ = a.both("e", o); dry.Packs != 0 || dry.Damaged {
			t.Errorf("dry run of what is there: %+v", dry)
		}
	})

	t.Run("is refused where there is no room, be the target missing", func(t *testing.T) {
		w := enginetest.New(t, storagetest.NewMemory())
		forge(w, hostileByName(t, "more content than there is room"), nil)
		for _, target := range []string{treetest.TempDir(t), filepath.Join(treetest.TempDir(t), "a", "b")} {
			_, err := w.TryRestore("e", restore.Options{Target: target, DryRun: true})
			if err == nil || !strings.Contains(err.Error(), "not enough free space") {
				t.Errorf("%s: %v", target, err)
			}
		}
	})
}
