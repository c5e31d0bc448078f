package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hostDirs of the top level hold programs and libraries, or are links to such.
var hostDirs = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}

const (
	readOnly = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	writable = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
)

// idmapError is about a file system whose mounts cannot be mapped to other users.
type idmapError struct {
	path string
	err  error
}

func (e *idmapError) Error() string {
	return fmt.Sprintf("mapping the users of %s: %v", e.path, e.err)
}

// lowers are the directories that are shown in a cell, by the name of their mount.
func lowers(s Spec) map[string]string {
	dirs := map[string]string{"tree": s.Tree}
	switch s.Base {
	case "none", "":
	case "host":
		for _, d := range hostDirs {
			if fi, err := os.Lstat("/" + d); err == nil && fi.IsDir() {
				dirs[d] = "/" + d
			}
		}
	default:
		dirs["base"] = s.Base
	}
	return dirs
}

// attributes of the mount of one of the lowers.
func (s *Spec) attributes(name string) uint64 {
	if name == "tree" && s.At != "" {
		return writable
	}
	return readOnly
}

// mountsFor opens, as root, what the cell of process pid cannot open itself: the
// directories with their users mapped to those of the cell, and the space for what it
// writes. The caller closes them; none is part of a mount namespace before the cell takes it.
func mountsFor(o *order, m mode, first, pid int) (fds []int, err error) {
	add := func(name string, fd int) {
		o.Mounts, fds = append(o.Mounts, name), append(fds, fd)
	}
	if m == ranged {
		users, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		if err != nil {
			return fds, fmt.Errorf("opening the cell's user namespace: %w", err)
		}
		defer func() { _ = users.Close() }()
		for name, path := range lowers(o.Spec) {
			fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err != nil {
				return fds, fmt.Errorf("opening %s for the cell: %w", path, err)
			}
			add(name, fd)
			attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | o.Spec.attributes(name), Userns_fd: uint64(users.Fd())}
			if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
				return fds, &idmapError{path, err}
			}
		}
	}
	if m != ranged && m != initial {
		return fds, nil
	}

	owner := 0
	if m == ranged {
		owner = first
	}
	if o.Spec.Limits.Disk > 0 {
		// A file system of that size is the one limit that holds for every way to write, and
		// unlike memory it has room for a large database. Who cannot make one gets memory.
		if fd, err := diskOf(o.Spec.Scratch, o.Spec.Limits.Disk, owner); err == nil {
			add("space", fd)
		}
		return fds, nil
	}
	dir := filepath.Join(o.Spec.Scratch, "space")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, owner, owner)); err != nil {
		return fds, fmt.Errorf("making room for the cell: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fds, fmt.Errorf("opening %s for the cell: %w", dir, err)
	}
	add("space", fd)
	return fds, nil
}

// diskOf makes an ext4 file system in a sparse file and returns its mount, which is
// part of no namespace yet. The kernel frees the loop device with the last user
// of the mount, also after kill -9.
func diskOf(scratch string, size int64, owner int) (_ int, err error) {
	path := filepath.Join(scratch, "disk")
	image, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return -1, err
	}
	defer func() { _ = image.Close() }()
	if err := image.Truncate(max(size, 8<<20)); err != nil {
		return -1, err
	}
	mkfs := exec.Command("env", "-i", "PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal",
		"-E", fmt.Sprintf("lazy_itable_init=1,nodiscard,root_owner=%d:%d", owner, owner), path)
	if out, err := mkfs.CombinedOutput(); err != nil {
		return -1, fmt.Errorf("%w: %s", err, out)
	}

	loop, err := loopOf(image)
	if err != nil {
		return -1, err
	}
	defer func() { _ = loop.Close() }()
	fsfd, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(fsfd) }()
	if err := unix.FsconfigSetString(fsfd, "source", loop.Name()); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, err
	}
	return unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, writable)
}

// loopOf attaches an image to a free loop device.
func loopOf(image *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	for range 20 { // somebody else may take it first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(image.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, unix.EBUSY
}
