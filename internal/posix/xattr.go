package posix

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// MaxXattrs is how many bytes the extended attributes of one node, names and
// values, may have to be captured. The kernel allows 64 KiB in each.
const MaxXattrs = 8 << 20

// Xattrs are the extended attributes of an open node (not O_PATH), sorted by
// name; none where the file system has no such thing. What the kernel keeps
// from this process is left out silently, as it leaves it out of listings, and
// so is what the file system invents; a user attribute that exists and cannot be
// read is an error, which comes beside the attributes that could be read.
func Xattrs(fd int) ([]inode.Xattr, error) {
	return readXattrs(
		func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) })
}

// NodeXattrs is Xattrs of a node of any type that OpenNode opened.
func NodeXattrs(fd int) ([]inode.Xattr, error) {
	path := procPath(fd)
	return readXattrs(
		func(buf []byte) (int, error) { return unix.Listxattr(path, buf) },
		func(name string, buf []byte) (int, error) { return unix.Getxattr(path, name, buf) })
}

// ErrNoProc: /proc is not there. Some metadata of nodes that cannot be
// opened is reached only through it.
var ErrNoProc = errors.New("/proc is not mounted, and is needed to read and set metadata of files: mount it (mount -t proc proc /proc) and run this again")

// CheckProc returns ErrNoProc where /proc is missing, or is not what it should
// be.
func CheckProc() error {
	fd, err := openat(unix.AT_FDCWD, "/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return ErrNoProc
	}
	defer unix.Close(fd)
	if kind, err := kindOf(fd); err != nil || kind != ProcOrSys {
		return ErrNoProc
	}
	return nil
}

// procPath leads to the node of a descriptor, O_PATH included.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]inode.Xattr, error) {
	var stack [1024]byte
	names, err := grow("listxattr", stack[:], list)
	if isErrno(err, unix.EOPNOTSUPP, unix.ENOSYS) {
		return nil, nil
	}
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var (
		out    []inode.Xattr
		errs   []error
		total  int
		values [1024]byte
	)
	for raw := range bytes.SplitSeq(bytes.TrimSuffix(names, []byte{0}), []byte{0}) {
		name := string(raw)
		value, err := grow("getxattr", values[:], func(buf []byte) (int, error) { return get(name, buf) })
		switch {
		case isErrno(err, unix.ENODATA): // removed meanwhile
			continue
		case isErrno(err, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP) && !strings.HasPrefix(name, "user."):
			continue
		case err != nil:
			errs = append(errs, fmt.Errorf("xattr %q: %w", name, err))
			continue
		}
		if invented(name, value) {
			continue
		}
		if total += len(name) + len(value); total > MaxXattrs {
			return out, fmt.Errorf("extended attributes hold more than %d MiB", MaxXattrs>>20)
		}
		out = append(out, inode.Xattr{Name: name, Value: bytes.Clone(value)})
	}
	slices.SortFunc(out, func(a, b inode.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, errors.Join(errs...)
}

// grow reads what may grow between two calls, into buf or a larger one.
func grow(op string, buf []byte, read func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := retried(op, func() (int, error) { return read(buf) })
		if err == nil {
			return buf[:n], nil
		}
		if !isErrno(err, unix.ERANGE) || len(buf) > 1<<20 {
			return nil, err
		}
		buf = make([]byte, 8*len(buf))
	}
}

// invented reports whether the kernel made an attribute by itself, from what an
// entry has anyway or only for this inode. Such attributes are neither
// captured nor set nor removed: on xfs, removing its second name of an ACL
// removes the ACL.
func invented(name string, value []byte) bool {
	switch name {
	case "trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT": // how xfs shows root the ACLs that it keeps
		return true
	case "security.evm": // the keyed hash that binds metadata to an inode; signatures are other types
		return len(value) > 0 && value[0] == evmHMAC
	}
	return false
}

// evmHMAC is the type of a keyed hash of the kernel's: EVM_XATTR_HMAC.
const evmHMAC = 2

// isErrno reports whether err is one of these errors of the kernel.
func isErrno(err error, errnos ...unix.Errno) bool {
	if err == nil {
		return false
	}
	if se, ok := errors.AsType[*os.SyscallError](err); ok {
		err = se.Err
	}
	e, ok := err.(unix.Errno)
	return ok && slices.Contains(errnos, e)
}
