package restore

import (
	"io"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/storage/chunk"
)

// SameContent reports whether an open file has the content of an entry, which it reads
// for that. The hasher is that of the entry's tree.
func SameContent(hasher *chunk.Hasher, fd int, st *posix.Stat, e *manifest.Entry) (bool, error) {
	return (&comparer{hasher: hasher}).compare(fd, st, e)
}

// comparer compares content with chunk IDs.
type comparer struct {
	hasher *chunk.Hasher
	buf    []byte
	good   []bool // chunks of the last file: which of them are where they should be
}

func (c *comparer) buffer(n int) []byte {
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	return c.buf[:n]
}

// compare reports whether a file has the content of an entry, holes read as
// zeros; fd is -1 when there is no regular file.
func (c *comparer) compare(fd int, st *posix.Stat, e *manifest.Entry) (bool, error) {
	c.good = c.good[:0]
	if fd < 0 {
		return false, nil
	}
	same := st.Size == e.Size
	at := uint64(0)
	for i := range e.Chunks {
		b := c.buffer(int(e.Chunks[i].Len))
		err := readContent(fd, e, at, b)
		if err != nil && err != io.ErrUnexpectedEOF {
			return false, err
		}
		good := err == nil && c.hasher.ID(b) == e.Chunks[i].ID
		same = same && good
		if !same && len(e.Chunks) == 1 {
			return false, nil
		}
		c.good = append(c.good, good)
		at += uint64(e.Chunks[i].Len)
	}
	if same && len(e.Holes) > 0 {
		// What the snapshot has as holes must read as zeros.
		return c.zeros(fd, e)
	}
	return same, nil
}

// zeros reports whether all holes of an entry read as zeros; those that are
// holes in the file cost nothing.
func (c *comparer) zeros(fd int, e *manifest.Entry) (bool, error) {
	have, err := posix.Holes(fd, e.Size)
	if err != nil {
		return false, err
	}
	for _, h := range e.Holes {
		for at := h.Offset; at < h.Offset+h.Length; {
			if n := holeAt(have, at); n > 0 {
				at += n
				continue
			}
			b := c.buffer(int(min(64<<10, h.Offset+h.Length-at)))
			if err := pread(fd, b, at); err != nil {
				return false, err
			}
			for _, x := range b {
				if x != 0 {
					return false, nil
				}
			}
			at += uint64(len(b))
		}
	}
	return true, nil
}

// holeAt returns how far a hole reaches from at; 0 when at is data.
func holeAt(holes []manifest.Extent, at uint64) uint64 {
	for _, h := range holes {
		if at >= h.Offset && at < h.Offset+h.Length {
			return h.Offset + h.Length - at
		}
	}
	return 0
}
