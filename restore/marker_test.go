package restore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot/walk"
	"knowngood/storage/storagetest"
)

// on is a world for a subtest.
func on(t *testing.T, w *enginetest.World) *enginetest.World {
	c := *w
	c.T = t
	return &c
}

func TestMarker(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	var files []string
	for i := range 20 {
		files = append(files, fmt.Sprintf("%02d", i))
		writeRandom(t, filepath.Join(src, files[i]), uint64(i), 400<<10)
	}
	settle()
	memory := storagetest.NewMemory()
	w := enginetest.New(t, memory)
	res := w.MustCapture("e", src)
	under := enginetest.Under(src)
	text := fmt.Sprintf("%x\n%s\n", res.Snapshot.ID, under)

	for name, make := range map[string]func(path string) error{
		"that leads to a file": func(path string) error { return os.Symlink(filepath.Join(filepath.Dir(path), "..", "kept"), path) },
		"that leads nowhere":   func(path string) error { return os.Symlink("../nowhere", path) },
		"that is a fifo":       func(path string) error { return unix.Mkfifo(path, 0o600) },
		"that is a directory":  func(path string) error { return os.Mkdir(path, 0o700) },
		"of another restore":   func(path string) error { return os.WriteFile(path, []byte(text+"x"), 0o600) },
		"of a very long text":  func(path string) error { return os.WriteFile(path, []byte(strings.Repeat(text, 1<<15)), 0o600) },
		"that leads to its double": func(path string) error {
			return errors.Join(os.WriteFile(path+"2", []byte(text), 0o600), os.Symlink(filepath.Base(path)+"2", path))
		},
	} {
		t.Run(name+" is refused and left alone", func(t *testing.T) {
			w := on(t, w)
			base := treetest.TempDir(t)
			target := filepath.Join(base, "target")
			write(t, filepath.Join(base, "kept"), text)
			w.Check(os.Mkdir(target, 0o755))
			w.Check(make(filepath.Join(target, walk.RestoreMarker)))
			before := treetest.Snapshot(t, base)
			if _, err := w.TryRestore("e", restore.Options{Under: under, Target: target}); !errors.Is(err, restore.ErrNotEmpty) {
				t.Errorf("restore: %v", err)
			}
			before.Equal(t, base, treetest.Options{})
		})
	}

	for _, n := range []int{0, 1, len(text) - 1} {
		t.Run(fmt.Sprintf("of which %d bytes were written is made anew", n), func(t *testing.T) {
			w := on(t, w)
			target := treetest.TempDir(t)
			w.Check(os.WriteFile(filepath.Join(target, walk.RestoreMarker), []byte(text[:n]), 0o600))
			w.Restore("e", restore.Options{Under: under, Target: target, DryRun: true})
			w.Restore("e", restore.Options{Under: under, Target: target})
			treetest.Equal(t, src, target, treetest.Options{})
		})
	}

	t.Run("of a stranger is not believed", func(t *testing.T) {
		w := on(t, w)
		if os.Geteuid() != 0 {
			t.Skip("giving files away takes root")
		}
		target := treetest.TempDir(t)
		marker := filepath.Join(target, walk.RestoreMarker)
		w.Check(os.WriteFile(marker, []byte(text), 0o644))
		w.Check(os.Lchown(marker, 65534, 65534))
		if _, err := w.TryRestore("e", restore.Options{Under: under, Target: target}); !errors.Is(err, restore.ErrNotEmpty) {
			t.Errorf("restore: %v", err)
		}
		w.Check(os.Lchown(marker, 0, 0))
		w.Restore("e", restore.Options{Under: under, Target: target})
		nothingLeft(t, target, files...)
	})

	t.Run("is made where nothing has its name, whoever tries", func(t *testing.T) {
		w := on(t, w)
		base := treetest.TempDir(t)
		write(t, filepath.Join(base, "kept"), "kept")
		stop := make(chan struct{})
		var attacker sync.WaitGroup
		target := filepath.Join(base, "target")
		attacker.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					os.Symlink("../kept", filepath.Join(target, walk.RestoreMarker))
					os.Remove(filepath.Join(target, walk.RestoreMarker))
					os.Link(filepath.Join(base, "kept"), filepath.Join(target, walk.RestoreMarker))
					os.Remove(filepath.Join(target, walk.RestoreMarker))
				}
			}
		})
		for range 100 {
			w.Check(os.MkdirAll(target, 0o755))
			w.TryRestore("e", restore.Options{Under: under, Target: target}) // which may well fail
			os.RemoveAll(target)                                             // which may, too
		}
		close(stop)
		attacker.Wait()
		if b, err := os.ReadFile(filepath.Join(base, "kept")); err != nil || string(b) != "kept" {
			t.Errorf("outside: %q, %v", b, err)
		}
	})

	t.Run("stays after damage, and the restore goes on when it is repaired", func(t *testing.T) {
		w := on(t, w)
		lost := copyOf(t, memory)
		lost.Forget(packs(t, lost)[0])
		damaged := w.With(t, lost)
		o := restore.Options{Under: under, Target: treetest.TempDir(t)}
		first, err := damaged.TryRestore("e", o)
		w.Check(err)
		missing := first.Planned.Files - first.Restored.Files
		if !first.Unfinished || missing == 0 || first.Restored.Files == 0 || first.Restored.Bytes != first.Restored.Files*400<<10 {
			t.Fatalf("the first restore: %+v", first)
		}
		if b, err := os.ReadFile(filepath.Join(o.Target, walk.RestoreMarker)); err != nil || string(b) != text {
			t.Errorf("the marker: %q, %v", b, err)
		}
		again, err := damaged.TryRestore("e", o)
		w.Check(err)
		if !again.Unfinished || again.Restored != first.Restored || again.Unchanged < first.Restored.Files {
			t.Errorf("the same again: %+v", again)
		}
		last := w.Restore("e", o)
		if last.Unfinished || !last.Complete() || last.Created != missing {
			t.Errorf("the last restore: %+v", last)
		}
		treetest.Equal(t, src, o.Target, treetest.Options{})
	})
}
