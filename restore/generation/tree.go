package generation

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
)

// CopyTop gives a directory the metadata of another, and nothing that is in it.
func CopyTop(from, to string) error {
	fd, st, err := posix.OpenNode(unix.AT_FDCWD, from)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	m, err := metadataOf(fd, &st)
	if err != nil {
		return err
	}
	return applied(posix.NewApplier(posix.ApplyOptions{KeepOwner: os.Geteuid() != 0}).ApplyAt(unix.AT_FDCWD, to, m))
}

// RecordTree writes the record of a tree, whose content was just verified and is not read
// again, into a file, durably. It returns the digest and how many paths the tree has.
func RecordTree(ctx context.Context, top, file string) (digest string, paths uint64, err error) {
	c := &scan{top: top, write: file, light: true}
	err = c.run(ctx)
	return c.digest, c.count, err
}

// VerifyTree compares a tree with what RecordTree wrote. A difference that a stat shows, which
// has the time of the last change of each inode, is a *ChangedError.
func VerifyTree(ctx context.Context, name, top, file, digest string) error {
	return verifyTree(ctx, name, digest, &scan{top: top, old: file, light: true})
}

// verifyTree compares a tree with its record, and that with the digest.
func verifyTree(ctx context.Context, name, digest string, c *scan) error {
	changed := &ChangedError{Name: name}
	c.changed = func(x Change) { changed.add(x.Path, x.Kind) }
	c.unread = func(path string, err error) { changed.add(path, "unreadable ("+err.Error()+")") }
	err := c.run(ctx)
	same := c.digest == digest
	switch {
	case err != nil:
		return fmt.Errorf("verify %s: %w", name, err)
	case same && (changed.Count == 0 || !c.light):
		return nil
	case changed.Count == 0:
		return fmt.Errorf("the record of %s is not the one that was written with it: its digest is %s, not %s", name, c.digest, digest)
	}
	return changed
}
