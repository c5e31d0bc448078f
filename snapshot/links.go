package snapshot

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"lukechampine.com/blake3"

	"knowngood/internal/densemap"
	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// links knows the inodes with several names, as far as this run has met them.
// Device and inode numbers of an earlier run mean nothing: the first change
// when something is mounted again, the second are used again.
type links struct {
	key  [32]byte // for the names of groups
	seed maphash.Seed

	mu     sync.Mutex
	inodes densemap.Map[posix.DevIno, linkedInode]
	firsts map[posix.DevIno]*file // first names whose content is read, and not kept in inodes
}

// linkedInode is an inode whose other names were not all met yet. There may be
// millions, so it has no pointers.
type linkedInode struct {
	name     uint64 // in the manifest
	state    uint64 // hash of what a stat of its first name showed
	chunk    [32]byte
	left     uint32 // names that were not met yet
	flags    uint32 // of the inode
	kept     bool   // the content of a first name that was read: chunk, or nothing, and flags
	changing bool   // it changed a moment before the run, or in it
}

// linkGroup is an inode as one of its names finds it.
type linkGroup struct {
	name  uint64 // in the manifest
	first *file  // that is read for all names; nil when none is being read
}

func newLinks(key [32]byte) *links {
	return &links{key: key, seed: maphash.MakeSeed(), firsts: map[posix.DevIno]*file{}}
}

// apart is said of a name that no longer shares its inode in the snapshot.
const apart = "it changed while the snapshot was taken: it is captured apart from its other names"

// group finds the group of a node that has several names, nil for others, and
// reports whether an earlier name of this run belongs to it.
func (m *merger) group(n *walk.Node) (g *linkGroup, member bool) {
	if n.Stat.Nlink < 2 || n.Stat.Type == manifest.Dir {
		return nil, false
	}
	l, id := m.links, n.Stat.ID()
	l.mu.Lock()
	defer l.mu.Unlock()

	in, state := l.inodes.Get(id), l.state(&n.Stat)
	if in == nil || in.state != state {
		changing := stamp(n.Stat.Ctime) >= m.started.Add(-clockTick).UnixNano()
		if in != nil && (in.changing || changing) {
			// Else the file system gives one number to several inodes.
			m.problems.add(n.Path, apart)
		}
		if in == nil {
			in = l.inodes.Add(id)
		}
		*in = linkedInode{name: linkName(l.key, n.Path), state: state, left: n.Stat.Nlink - 1, changing: changing}
		delete(l.firsts, id)
		return &linkGroup{name: in.name}, false
	}

	g = &linkGroup{in.name, l.firsts[id]}
	if in.kept {
		g.first = in.first(m.users, &n.Stat)
	}
	if in.left--; in.left == 0 {
		l.inodes.Delete(id)
		delete(l.firsts, id)
	}
	return g, true
}

// state is a hash of what shows a change of an inode.
func (l *links) state(st *posix.Stat) uint64 {
	return maphash.Comparable(l.seed, [...]uint64{uint64(st.Type), st.Size, uint64(st.Mtime.Sec), uint64(st.Mtime.Nsec), uint64(st.Ctime.Sec), uint64(st.Ctime.Nsec)})
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
		m.links.mu.Lock()
		m.links.firsts[f.stat.ID()] = f
		m.links.mu.Unlock()
	}
}

// keep makes little of a first name that was read, where that is possible: its
// content is one chunk at most, and it has no attributes.
func (l *links) keep(f *file) {
	e, id := f.entry, f.stat.ID()
	if f.got.Type == 0 || e.Flags != 0 || len(e.Chunks) > 1 || len(e.Holes)+len(e.Xattrs) > 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.inodes.Get(id)
	if in == nil || l.firsts[id] != f || in.state != l.state(&f.got) {
		return
	}
	delete(l.firsts, id)
	in.kept, in.flags = true, e.InodeFlags
	if len(e.Chunks) > 0 {
		in.chunk = e.Chunks[0].ID
	}
}

// first is the first name of an inode again, by the stat of another name.
func (in *linkedInode) first(users *posix.Users, st *posix.Stat) *file {
	e := &manifest.Entry{Link: in.name, InodeFlags: in.flags}
	describe(users, e, st)
	if e.Size > 0 {
		e.Chunks = []manifest.Chunk{{ID: in.chunk, Len: uint32(e.Size)}}
	}
	return &file{entry: e, got: *st, kept: true}
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
