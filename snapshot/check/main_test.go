package check_test

import (
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/storagetest"
)

func TestMain(m *testing.M) {
	if err := enginetest.InMemory(); err != nil {
		log.Fatal(err)
	}
	m.Run()
}

// world is a repository with snapshots of a tree of several packs.
type world struct {
	*enginetest.World
	t      *testing.T
	memory *storagetest.Memory
	src    string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	memory := storagetest.NewMemory()
	w := &world{enginetest.New(t, memory), t, memory, filepath.Join(treetest.TempDir(t), "src")}
	for i := range 8 {
		w.write(i, uint64(i))
	}
	return w
}

// write makes a file of 400 KiB.
func (w *world) write(file int, seed uint64) {
	w.t.Helper()
	w.Check(os.MkdirAll(w.src, 0o755))
	b := make([]byte, 400<<10)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	w.Check(os.WriteFile(filepath.Join(w.src, fmt.Sprintf("file-%d", file)), b, 0o644))
}

func (w *world) run(o check.Options) *check.Report {
	w.t.Helper()
	report, err := check.Run(w.Ctx, w.Bare(), o)
	w.Check(err)
	return report
}

// keys of a prefix, in the order of a listing.
func (w *world) keys(prefix string) (keys []string) {
	w.t.Helper()
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{Prefix: prefix}) {
		w.Check(err)
		keys = append(keys, o.Key)
	}
	if len(keys) == 0 {
		w.t.Fatalf("there is no %s", prefix)
	}
	return keys
}

// damage is what is damaged, each with why.
func damage(r *check.Report) (list []string) {
	for _, d := range r.Damage {
		list = append(list, fmt.Sprintf("%s: %v", d.Object, d.Err))
	}
	return list
}

func contains(list []string, part string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, part) })
}
