package check_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/storagetest"
)

// distantStore takes a second for each read of a pack or container, if it is on, and
// counts the reads: of each key, and how many are under way at once.
type distantStore struct {
	storage.Store
	mu       sync.Mutex
	on       bool
	underWay map[string]int // by kind of object
	most     map[string]int
	reads    map[string]int // by key
}

func (s *distantStore) Unwrap() storage.Store { return s.Store }

func (s *distantStore) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	kind := ""
	if parts := strings.Split(key, "/"); len(parts) > 2 {
		kind = parts[2]
	}
	s.mu.Lock()
	slow := s.on && (kind == "packs" || kind == "manifests")
	s.reads[key]++
	s.underWay[kind]++
	s.most[kind] = max(s.most[kind], s.underWay[kind])
	s.mu.Unlock()
	if slow {
		time.Sleep(time.Second)
	}
	defer func() {
		s.mu.Lock()
		s.underWay[kind]--
		s.mu.Unlock()
	}()
	return s.Store.Get(ctx, key, offset, length)
}

// of is how many reads there were of a kind of object.
func (s *distantStore) of(kind string) (n int) {
	for key, reads := range s.reads {
		if strings.Contains(key, "/"+kind+"/") {
			n += reads
		}
	}
	return n
}

func TestLongHistory(t *testing.T) {
	const snapshots = 40
	// of has a history of small changes, among them to a hard link.
	of := func(t *testing.T, f func(w *world, s *distantStore)) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			memory := storagetest.NewMemory()
			w := &world{t: t, memory: memory, src: filepath.Join(treetest.TempDir(t), "src")}
			if err := os.Mkdir(w.src, 0o755); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(w.src)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(info.ModTime()) + time.Hour)
			w.World = enginetest.New(t, memory)
			for i := range 100 {
				w.Check(os.WriteFile(filepath.Join(w.src, fmt.Sprintf("file-%02d", i)), fmt.Append(nil, i, "first"), 0o644))
			}
			w.Check(os.Link(filepath.Join(w.src, "file-00"), filepath.Join(w.src, "name")))
			for i := range snapshots {
				w.Check(os.WriteFile(filepath.Join(w.src, fmt.Sprintf("file-%02d", i%10)), fmt.Append(nil, i, "changed"), 0o644))
				w.MustCapture("e", w.src)
			}
			s := &distantStore{Store: memory, underWay: map[string]int{}, most: map[string]int{}, reads: map[string]int{}}
			w.Store = s
			f(w, s)
		})
	}
	t.Run("is checked with sixteen requests under way, and few of each object", func(t *testing.T) {
		of(t, func(w *world, s *distantStore) {
			s.on = true
			r := w.run(check.Options{})
			if r.Snapshots != snapshots || len(r.Damage) > 0 {
				t.Fatalf("%d snapshots, damage %q", r.Snapshots, damage(r))
			}
			if s.most["packs"] < 16 {
				t.Errorf("at most %d reads of packs are under way", s.most["packs"])
			}
			for key, n := range s.reads {
				if n > 1 && strings.Contains(key, "/packs/") {
					t.Errorf("%s is read %d times", key, n)
				}
			}
			if n := s.of("manifests"); n > snapshots+10 { // a list and a table, with the segments that are new in it
				t.Errorf("%d reads of containers", n)
			}
		})
	})
	t.Run("is read again to name files only where some may be affected", func(t *testing.T) {
		of(t, func(w *world, s *distantStore) {
			w.run(check.Options{})
			undamaged := s.of("manifests")
			var small storage.Object // of one changed file, that few snapshots have
			for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: "hosts/h/packs/"}) {
				w.Check(err)
				if small.Key == "" || o.Size < small.Size {
					small = o
				}
			}
			w.memory.Forget(small.Key)
			clear(s.reads)
			r := w.run(check.Options{})
			if len(r.Damage) != 1 || r.Damage[0].Count == 0 || r.Damage[0].Count > 10 {
				t.Errorf("damage %+v", r.Damage)
			}
			if more := s.of("manifests") - undamaged; more > 2*snapshots {
				t.Errorf("%d more reads of containers", more)
			}
		})
	})
	t.Run("is reported the same way each time", func(t *testing.T) {
		of(t, func(w *world, s *distantStore) {
			packs := w.keys("hosts/h/packs/")
			for i := range 6 {
				w.memory.Edit(packs[5*i], func(b []byte) []byte { b[len(b)/8] ^= 1; return b })
			}
			var reports []*check.Report
			for range 3 {
				r := w.run(check.Options{ReadData: 1})
				r.Duration = 0
				reports = append(reports, r)
			}
			if len(reports[0].Damage) != 6 || reports[0].Damage[0].Count == 0 {
				t.Errorf("damage %q", damage(reports[0]))
			}
			for _, r := range reports[1:] {
				if !reflect.DeepEqual(damage(r), damage(reports[0])) || !reflect.DeepEqual(r.LostFiles, reports[0].LostFiles) || !reflect.DeepEqual(r.Notes, reports[0].Notes) {
					t.Errorf("%q\n%q\nfirst %q\n%q", damage(r), r.Notes, damage(reports[0]), reports[0].Notes)
				}
			}
		})
	})
}
