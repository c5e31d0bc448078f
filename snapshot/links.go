package snapshot

import (
	"encoding/binary"

	"lukechampine.com/blake3"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// linkGroup is an inode with several names, as far as this run has met them.
// Device and inode numbers of an earlier run say nothing: the first change
// when something is mounted again, the second are used again.
type linkGroup struct {
	name  uint64     // in the manifest
	stat  posix.Stat // as its first name was seen
	left  uint32     // names that were not met yet
	first *file      // that is read for all names; nil when none is being read
}

// apart is said of a name that no longer shares its inode in the snapshot.
const apart = "it changed while the snapshot was taken: it is captured apart from its other names"

// group finds the group of a node that has several names, nil for others, and
// reports whether an earlier name of this run belongs to it.
func (m *merger) group(n *walk.Node) (g *linkGroup, member bool) {
	if n.Stat.Nlink < 2 || n.Stat.Type == manifest.Dir {
		return nil, false
	}
	id := n.Stat.ID()
	g = m.links[id]
	if g == nil || !sameContent(&g.stat, &n.Stat) {
		if g != nil && max(stamp(g.stat.Ctime), stamp(n.Stat.Ctime)) >= m.started.Add(-clockTick).UnixNano() {
			// Else the file system gives one number to several inodes.
			m.problems.add(n.Path, apart)
		}
		g = &linkGroup{name: linkName(m.key, n.Path), stat: n.Stat, left: n.Stat.Nlink - 1}
		m.links[id] = g
		return g, false
	}
	if g.left--; g.left == 0 {
		delete(m.links, id)
	}
	return g, true
}

// join makes f the name of its group whose content is read, or one that may
// take that over.
func (m *merger) join(f *file, g *linkGroup, member bool) {
	if g == nil || f.entry.Type != manifest.File {
		return
	}
	if member && g.first != nil {
		f.first = g.first
		return
	}
	if !member {
		f.read = make(chan struct{})
		g.first = f
	}
}

// sameContent reports whether two looks at an inode saw the same state of it.
func sameContent(a, b *posix.Stat) bool {
	return a.ID() == b.ID() && a.Type == b.Type && a.Size == b.Size && a.Mtime == b.Mtime && a.Ctime == b.Ctime
}

// linkName names a group by the first path that it has in the snapshot, so that
// the group's entries stay the same as long as that does. It is keyed, because
// who chooses paths must not be able to make two groups one.
func linkName(key [32]byte, path string) uint64 {
	h := blake3.New(32, key[:])
	h.Write([]byte("link group\n"))
	h.Write([]byte(path))
	var sum [32]byte
	return binary.LittleEndian.Uint64(h.Sum(sum[:0])) | 1
}
