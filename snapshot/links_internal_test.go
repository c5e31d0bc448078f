package snapshot

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

func TestLinks(t *testing.T) {
	t.Run("an inode whose first name was read takes 110 bytes", testLinksTakeFewBytes)
}

func testLinksTakeFewBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	const inodes = 400_000
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	c := &capture{links: newLinks([32]byte{1}), users: &posix.Users{}, started: time.Now()}
	m := &merger{capture: c}
	stat := func(i int) posix.Stat {
		return posix.Stat{Type: manifest.File, Nlink: 2, Size: uint64(i % 3), Ino: uint64(i), Dev: 1, Mtime: manifest.Time{Sec: int64(i)}}
	}
	chunks := func(i int) (out []manifest.Chunk) {
		for range min(1, i%3) {
			out = append(out, manifest.Chunk{ID: manifest.ChunkID{byte(i), byte(i >> 8), byte(i >> 16)}, Len: uint32(i % 3)})
		}
		return out
	}
	before := heap()
	for i := range inodes {
		n := &walk.Node{Path: fmt.Sprintf("a/%d", i), Stat: stat(i)}
		g, member := m.group(n)
		e := &manifest.Entry{Path: n.Path, Link: g.name, Type: manifest.File, Size: n.Stat.Size, InodeFlags: uint32(i)}
		f := &file{stat: n.Stat, entry: e}
		m.join(f, g, member)
		e.Chunks, f.got = chunks(i), n.Stat
		c.links.keep(f)
	}
	if each := float64(heap()-before) / inodes; each > 110 {
		t.Errorf("%.1f bytes for each inode", each)
	}

	for i := range inodes {
		g, member := m.group(&walk.Node{Path: fmt.Sprintf("b/%d", i), Stat: stat(i)})
		if !member || g.first == nil || g.name != linkName(c.links.key, fmt.Sprintf("a/%d", i)) {
			t.Fatalf("name %d: %v, %+v", i, member, g)
		}
		want := &manifest.Entry{Type: manifest.File, Size: uint64(i % 3), Chunks: chunks(i), Mtime: stat(i).Mtime, InodeFlags: uint32(i)}
		if e := g.first.entry; !manifest.SameInode(e, want) {
			t.Fatalf("name %d takes over %+v", i, e)
		}
	}
	if n := c.links.inodes.Len() + len(c.links.firsts); n != 0 {
		t.Errorf("%d inodes are left whose names were all met", n)
	}
}
