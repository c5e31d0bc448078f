package restore

import (
	"io"

	"golang.org/x/sys/unix"

	"knowngood/snapshot/manifest"
)

// readContent fills b with content of a file; at counts content without the holes
// of the entry.
func readContent(fd int, e *manifest.Entry, at uint64, b []byte) error {
	return aroundHoles(e, at, b, func(at uint64, b []byte) error { return pread(fd, b, at) })
}

// writeContent writes content of a file; at counts content without the holes of
// the entry.
func writeContent(fd int, e *manifest.Entry, at uint64, b []byte) error {
	return aroundHoles(e, at, b, func(at uint64, b []byte) error { return pwrite(fd, b, at) })
}

// aroundHoles calls do with the pieces of b between the holes of an entry, and
// where they lie in the file.
func aroundHoles(e *manifest.Entry, at uint64, b []byte, do func(at uint64, b []byte) error) error {
	for _, h := range e.Holes {
		if h.Offset > at {
			n := min(h.Offset-at, uint64(len(b)))
			if err := do(at, b[:n]); err != nil {
				return err
			}
			b, at = b[n:], at+n
			if len(b) == 0 {
				return nil
			}
		}
		at += h.Length
	}
	return do(at, b)
}

func pwrite(fd int, b []byte, at uint64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, int64(at))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+uint64(n)
	}
	return nil
}

func pread(fd int, b []byte, at uint64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, int64(at))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		b, at = b[n:], at+uint64(n)
	}
	return nil
}
