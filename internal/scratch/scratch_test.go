package scratch

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"knowngood/internal/posix"
)

func TestScratch(t *testing.T) {
	t.Run("spaces of killed processes are removed those of others are not", func(t *testing.T) {
		below := filepath.Join(t.TempDir(), "drills [1]*") // a name with what patterns mean
		if err := os.MkdirAll(filepath.Join(below, "another"), 0o755); err != nil {
			t.Fatal(err)
		}
		running, err := New(below, "drill-")
		if err != nil {
			t.Fatal(err)
		}
		killed, err := New(below, "drill-")
		if err != nil {
			t.Fatal(err)
		}
		tree := filepath.Join(killed.Dir, "outer", "restored", "closed")
		if err := os.MkdirAll(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, "file"), nil, 0); err != nil {
			t.Fatal(err)
		}
		if f, err := os.Open(filepath.Join(tree, "file")); err == nil {
			_ = posix.SetInodeFlags(int(f.Fd()), 0x10) // immutable, where that can be had
			f.Close()
		}
		if err := os.Chmod(tree, 0o500); err != nil {
			t.Fatal(err)
		}
		killed.lock.Close() // as the kernel does

		next, err := New(below, "drill-")
		if err != nil {
			t.Fatal(err)
		}
		for dir, want := range map[string]bool{running.Dir: true, killed.Dir: false, next.Dir: true} {
			if _, err := os.Stat(dir); (err == nil) != want {
				t.Errorf("%s is there: %v", dir, err == nil)
			}
		}
		for _, s := range []*Space{running, next} {
			if err := s.Remove(); err != nil {
				t.Error(err)
			}
		}
		if left, err := os.ReadDir(below); err != nil || len(left) != 1 {
			t.Errorf("left: %v, %v", left, err)
		}
	})

	t.Run("many at once keep their spaces", func(t *testing.T) {
		below := t.TempDir()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 50 {
					s, err := New(below, "drill-")
					if err != nil {
						t.Error(err)
						return
					}
					if err := os.Mkdir(filepath.Join(s.Dir, "tree"), 0o700); err != nil {
						t.Error(err)
					}
					if err := s.Remove(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if left, err := os.ReadDir(below); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}
