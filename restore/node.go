package restore

import (
	"errors"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/target"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// nodes makes what is neither file nor directory: links, devices, pipes, sockets.
type nodes struct {
	target   *target.Target
	report   *report
	metadata *metadata
	replacer *replacer
	links    *links
	dryRun   bool
}

// restore restores a node, the first one of its group.
func (n *nodes) restore(e *manifest.Entry, group *linkGroup) error {
	action, err := n.action(e, group)
	if err != nil {
		return err
	}
	if action != "unchanged" {
		group.renew()
	}
	if !n.dryRun {
		if err := n.make(e, action); err != nil {
			return err
		}
		if group != nil {
			h, name, err := n.target.Above(e.Path)
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
	n.report.done(action, e.Path, e.Type, 0)
	return nil
}

// action finds out what has to be done to a node.
func (n *nodes) action(e *manifest.Entry, group *linkGroup) (string, error) {
	st, err := n.target.Stat(e.Path)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "create", nil
	case err != nil:
		return "", err
	case st.Type == manifest.Dir:
		return "change", n.replacer.mayClear(e.Path)
	}

	h, name, err := n.target.Above(e.Path)
	if err != nil {
		return "", err
	}
	defer h.Release()

	same, err := sameNode(h.FD(), name, &st, e)
	if err == nil && same && st.Nlink > 1 {
		// Its metadata is also that of its other names.
		same = n.metadata.sameNode(h.FD(), name, &st, e) && n.links.claim(&st, group)
	}
	if err != nil {
		return "", err
	}
	if same {
		return "unchanged", nil
	}
	return "change", nil
}

// make does to a node what action returned.
func (n *nodes) make(e *manifest.Entry, action string) error {
	h, name, err := n.target.Above(e.Path)
	if err != nil {
		return err
	}
	defer h.Release()

	as := name
	switch action {
	case "unchanged":
		n.metadata.applyAt(h.FD(), name, e)
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
	n.metadata.applyAt(h.FD(), as, e)
	if as == name {
		return nil
	}
	if err = n.replacer.replace(h, as, name, e.Path); err != nil {
		unix.Unlinkat(h.FD(), as, 0)
	}
	return err
}

// sameNode reports whether a node is of the kind, and has the content, of its entry.
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
