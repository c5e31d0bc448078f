package posix

import (
	"slices"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// maxHoles bounds the holes recorded of one file. Of a file with more, the
// smallest are read as the zeros that they are.
const maxHoles = 1 << 14

// Holes are the ranges of an open file of size bytes that hold no data:
// sorted, disjoint, not adjacent, within size. There are none where the file
// system cannot tell. It is worth asking only of a file whose blocks cannot
// hold its size (see Stat.Sparse). The file offset is 0 afterwards.
func Holes(fd int, size uint64) ([]inode.Extent, error) {
	var holes []inode.Extent
	least := uint64(0)
	err := eachHole(fd, int64(size), func(h inode.Extent) {
		if h.Length < least {
			return
		}
		holes = append(holes, h)
		for len(holes) > maxHoles {
			least = max(4096, 2*least)
			holes = slices.DeleteFunc(holes, func(h inode.Extent) bool { return h.Length < least })
		}
	})
	if err != nil {
		return nil, err
	}
	_, err = seek(fd, 0, unix.SEEK_SET)
	return holes, err
}

func eachHole(fd int, size int64, each func(inode.Extent)) error {
	for at := int64(0); at < size; {
		data, err := seek(fd, at, unix.SEEK_DATA)
		switch {
		case isErrno(err, unix.ENXIO): // nothing but a hole to the end
			data = size
		case isErrno(err, unix.EINVAL, unix.EOPNOTSUPP, unix.ENOTTY):
			return nil
		case err != nil:
			return err
		}
		data = min(data, size)
		if data > at {
			each(inode.Extent{Offset: uint64(at), Length: uint64(data - at)})
		}
		if data >= size {
			return nil
		}
		at, err = seek(fd, data, unix.SEEK_HOLE)
		if isErrno(err, unix.ENXIO) { // truncated meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		if at <= data {
			return nil
		}
	}
	return nil
}

func seek(fd int, offset int64, whence int) (int64, error) {
	at := int64(0)
	err := retry("lseek", func() (err error) {
		at, err = unix.Seek(fd, offset, whence)
		return err
	})
	return at, err
}

// Sparse reports whether a file has fewer blocks than its size needs.
func (st *Stat) Sparse() bool { return st.Type == inode.File && st.Blocks*512 < st.Size }
