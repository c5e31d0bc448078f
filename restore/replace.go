package restore

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/target"
)

// replacer puts what was made under a temporary name in the place of what is
// there, or refuses to.
type replacer struct {
	target  *target.Target
	rules   *rules
	inPlace bool
	delete  bool
}

// replace gives what was made under another name its own name, in the place of
// what is there.
func (r *replacer) replace(h *posix.Dir, as, name, path string) error {
	err := r.renameOver(h.FD(), as, name)
	if err == unix.EISDIR || err == unix.ENOTEMPTY || err == unix.EEXIST && r.inPlace {
		if err = r.clear(h.FD(), name, path); err == nil {
			err = unix.Renameat(h.FD(), as, h.FD(), name)
		}
	}
	return explainNode(err)
}

// renameOver is rename, which replaces nothing where a single node was to be made
// and was not there.
func (r *replacer) renameOver(dirfd int, as, name string) error {
	if r.target.Single() == "" || r.inPlace {
		return unix.Renameat(dirfd, as, dirfd, name)
	}
	return renameNew(dirfd, as, name)
}

// renameNew is rename, which replaces nothing.
func renameNew(dirfd int, as, name string) error {
	err := unix.Renameat2(dirfd, as, dirfd, name, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS { // the file system does not have this
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

// mayClear reports why a directory in the place of something else is not
// removed.
func (r *replacer) mayClear(path string) error {
	switch {
	case !r.delete:
		return errors.New("a directory is in the way: give --delete to remove what the snapshot does not have")
	case r.target.HoldsSpare(path):
		return errors.New("a directory is in the way, with the repository, the state directory or the identity in it: move these")
	}
	h, name, err := r.target.Above(path)
	if err != nil {
		return err
	}
	defer h.Release()

	kept, err := r.rules.kept(h.FD(), name, path, make([]byte, posix.DirBuffer))
	switch {
	case err != nil:
		return fmt.Errorf("a directory is in the way, and cannot be looked through: %w", err)
	case kept != "":
		return fmt.Errorf("a directory is in the way, and %s in it is not the snapshot's to delete (excluded, or another file system): move it away", "/"+kept)
	}
	return nil
}

// clear removes a directory that stands where the snapshot has something else.
func (r *replacer) clear(dirfd int, name, path string) error {
	if err := r.mayClear(path); err != nil {
		return err
	}
	return posix.RemoveAll(dirfd, name)
}

// explainNode adds what to do next to a refusal that concerns only one node.
func explainNode(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (is what is there immutable or append-only? lsattr shows it, chattr -i -a takes it away)", err)
	}
	return err
}
