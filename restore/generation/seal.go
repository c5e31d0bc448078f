package generation

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/snapshot/walk"
)

// How a generation is sealed: its files and directories are immutable, which root can take
// away; with fs-verity, the content of its files cannot be changed at all, and what changes on
// the disk below cannot be read.
const (
	sealedImmutable = "immutable"
	sealedVerity    = "fs-verity"
)

// immutable is FS_IMMUTABLE_FL.
const immutable = 0x10

// seal makes every file and directory below the top of a tree immutable, and returns how: with
// fs-verity where each file could have it. The top itself is sealed once it has its name. Nobody
// else may be able to write in the tree, who could have files of others sealed by further names.
func seal(ctx context.Context, top string) (sealed string, err error) {
	sealed = sealedVerity
	err = eachNode(ctx, top, func(fd int, rel string, isDir bool) error {
		if rel == "" {
			return nil
		}
		flags, _, err := posix.InodeFlags(fd)
		if err == nil && !isDir {
			var has bool
			if _, err = posix.Unlock(fd); err == nil { // of another name of it, or its own
				has, err = enableVerity(fd)
			}
			if !has {
				sealed = sealedImmutable
			}
		}
		if err == nil {
			err = posix.SetInodeFlags(fd, flags|immutable)
		}
		return err
	})
	return sealed, err
}

// named gives the top of a tree its name, whatever flags it has, and seals it then.
func (p *places) named(g *Generation, top string) error {
	fd, err := posix.OpenDir(unix.AT_FDCWD, top)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags, _, err := posix.InodeFlags(fd)
	if err == nil {
		_, err = posix.Unlock(fd)
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, top, unix.AT_FDCWD, p.path(g.Name), unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return fmt.Errorf("rename the new generation to %s: %w", g.Name, err)
	}
	p.point("after its name")
	if g.Sealed != "" {
		flags |= immutable
	}
	return posix.SetInodeFlags(fd, flags)
}

// enableVerity makes the content of a file what it is for good; false where the file system,
// or the kernel, cannot.
func enableVerity(fd int) (bool, error) {
	arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: unix.FS_VERITY_HASH_ALG_SHA256, Block_size: 4096}
	switch err := ioctl(fd, unix.FS_IOC_ENABLE_VERITY, unsafe.Pointer(&arg)); {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOPKG): // also for its size of blocks
		return false, nil
	case errors.Is(err, unix.EEXIST): // by another name
		return true, nil
	case err != nil:
		return false, fmt.Errorf("fs-verity: %w", err)
	default:
		return true, nil
	}
}

// hasVerity reports whether fs-verity protects an open file.
func hasVerity(fd int) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &st)
	return st.Attributes&unix.STATX_ATTR_VERITY != 0, err
}

// unseal makes a sealed tree one that can be changed. A file that fs-verity protects is
// replaced by a copy, under all its names.
func unseal(ctx context.Context, top string) error {
	verity := false
	err := eachNode(ctx, top, func(fd int, _ string, isDir bool) error {
		flags, _, err := posix.InodeFlags(fd)
		if err == nil {
			err = posix.SetInodeFlags(fd, flags&^immutable)
		}
		if err == nil && !verity && !isDir {
			verity, err = hasVerity(fd)
		}
		return err
	})
	if err != nil || !verity {
		return err
	}
	c, err := newCopier(top, true)
	if err != nil {
		return err
	}
	defer c.to.Close()
	c.itself = true
	var dev uint64
	err = eachBelow(ctx, top, nil, func(n *walk.Node, rel string) error {
		if rel == "" {
			dev = n.Stat.Dev
		}
		switch {
		case n.Stat.Dev != dev: // mounted in it
			return nil
		case filepath.Base(rel) == tempName: // a copy that was interrupted
			return posix.RemovePath(filepath.Join(top, rel))
		case n.Stat.Type != inode.File && n.Stat.Type != inode.Dir:
			return nil
		}
		return c.node(n, rel)
	})
	if err != nil {
		return err
	}
	return c.finish()
}

// eachNode calls do with each file and directory of a tree, open, except of what is mounted in it.
func eachNode(ctx context.Context, top string, do func(fd int, rel string, isDir bool) error) error {
	var dev uint64
	err := eachBelow(ctx, top, nil, func(n *walk.Node, rel string) error {
		if rel == "" {
			dev = n.Stat.Dev
		}
		if n.Stat.Dev != dev || n.Stat.Type != inode.File && n.Stat.Type != inode.Dir {
			return nil
		}
		dirfd, err := n.Dir.Open()
		if err != nil {
			return err
		}
		var fd int
		if n.Stat.Type == inode.Dir {
			fd, err = posix.OpenDir(dirfd, n.Name)
		} else {
			fd, _, err = posix.OpenFile(dirfd, n.Name)
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return do(fd, rel, n.Stat.Type == inode.Dir)
	})
	if err != nil {
		return fmt.Errorf("seal: %w (switch.seal takes root and a file system with inode flags)", err)
	}
	return nil
}
