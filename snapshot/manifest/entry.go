// Package manifest holds the entries of a snapshot and the codec of the
// segments that store them. It is pure: no I/O, no clock.
package manifest

import (
	"slices"
	"strings"

	"knowngood/internal/inode"
	"knowngood/storage/pack"
)

// What an entry has of its node.
type (
	Type   = inode.Type
	Time   = inode.Time
	Xattr  = inode.Xattr
	Extent = inode.Extent
)

// Types of nodes.
const (
	File        = inode.File
	Dir         = inode.Dir
	Symlink     = inode.Symlink
	Fifo        = inode.Fifo
	Socket      = inode.Socket
	CharDevice  = inode.CharDevice
	BlockDevice = inode.BlockDevice
)

// Flags of an entry. The numbers are part of the stored format.
type Flags uint8

const (
	// Implied marks a parent directory of a captured path: its metadata is
	// kept so that a new tree can be built, but the directory itself was
	// not captured and a restore in place does not touch it.
	Implied Flags = 1 << iota
	// Changed marks a file that changed while it was read, twice: what was
	// captured may mix old and new content.
	Changed
	// ContentUnread marks a node whose content (or target) could not be
	// read, or not to its end. The content of the entry is not the node's: a
	// restore writes nothing in its name.
	ContentUnread
	// Command marks the output of a command source.
	Command
	// ListingUnread marks a directory whose names could not be read, or not
	// all of them. What is missing below it means nothing.
	ListingUnread
	// MetadataIncomplete marks a node of which some metadata could not be
	// read; its content is whole.
	MetadataIncomplete

	allFlags = Implied | Changed | ContentUnread | Command | ListingUnread | MetadataIncomplete
)

// Incomplete are the flags of what cannot be restored as it was: content or
// names are missing.
const Incomplete = ContentUnread | ListingUnread

// Entry is one node of a captured tree.
//
// Path is relative to the root of the file system: any bytes but NUL, no
// leading, trailing or doubled slash, no "." or ".." component; the root
// itself is "". Strings of a decoded entry share memory with their segment
// and must not be kept beyond it without strings.Clone.
type Entry struct {
	Path  string
	Type  Type
	Flags Flags

	Mode        uint32 // permission bits with setuid, setgid, sticky: 0o7777
	UID, GID    uint32
	User, Group string // names at capture; may be empty
	Mtime       Time

	Size   uint64   // files: length in bytes, holes included
	Target string   // symlinks; empty only with ContentUnread
	Rdev   uint64   // devices: major<<32 | minor
	Xattrs []Xattr  // sorted by name; ACLs, capabilities and labels included
	Link   uint64   // nonzero: all entries of a snapshot with this value are one inode
	Holes  []Extent // files: sorted, disjoint, not adjacent; chunks cover the rest
	Chunks []Chunk  // content without holes, in order
	Ext    []byte   // a record of fields that this version does not know

	InodeFlags uint32 // FS_*_FL, as lsattr shows them: immutable, append-only and the like

	Stat *Stat // what the host saw; only in the host's own copy of a manifest
}

// Stat shows the host that a file has not changed since. It never
// enters the store.
type Stat struct {
	Ctime Time
	Inode uint64
	Dev   uint64 // major<<32 | minor
	Mark  uint64 // of the content of a file, see snapshot/signs; 0 when it is not known
}

// ChunkID is the keyed BLAKE3-256 of a chunk's plaintext.
type ChunkID [32]byte

// Chunk is a piece of content and where it was last known to lie.
type Chunk struct {
	ID  ChunkID
	Len uint32 // plaintext bytes
	Loc Location
}

// Location is a hint: the index is the authority when it fails.
type Location struct {
	Pack        *pack.Ref // shared by all chunks of one pack
	FrameOffset uint32    // of the sealed frame in the pack
	FrameLen    uint32    // sealed bytes
	Offset      uint32    // of the chunk in the frame's plaintext
}

// Metadata of the node, as it is applied to a restored one.
func (e *Entry) Metadata() inode.Metadata {
	return inode.Metadata{Type: e.Type, Mode: e.Mode, UID: e.UID, GID: e.GID, Mtime: e.Mtime, Xattrs: e.Xattrs,
		Flags: e.InodeFlags, Incomplete: e.Flags&MetadataIncomplete != 0}
}

// Compare orders paths component-wise by bytes: a directory comes before
// what is in it, and that before the directory's next sibling.
func Compare(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			if a[i] == '/' {
				return -1
			}
			if b[i] == '/' {
				return 1
			}
			if a[i] < b[i] {
				return -1
			}
			return 1
		}
	}
	return len(a) - len(b)
}

// Within reports whether path is dir or lies below it.
func Within(path, dir string) bool {
	return dir == "" || path == dir || len(path) > len(dir) && path[len(dir)] == '/' && strings.HasPrefix(path, dir)
}

// SameContent reports whether two files hold the same bytes, by size, holes and
// chunk IDs. IDs of two domains cannot be compared.
func SameContent(a, b *Entry) bool {
	return a.Size == b.Size && slices.Equal(a.Holes, b.Holes) &&
		slices.EqualFunc(a.Chunks, b.Chunks, func(x, y Chunk) bool { return x.ID == y.ID && x.Len == y.Len })
}

// SameInode reports whether two files may be names of one inode: they have the
// same content and metadata.
func SameInode(a, b *Entry) bool {
	return SameContent(a, b) && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Mtime == b.Mtime && a.InodeFlags == b.InodeFlags && inode.SameXattrs(a.Xattrs, b.Xattrs)
}

// ContentSize is how many bytes of a file are not holes.
func (e *Entry) ContentSize() uint64 {
	n := e.Size
	for _, h := range e.Holes {
		n -= h.Length
	}
	return n
}
