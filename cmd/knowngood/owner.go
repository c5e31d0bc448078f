package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// giveBack gives what root made in a state directory of somebody else to its
// owner: what is done by hand must not be in the way of a daemon that has a
// user of its own.
func (a *app) giveBack() {
	if os.Geteuid() != 0 || a.stateDir == "" {
		return
	}
	info, err := os.Stat(a.stateDir)
	if err != nil || owner(info).Uid == 0 {
		return
	}
	if err := giveBack(a.stateDir, owner(info)); err != nil {
		fmt.Fprintf(a.stderr, "knowngood: warning: the state directory is not wholly its owner's, whose daemon may fail: %v (chown -R --reference=%s %s)\n", err, a.stateDir, a.stateDir)
	}
}

func giveBack(dir string, to *syscall.Stat_t) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		// A file with several names may be one of root's own elsewhere.
		if err != nil || owner(info).Uid != 0 || info.Mode().IsRegular() && owner(info).Nlink > 1 {
			return nil
		}
		if err := root.Lchown(filepath.FromSlash(path), int(to.Uid), int(to.Gid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func owner(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }
