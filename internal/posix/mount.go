package posix

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// IsMountPoint reports whether something is mounted at a path, whose symbolic
// links are followed.
func IsMountPoint(path string) (bool, error) {
	at, err := statxFollow(path)
	if err != nil {
		return false, err
	}
	if at.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return at.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}

	// Linux before 5.8, which does not show a directory that is mounted at
	// another place of the same file system.
	above, err := statxFollow(path + "/..")
	if err != nil {
		return false, err
	}
	otherDevice := at.Dev_major != above.Dev_major || at.Dev_minor != above.Dev_minor
	return otherDevice || at.Ino == above.Ino, nil
}

func statxFollow(path string) (st unix.Statx_t, err error) {
	err = retry("statx", func() error { return unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st) })
	if err != nil {
		err = &os.PathError{Op: "look for a mount point at", Path: path, Err: err}
	}
	return st, err
}

// Mount is a file system, or a directory of one, that is mounted.
type Mount struct {
	Path   string // of the mount point
	Type   string // of the file system
	Device string // of the file system: major:minor
	Root   string // path in the file system of what is mounted
}

// Mounts are those at an absolute path, free of links, and below it, in the order in which
// they were mounted; all of them for /.
func Mounts(at string) (mounts []Mount, err error) { return MountsOf("/proc/self", at) }

// MountsOf are Mounts as a process has them, which is a directory of /proc.
func MountsOf(process, at string) (mounts []Mount, err error) {
	b, err := os.ReadFile(process + "/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(kind) == 0 {
			return nil, fmt.Errorf("%s/mountinfo has the line %q, which is not understood", process, line)
		}
		if path := unescape.Replace(f[4]); path == at || strings.HasPrefix(path, strings.TrimSuffix(at, "/")+"/") {
			mounts = append(mounts, Mount{path, kind[0], f[2], unescape.Replace(f[3])})
		}
	}
	return mounts, nil
}

// SyncFS makes all of the file system durable on which a directory lies.
func SyncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
}
