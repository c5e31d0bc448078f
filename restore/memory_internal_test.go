package restore

import (
	"fmt"
	"runtime"
	"testing"

	"knowngood/internal/treetest"
	"knowngood/snapshot/manifest"
)

func TestMemoryOfDirectories(t *testing.T) {
	const dirs = 100_000
	var l dirLog
	before := treetest.Heap()
	for i := range dirs {
		l.add(&manifest.Entry{Path: fmt.Sprintf("srv/data/%03d/%03d", i/1000, i%1000), Type: manifest.Dir, Mode: 0o755, Mtime: manifest.Time{Sec: int64(i * 7919)}})
	}
	used := treetest.Heap() - before
	t.Logf("%d bytes for %d directories", used, dirs)
	if used > 6<<20 {
		t.Errorf("%d bytes for %d directories", used, dirs)
	}
	runtime.KeepAlive(&l)
}
