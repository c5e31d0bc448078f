package restore_test

import (
	"path/filepath"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage/storagetest"
)

func TestSharedManifest(t *testing.T) {
	t.Run("a check reads a shared manifest once", testACheckReadsASharedManifestOnce)
}

// Snapshots between which nothing changed share their manifest, and a check
// looks into it once. Not parallel: other tests change the directory that all
// are in.
func testACheckReadsASharedManifestOnce(t *testing.T) {
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "a"), "content")
	memory := storagetest.NewMemory()
	w := enginetest.New(t, memory)
	settle()
	reads := func() (n int) {
		store := storagetest.NewFaulty(memory)
		w.Store = store
		w.Clean()
		w.Store = memory
		for _, op := range store.Log() {
			if op.Op == storagetest.Get && strings.Contains(op.Key, "/manifests/") {
				n++
			}
		}
		return n
	}
	manifests := map[[32]byte]bool{}
	capture := func() { manifests[w.MustCapture("e", src).Snapshot.Body.Manifest.Hash] = true }
	capture()
	one := reads()
	for range 5 {
		capture() // the check has changed the directory of temporary files
	}
	if len(manifests) > 2 {
		t.Errorf("six snapshots have %d manifests", len(manifests))
	}
	if six := reads(); six > one*len(manifests) {
		t.Errorf("containers are read %d times for one snapshot, %d times for six with %d manifests", one, six, len(manifests))
	}
}
