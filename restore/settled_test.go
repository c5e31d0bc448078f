package restore

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

func TestSettled(t *testing.T) {
	t.Run("gives groups back", testSettledGivesGroupsBack)
	t.Run("takes 90 bytes for a group", testSettledTakesFewBytes)
}

func testSettledGivesGroupsBack(t *testing.T) {
	l := &links{settle: true, groups: map[uint64]*linkGroup{}}
	entry := func(i int, path string) *manifest.Entry {
		return &manifest.Entry{Path: path, Type: manifest.File, Size: uint64(i), Link: uint64(i + 1)}
	}
	paths := []string{"top", "a/first", "a/second", "a/b/third", "a/b/\n", "c/" + strings.Repeat("n", longName), "c/" + strings.Repeat("n", longName+1), "z"}
	for i := range 5000 {
		paths = append(paths, fmt.Sprintf("zz/%d/%s", i/7, strings.Repeat("n", i%250+1)))
	}
	for i, path := range paths {
		g, linked := l.group(entry(i, path), [16]byte{byte(i)})
		if linked || g.path != path {
			t.Fatalf("%q is a name of %q", path, g.path)
		}
		g.inode = posix.DevIno{Dev: 1, Ino: uint64(i)}
		if err := g.complete(); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.groups) != 1 {
		t.Errorf("%d groups are not settled, want the one with the long name", len(l.groups))
	}
	for i, path := range paths {
		g, linked := l.group(entry(i, "another name"), [16]byte{byte(i)})
		if !linked || !g.done || g.path != path || g.inode.Ino != uint64(i) || g.size != uint64(i) || g.kind != manifest.File {
			t.Fatalf("the group of %q is %+v", path, g)
		}
	}
}

func testSettledTakesFewBytes(t *testing.T) {
	const groups = 400_000
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	l := &links{settle: true, groups: map[uint64]*linkGroup{}}
	before := heap()
	for i := range groups {
		e := &manifest.Entry{Path: fmt.Sprintf("srv/data/d%04d/f%04d", i/1000, i%1000), Type: manifest.File, Link: uint64(i + 1)}
		g, _ := l.group(e, [16]byte{})
		if err := g.complete(); err != nil {
			t.Fatal(err)
		}
	}
	if each := float64(heap()-before) / groups; each > 90 {
		t.Errorf("%.1f bytes for each group", each)
	}
	runtime.KeepAlive(l)
}
