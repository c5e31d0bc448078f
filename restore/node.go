package restore

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// node restores a node that is neither file nor directory.
func (r *restorer) node(e *manifest.Entry, group *linkGroup) error {
	action, err := r.nodeAction(e, group)
	if err != nil {
		return err
	}
	if action != "unchanged" {
		group.renew()
	}
	if !r.DryRun {
		if err := r.makeNode(e, action); err != nil {
			return err
		}
		if group != nil {
			h, name, err := r.within(e.Path)
			if err != nil {
				return err
			}
			defer h.Release()
			st, err := posix.StatAt(h.FD(), name)
			if err != nil {
				return err
			}
			group.inode = st.ID()
		}
	}
	r.done(action, e.Path, e.Type, 0)
	return nil
}

// nodeAction finds out what has to be done to a node.
func (r *restorer) nodeAction(e *manifest.Entry, group *linkGroup) (string, error) {
	st, err := r.stat(e.Path)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "create", nil
	case err != nil:
		return "", err
	case st.Type == manifest.Dir:
		return "change", r.mayClear(e.Path)
	}

	h, name, err := r.within(e.Path)
	if err != nil {
		return "", err
	}
	defer h.Release()

	same, err := sameNode(h.FD(), name, &st, e)
	if err == nil && same && st.Nlink > 1 {
		// Its metadata is also that of its other names.
		same = r.sameNodeMetadata(h.FD(), name, &st, e) && r.links.claim(&st, group)
	}
	if err != nil {
		return "", err
	}
	if same {
		return "unchanged", nil
	}
	return "change", nil
}

// makeNode does to a node what was found out.
func (r *restorer) makeNode(e *manifest.Entry, action string) error {
	h, name, err := r.within(e.Path)
	if err != nil {
		return err
	}
	defer h.Release()

	as := name
	switch action {
	case "unchanged":
		r.attributes(e.Path, r.applier.ApplyAt(h.FD(), name, e.Metadata()))
		return nil
	case "change":
		as = walk.PartName(name)
		if err := removePart(h.FD(), as); err != nil {
			return err
		}
	}
	if e.Type == manifest.Symlink {
		err = unix.Symlinkat(e.Target, h.FD(), as)
	} else {
		err = posix.Mknod(h.FD(), as, e.Type, e.Rdev)
	}
	if err != nil {
		return err
	}
	r.attributes(e.Path, r.applier.ApplyAt(h.FD(), as, e.Metadata()))
	if as == name {
		return nil
	}
	if err = r.replace(h, as, name, e.Path); err != nil {
		unix.Unlinkat(h.FD(), as, 0)
	}
	return err
}

// replace gives what was made under another name its own, in the place of what
// is there.
func (r *restorer) replace(h *posix.Dir, as, name, path string) error {
	err := r.renameOver(h.FD(), as, name)
	if err == unix.EISDIR || err == unix.ENOTEMPTY || err == unix.EEXIST && r.InPlace {
		if err = r.clear(h.FD(), name, path); err == nil {
			err = unix.Renameat(h.FD(), as, h.FD(), name)
		}
	}
	return explainNode(err)
}

// renameOver is rename, which replaces nothing where a single node was to be
// made that was not there.
func (r *restorer) renameOver(dirfd int, as, name string) error {
	if r.single == "" || r.InPlace {
		return unix.Renameat(dirfd, as, dirfd, name)
	}
	return renameNew(dirfd, as, name)
}

// renameNew is rename, which replaces nothing.
func renameNew(dirfd int, as, name string) error {
	err := unix.Renameat2(dirfd, as, dirfd, name, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS { // the file system does not know that
		err = unix.Renameat(dirfd, as, dirfd, name)
	}
	return err
}

// removePart removes what a killed restore may have left under a temporary
// name.
func removePart(dirfd int, as string) error {
	if err := unix.Unlinkat(dirfd, as, 0); err != unix.ENOENT {
		return err
	}
	return nil
}

func sameNode(dirfd int, name string, st *posix.Stat, e *manifest.Entry) (bool, error) {
	switch {
	case st.Type != e.Type:
		return false, nil
	case e.Type == manifest.Symlink:
		target, err := posix.Readlink(dirfd, name)
		return target == e.Target, err
	case e.Type == manifest.CharDevice || e.Type == manifest.BlockDevice:
		return st.Rdev == e.Rdev, nil
	}
	return true, nil
}

// sameNodeMetadata reports whether nothing has to be applied to a node.
func (r *restorer) sameNodeMetadata(dirfd int, name string, st *posix.Stat, e *manifest.Entry) bool {
	if !r.sameStat(st, e) {
		return false
	}
	fd, now, err := posix.OpenNode(dirfd, name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)

	have, err := posix.NodeXattrs(fd)
	return err == nil && now.ID() == st.ID() && sameXattrs(have, e)
}

// mayClear reports why a directory in the place of something else is not
// removed.
func (r *restorer) mayClear(path string) error {
	switch {
	case !r.Delete:
		return errors.New("a directory is in the way: give --delete to remove what the snapshot does not have")
	case r.spared(path):
		return errors.New("a directory is in the way, with the repository, the state directory or the identity in it: move these")
	}
	h, name, err := r.within(path)
	if err != nil {
		return err
	}
	defer h.Release()
	kept, err := r.newExtras().kept(h.FD(), name, path)
	switch {
	case err != nil:
		return fmt.Errorf("a directory is in the way, and cannot be looked through: %w", err)
	case kept != "":
		return fmt.Errorf("a directory is in the way, and %s in it is not the snapshot's to delete (excluded, or another file system): move it away", "/"+kept)
	}
	return nil
}

// clear removes a directory that stands where the snapshot has something else.
func (r *restorer) clear(dirfd int, name, path string) error {
	if err := r.mayClear(path); err != nil {
		return err
	}
	return posix.RemoveAll(dirfd, name)
}

// attributes notes metadata that could not be applied.
func (r *restorer) attributes(path string, problems []*posix.Problem) {
	for _, err := range problems {
		r.problem(path, err)
	}
}

// explainNode adds what to do next to a refusal that one node alone meets.
func explainNode(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (is what is there immutable or append-only? lsattr shows it, chattr -i -a takes it away)", err)
	}
	return err
}
