package posix

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// DirBuffer is a good size, in bytes, of the buffer for ReadDir.
const DirBuffer = 64 << 10

// Layout of struct linux_dirent64.
const (
	direntLen  = 16
	direntType = 18
	direntName = 19
)

// ReadDir calls each for every name of an open directory, except "." and "..", in
// the order of the file system. The type is 0 where the file system does not
// return it. The name lies in buf and changes with the next call. An error of
// the directory comes after the names that could be read; an error of each
// ends the listing.
func ReadDir(fd int, buf []byte, each func(name []byte, t inode.Type) error) error {
	if _, err := seek(fd, 0, unix.SEEK_SET); err != nil {
		return err
	}
	for {
		n, err := retried("getdents64", func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || n == 0 {
			return err
		}
		for rest := buf[:n]; len(rest) > direntName; {
			size := int(binary.NativeEndian.Uint16(rest[direntLen:]))
			if size <= direntName || size > len(rest) {
				break
			}
			name := rest[direntName:size]
			if i := bytes.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			if string(name) != "." && string(name) != ".." {
				if err := each(name, typeOf(uint32(rest[direntType])<<12)); err != nil {
					return err
				}
			}
			rest = rest[size:]
		}
	}
}
