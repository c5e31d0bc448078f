package manifest

import (
	"crypto/sha256"
	"encoding/binary"
)

// InodeDigest identifies what all names of one inode have in common: content,
// or what stands for it, and metadata, without the names of owners, which may
// change while the inode does not. It is zero for a node with one name.
func (e *Entry) InodeDigest() [16]byte {
	if e.Link == 0 {
		return [16]byte{}
	}
	b := []byte{byte(e.Type)}
	for _, n := range []uint64{uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.Mtime.Sec), uint64(e.Mtime.Nsec), uint64(e.InodeFlags), uint64(len(e.Xattrs))} {
		b = binary.AppendUvarint(b, n)
	}
	for _, x := range e.Xattrs {
		b = binary.AppendUvarint(b, uint64(len(x.Name)))
		b = append(b, x.Name...)
		b = binary.AppendUvarint(b, uint64(len(x.Value)))
		b = append(b, x.Value...)
	}
	b = binary.AppendUvarint(b, e.Size)
	b = binary.AppendUvarint(b, e.Rdev)
	b = binary.AppendUvarint(b, uint64(len(e.Target)))
	b = append(b, e.Target...)
	b = binary.AppendUvarint(b, uint64(len(e.Holes)))
	for _, h := range e.Holes {
		b = binary.AppendUvarint(b, h.Offset)
		b = binary.AppendUvarint(b, h.Length)
	}
	for i := range e.Chunks {
		b = append(b, e.Chunks[i].ID[:]...)
	}
	sum := sha256.Sum256(b)
	return [16]byte(sum[:])
}
