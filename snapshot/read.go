package snapshot

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// Bounds of what is read of a file that states no size; see
// posix.FileSystem.SizeUnknown. Some of those never end, or let readers wait.
const (
	maxUnsized  = 64 << 20 // bytes
	unsizedTime = 10 * time.Second
)

// reader reads files, one at a time.
type reader struct {
	*capture
	content *contentReader
}

// readFiles works until there are no more jobs.
func (c *capture) readFiles(ctx context.Context) error {
	r := &reader{c, c.newContentReader()}
	for {
		select {
		case j, ok := <-c.jobs:
			if !ok {
				return nil
			}
			for _, f := range j.files {
				if err := r.node(ctx, f); err != nil {
					return err
				}
			}
			close(j.done)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// node completes the entry of a node: metadata that a stat does not return, and
// content.
func (r *reader) node(ctx context.Context, f *file) error {
	n := f.node
	f.node = nil
	defer n.Dir.Release()
	if f.read != nil {
		defer func() {
			close(f.read)
			r.links.keep(f)
		}()
	}
	if r.DryRun {
		if f.entry.Type == manifest.File {
			r.Progress.Files.Add(1)
			r.Progress.FilesRead.Add(1)
			r.Progress.Bytes.Add(f.entry.Size)
			f.entry.Chunks = nil
		}
		return nil
	}

	dirfd, err := n.Dir.Open()
	switch {
	case err != nil:
	case f.entry.Type == manifest.File:
		err = r.file(ctx, dirfd, n.Name, f)
	default:
		err = r.metadata(dirfd, n.Name, f)
	}
	if err != nil {
		if err := r.unread(ctx, f, err); err != nil {
			return err
		}
	}
	if f.entry.Type == manifest.File && !f.gone {
		r.Progress.Files.Add(1)
	}
	return nil
}

// errReplaced means that a node is of another type than the walk saw. Nothing
// of what has its name now is captured as if it were the node's.
var errReplaced = errors.New("something else took its name while the snapshot was taken")

// unread records a node that could not be read, or not whole. It returns the
// errors that end the run.
func (r *reader) unread(ctx context.Context, f *file, err error) error {
	e := f.entry
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case context.Cause(r.writer.Context()) != nil:
		return context.Cause(r.writer.Context())
	case e.Type == manifest.Dir:
		// What was captured below it needs a parent.
		e.Flags |= manifest.MetadataIncomplete
		if errors.Is(err, unix.ENOENT) {
			err = errors.New("vanished while the snapshot was taken: what was captured of it is kept")
		}
	case errors.Is(err, unix.ENOENT):
		f.gone = true
		err = errors.New("vanished while the snapshot was taken")
	default:
		e.Flags |= manifest.ContentUnread
	}
	if e.Type == manifest.File {
		e.Size, e.Holes = chunked(e), nil // what was read of it
	}
	r.problems.add(e.Path, err.Error())
	return nil
}

// describe sets what a stat returns: type, mode, owner, mtime, size of a file,
// number of a device, and e.Stat. Path, attributes, link group and content stay as
// they are.
func describe(users *posix.Users, e *manifest.Entry, st *posix.Stat) {
	e.Type, e.Mode = st.Type, st.Mode
	e.UID, e.GID = st.UID, st.GID
	e.Mtime = st.Mtime
	e.Size, e.Rdev = 0, st.Rdev
	if st.Type == manifest.File {
		e.Size = st.Size
	}
	e.Stat = &manifest.Stat{Ctime: st.Ctime, Inode: st.Ino, Dev: st.Dev}
	e.User, e.Group = storableName(users.User(e.UID)), storableName(users.Group(e.GID))
}

// storableName is the name of an owner; none when that is longer than a
// manifest takes. The number is stored in any case.
func storableName(name string) string {
	if len(name) > manifest.MaxName {
		return ""
	}
	return name
}

// metadata reads what a stat does not return of a node that is no file, from
// the node itself, whatever has its name by then.
func (r *reader) metadata(dirfd int, name string, f *file) error {
	e := f.entry
	fd, st, err := posix.OpenNode(dirfd, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st.Type != e.Type || e.Type == manifest.Dir && st.ID() != f.stat.ID() {
		return errReplaced
	}
	if e.Type != manifest.Dir {
		describe(r.users, e, &st)
		if e.Link != 0 && !sameContent(&st, &f.stat) {
			e.Link = 0
			r.problems.add(e.Path, apart)
		}
	}

	if e.Type == manifest.Symlink {
		if e.Target, err = posix.Readlink(fd, ""); err != nil {
			return err
		}
		if e.Target == "" {
			return errors.New("the symlink has no target")
		}
	}
	r.attributes(e, func() ([]manifest.Xattr, error) { return posix.NodeXattrs(fd) })
	if e.Type == manifest.Dir {
		r.dirFlags(fd, f)
	}
	return nil
}

// dirFlags reads the inode flags of a directory. One that may not be listed has
// none to be known; it is named for that already.
func (r *reader) dirFlags(fd int, f *file) {
	open, err := posix.OpenDir(fd, ".")
	if err != nil {
		return
	}
	defer unix.Close(open)
	r.inodeFlags(f.entry, func() (uint32, error) { return f.volume.InodeFlags(open) })
}

// attributes reads the extended attributes of a node. One that cannot be read
// is named and costs nothing else.
func (r *reader) attributes(e *manifest.Entry, read func() ([]manifest.Xattr, error)) {
	var err error
	if e.Xattrs, err = read(); err != nil {
		e.Flags |= manifest.MetadataIncomplete
		r.problems.add(e.Path, err.Error())
	}
}

// inodeFlags reads the flags of an inode. They cost nothing else, like
// attributes.
func (r *reader) inodeFlags(e *manifest.Entry, read func() (uint32, error)) {
	var err error
	if e.InodeFlags, err = read(); err != nil {
		e.Flags |= manifest.MetadataIncomplete
		r.problems.add(e.Path, "inode flags: "+err.Error())
	}
}

// errChanged means that a file changed while it was read.
var errChanged = errors.New("changed while it was read, twice: what was captured may mix old and new content")

// file reads a regular file into chunks, or takes over what was read of
// another name of its inode. A file that changes meanwhile is read once more.
func (r *reader) file(ctx context.Context, dirfd int, name string, f *file) error {
	if f.first != nil {
		if done, err := r.takeOver(ctx, dirfd, name, f); done || err != nil {
			return err
		}
	}
	e := f.entry
	for attempt := range 2 {
		changed, err := r.once(ctx, dirfd, name, f)
		if err != nil {
			return err
		}
		if !changed {
			break
		}
		if attempt == 1 {
			e.Flags |= manifest.Changed
			r.problems.add(e.Path, errChanged.Error())
		}
	}
	if o := f.first; o != nil && e.Link != 0 && e.Link == o.entry.Link && !o.gone && o.entry.Flags&manifest.ContentUnread == 0 && !manifest.SameInode(e, o.entry) {
		e.Link = 0
		r.problems.add(e.Path, apart)
	}
	r.Progress.FilesRead.Add(1)
	return nil
}

// takeOver gives f the content that was read of the first name of its inode,
// if that still is the inode that f names, in the state that was read. It
// reports whether it did.
func (r *reader) takeOver(ctx context.Context, dirfd int, name string, f *file) (done bool, err error) {
	first := f.first
	if !first.kept {
		select { // it is in an earlier place of this job, or in an earlier job
		case <-first.read:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	fd, now, err := posix.OpenNode(dirfd, name)
	if err != nil {
		return false, err
	}
	unix.Close(fd)
	if !sameContent(&now, &first.got) {
		return false, nil
	}

	e, o := f.entry, first.entry
	refs := first.refs
	if first.kept {
		for i := range o.Chunks {
			ref, ok := r.writer.Find(o.Chunks[i].ID)
			if !ok {
				return false, nil
			}
			refs = append(refs, ref)
		}
	}
	describe(r.users, e, &now)
	e.Size, e.Holes, e.Chunks, e.Xattrs, e.InodeFlags = o.Size, o.Holes, o.Chunks, o.Xattrs, o.InodeFlags
	e.Flags |= o.Flags & manifest.MetadataIncomplete
	e.Stat.Mark = o.Stat.Mark
	f.refs = refs
	return true, nil
}

// once reads the file and reports whether it was another when it ended.
func (r *reader) once(ctx context.Context, dirfd int, name string, f *file) (changed bool, err error) {
	e := f.entry
	e.Size, e.Chunks, e.Holes, f.refs = 0, nil, nil, f.refs[:0]
	fd, before, err := posix.OpenFile(dirfd, name)
	if errors.Is(err, posix.ErrNotRegular) {
		err = errReplaced
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	describe(r.users, e, &before)
	if before.ID() != f.stat.ID() {
		e.Link = 0
	}
	want := e.Size
	e.Size = 0
	e.Flags &^= manifest.MetadataIncomplete
	r.attributes(e, func() ([]manifest.Xattr, error) { return posix.Xattrs(fd) })
	r.inodeFlags(e, func() (uint32, error) { return f.volume.InodeFlags(fd) })

	if f.volume.Kind().SizeUnknown(want) {
		u, err := posix.NewUnsized(fd, maxUnsized, unsizedTime)
		if err != nil {
			return false, err
		}
		defer u.Close()
		if err := r.content.read(ctx, u, f); err != nil {
			return false, err
		}
		e.Size = chunked(e)
		return false, nil
	}
	var holes []manifest.Extent
	if before.Sparse() {
		if holes, err = posix.Holes(fd, want); err != nil {
			return false, err
		}
	}
	if err := r.content.read(ctx, posix.NewDataReader(fd, holes, want), f); err != nil {
		return false, err
	}
	e.Holes, e.Size = holes, want
	if n := e.ContentSize(); n != chunked(e) {
		// It grew shorter while it was read: what there was is all data.
		e.Holes, e.Size = nil, chunked(e)
	}

	after, err := posix.CurrentStatFd(fd)
	if err != nil {
		return false, err
	}
	if !sameContent(&before, &after) || e.Size != want {
		return true, nil
	}
	if f.read != nil && before.ID() == f.stat.ID() {
		f.got = before
	}
	return false, nil
}
