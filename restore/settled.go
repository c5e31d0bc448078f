package restore

import (
	"encoding/binary"
	"strings"

	"knowngood/internal/densemap"
	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// settled holds link groups whose first name is complete. Whoever reads the
// snapshot cannot know when a group has all its names, so there may be millions.
type settled struct {
	groups densemap.Map[uint64, settledGroup] // by their number in the snapshot
	dirs   []string                           // of first names
	names  names
}

// settledGroup has no pointers.
type settledGroup struct {
	what      [16]byte
	inode     posix.DevIno
	dir, name uint32 // of its first name: positions in settled.dirs and settled.names
	unlike    bool
}

// enter returns the position of the directory of a path. Paths in path order
// enter each directory once.
func (s *settled) enter(path string) uint32 {
	dir := path[:strings.LastIndexByte(path, '/')+1]
	if n := len(s.dirs); n == 0 || s.dirs[n-1] != dir {
		s.dirs = append(s.dirs, strings.Clone(dir))
	}
	return uint32(len(s.dirs) - 1)
}

// add takes a group; not when there is no room for its name.
func (s *settled) add(g *linkGroup) bool {
	name, ok := s.names.add(g.path[len(s.dirs[g.dir]):])
	if ok {
		*s.groups.Add(g.number) = settledGroup{what: g.what, inode: g.inode, dir: g.dir, name: name, unlike: g.unlike}
	}
	return ok
}

// group is a settled group again, for another name of it; nil when there is none
// of that number.
func (s *settled) group(l *links, e *manifest.Entry) *linkGroup {
	f := s.groups.Get(e.Link)
	if f == nil {
		return nil
	}
	path := s.dirs[f.dir] + s.names.get(f.name)
	return &linkGroup{links: l, number: e.Link, path: path, dir: f.dir, kind: e.Type, size: e.Size, what: f.what, inode: f.inode, done: true, unlike: f.unlike}
}

// names holds short texts, with little besides.
type names struct{ pages [][]byte }

const (
	namesPage = 64 << 10 // bytes
	longName  = 4 << 10  // bytes; longer ones are not taken
)

// add returns where a name is from now on; false when it is too long, or one too
// many.
func (n *names) add(name string) (at uint32, ok bool) {
	if len(name) > longName {
		return 0, false
	}
	last := len(n.pages) - 1
	if last < 0 || len(n.pages[last])+binary.MaxVarintLen16+len(name) > namesPage {
		if last++; last == 1<<32/namesPage {
			return 0, false
		}
		n.pages = append(n.pages, make([]byte, 0, namesPage))
	}
	page := &n.pages[last]
	at = uint32(last*namesPage + len(*page))
	*page = append(binary.AppendUvarint(*page, uint64(len(name))), name...)
	return at, true
}

func (n *names) get(at uint32) string {
	b := n.pages[at/namesPage][at%namesPage:]
	length, size := binary.Uvarint(b)
	return string(b[size:][:length])
}
