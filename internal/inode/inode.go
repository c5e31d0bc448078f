// Package inode has the plain types of what a file system knows about one node:
// its type, metadata and holes. They do no I/O. Entries of manifests are made of
// them, and internal/posix reads them from a file system and applies them.
package inode

import (
	"fmt"
	"slices"
	"time"
)

// Type of a node. The numbers are part of the stored format.
type Type uint8

// Types of nodes.
const (
	File        Type = 1
	Dir         Type = 2
	Symlink     Type = 3
	Fifo        Type = 4
	Socket      Type = 5
	CharDevice  Type = 6
	BlockDevice Type = 7
)

var typeNames = [...]string{"?", "file", "dir", "symlink", "fifo", "socket", "chardev", "blockdev"}

func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type-%d", uint8(t))
}

// Time in seconds since 1970, which may be negative, and nanoseconds 0..999999999.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Time as the standard library's type, in UTC.
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// Xattr is one extended attribute with its full name, such as "user.comment".
type Xattr struct {
	Name  string
	Value []byte
}

// SameXattrs reports whether two lists have the same names and values.
func SameXattrs(a, b []Xattr) bool {
	return slices.EqualFunc(a, b, func(x, y Xattr) bool { return x.Name == y.Name && string(x.Value) == string(y.Value) })
}

// Extent is a range of a file in bytes.
type Extent struct{ Offset, Length uint64 }

// Metadata is what can be applied to a node that exists.
type Metadata struct {
	Type     Type
	Mode     uint32 // permission bits with setuid, setgid, sticky: 0o7777
	UID, GID uint32
	Mtime    Time
	Xattrs   []Xattr // sorted by name; ACLs, capabilities and labels included
	Flags    uint32  // FS_*_FL, as lsattr shows them

	// Incomplete is set when some attributes or flags could not be read: what
	// a node has besides these stays.
	Incomplete bool
}
