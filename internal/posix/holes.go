package posix

import (
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// maxHoles bounds the holes recorded of one file. Of a file with more, the
// smallest are read as the zeros that they are.
const maxHoles = 1 << 14

// Holes are the ranges of an open file of size bytes that have no data:
// sorted, disjoint, not adjacent, within size. There are none where the file
// system does not report them. Only a file with fewer blocks than its size needs
// can have holes (see Stat.Sparse). The file offset is 0 afterwards.
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
	return retried("lseek", func() (int64, error) { return unix.Seek(fd, offset, whence) })
}

// Sparse reports whether a file has fewer blocks than its size needs.
func (st *Stat) Sparse() bool { return st.Type == inode.File && st.Blocks*512 < st.Size }

// DataReader reads the bytes of an open file that are not holes, up to a size. The
// descriptor stays the caller's.
type DataReader struct {
	fd    int
	holes []inode.Extent
	at    uint64
	size  uint64
}

// NewDataReader reads from the start of a file with the given holes, as Holes
// returned them.
func NewDataReader(fd int, holes []inode.Extent, size uint64) *DataReader {
	return &DataReader{fd: fd, holes: holes, size: size}
}

func (s *DataReader) Read(b []byte) (int, error) {
	for len(s.holes) > 0 && s.at == s.holes[0].Offset {
		s.at += s.holes[0].Length
		s.holes = s.holes[1:]
	}
	end := s.size
	if len(s.holes) > 0 {
		end = s.holes[0].Offset
	}
	if s.at >= end {
		return 0, io.EOF
	}
	b = b[:min(uint64(len(b)), end-s.at)]
	for {
		n, err := unix.Pread(s.fd, b, int64(s.at))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read at byte %d: %w", s.at, err)
		}
		if n == 0 {
			return 0, io.EOF
		}
		s.at += uint64(n)
		return n, nil
	}
}
