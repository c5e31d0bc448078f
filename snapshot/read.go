package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/storage/chunk"
	"knowngood/storage/objects"
)

// reader reads files, one at a time.
type reader struct {
	*capture
	framer  *objects.Framer
	hashers chan *chunk.Hasher
	buf     []byte
	pieces  []piece // all that fit into buf: they are pointed to, and must not move
}

// piece is a chunk in the buffer.
type piece struct {
	from, to int
	id       [32]byte
}

// readFiles works until there are no more jobs.
func (c *capture) readFiles(ctx context.Context) error {
	r := &reader{capture: c}
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

// prepare makes what content is read with, when the first is: an unchanged tree
// needs none of it.
func (r *reader) prepare() {
	if r.buf != nil {
		return
	}
	r.framer, r.hashers = r.writer.NewFramer(), make(chan *chunk.Hasher, runtime.GOMAXPROCS(0))
	for range cap(r.hashers) {
		r.hashers <- chunk.NewHasher(r.host.Domain.ChunkKey())
	}

	// One chunk of the greatest length, and room to read on.
	d := r.repo.Descriptor()
	r.buf = make([]byte, d.ChunkMax+readAhead)
	r.pieces = make([]piece, 0, len(r.buf)/int(d.ChunkMin)+2)
}

// node completes the entry of a node: metadata that a stat does not return, and
// content.
func (r *reader) node(ctx context.Context, f *file) error {
	n := f.node
	f.node = nil
	if n.Dir != nil {
		defer n.Dir.Release()
	}
	if f.read != nil {
		defer close(f.read)
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

// errReplaced says that a node is of another type than the walk saw. Nothing
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
	r.problem(e.Path, err.Error())
	return nil
}

// fill sets what a stat returns: type, mode, owner, mtime, size of a file, number
// of a device, and e.Stat. Path, attributes, link group and content stay as they
// are.
func (c *capture) fill(e *manifest.Entry, st *posix.Stat) {
	e.Type, e.Mode = st.Type, st.Mode
	e.UID, e.GID = st.UID, st.GID
	e.Mtime = st.Mtime
	e.Size, e.Rdev = 0, st.Rdev
	if st.Type == manifest.File {
		e.Size = st.Size
	}
	e.Stat = &manifest.Stat{Ctime: st.Ctime, Inode: st.Ino, Dev: st.Dev}
	e.User, e.Group = storableName(c.users.User(e.UID)), storableName(c.users.Group(e.GID))
}

// storableName is the name of an owner; none when that is longer than a
// manifest takes. The number is stored in any case.
func storableName(name string) string {
	if len(name) > manifest.MaxName {
		return ""
	}
	return name
}

func (c *capture) refill(f *file, st *posix.Stat) {
	c.fill(f.entry, st)
	if st.ID() != f.stat.ID() {
		f.entry.Link = 0
	}
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
		r.fill(e, &st)
		if e.Link != 0 && !sameContent(&st, &f.stat) {
			e.Link = 0
			r.problem(e.Path, apart)
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
		r.problem(e.Path, err.Error())
	}
}

// inodeFlags reads the flags of an inode. They cost nothing else, like
// attributes.
func (r *reader) inodeFlags(e *manifest.Entry, read func() (uint32, error)) {
	var err error
	if e.InodeFlags, err = read(); err != nil {
		e.Flags |= manifest.MetadataIncomplete
		r.problem(e.Path, "inode flags: "+err.Error())
	}
}

// errChanged says that a file changed while it was read.
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
			r.problem(e.Path, errChanged.Error())
		}
	}
	if o := f.first; o != nil && e.Link != 0 && e.Link == o.entry.Link && !o.gone && o.entry.Flags&manifest.ContentUnread == 0 && !manifest.SameInode(e, o.entry) {
		e.Link = 0
		r.problem(e.Path, apart)
	}
	r.Progress.FilesRead.Add(1)
	return nil
}

// takeOver gives f the content that was read of the first name of its inode,
// if that still is the inode that f names, in the state that was read. It
// reports whether it did.
func (r *reader) takeOver(ctx context.Context, dirfd int, name string, f *file) (done bool, err error) {
	first := f.first
	select { // it is in an earlier place of this job, or in an earlier job
	case <-first.read:
	case <-ctx.Done():
		return false, context.Cause(ctx)
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
	r.fill(e, &now)
	e.Size, e.Holes, e.Chunks, e.Xattrs, e.InodeFlags = o.Size, o.Holes, o.Chunks, o.Xattrs, o.InodeFlags
	e.Flags |= o.Flags & manifest.MetadataIncomplete
	f.refs = first.refs
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
	r.refill(f, &before)
	want := e.Size
	e.Size = 0
	e.Flags &^= manifest.MetadataIncomplete
	r.attributes(e, func() ([]manifest.Xattr, error) { return posix.Xattrs(fd) })
	r.inodeFlags(e, func() (uint32, error) { return f.volume.InodeFlags(fd) })

	if f.volume.Kind().SizeUnknown(want) {
		if err := r.unsized(ctx, fd, f); err != nil {
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
	if err := r.content(ctx, &source{fd: fd, holes: holes, size: want}, f); err != nil {
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

// unsized reads a file that does not state its size.
func (r *reader) unsized(ctx context.Context, fd int, f *file) error {
	u, err := newUnsized(fd, maxUnsized, unsizedTime)
	if err != nil {
		return err
	}
	defer u.Close()
	return r.content(ctx, u, f)
}

func chunked(e *manifest.Entry) (n uint64) {
	for i := range e.Chunks {
		n += uint64(e.Chunks[i].Len)
	}
	return n
}

// source reads the bytes of a file that are not holes, up to its size.
type source struct {
	fd    int
	holes []manifest.Extent
	at    uint64
	size  uint64
}

func (s *source) Read(b []byte) (int, error) {
	for len(s.holes) > 0 && s.at == s.holes[0].Offset {
		s.at += s.holes[0].Length
		s.holes = s.holes[1:]
	}
	end := s.size
	if len(s.holes) > 0 {
		end = s.holes[0].Offset
	}
	if s.at >= end {
		return 0, io.EOF
	}
	b = b[:min(uint64(len(b)), end-s.at)]
	for {
		n, err := unix.Pread(s.fd, b, int64(s.at))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read at byte %d: %w", s.at, err)
		}
		if n == 0 {
			return 0, io.EOF
		}
		s.at += uint64(n)
		return n, nil
	}
}

// content chunks what src yields and stores it.
//
// When reading fails, what was read before is stored, too.
func (r *reader) content(ctx context.Context, src io.Reader, f *file) error {
	r.prepare()

	have, final := 0, false
	var failed error
	for {
		for !final && have < len(r.buf) {
			n, err := src.Read(r.buf[have:])
			have += n
			r.Progress.BytesRead.Add(uint64(n))
			if final = err != nil; final && err != io.EOF {
				failed = err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		at := r.cut(r.buf[:have], final)
		for i := range r.pieces {
			if err := r.chunk(f, &r.pieces[i]); err != nil {
				return err
			}
		}
		have = copy(r.buf, r.buf[at:have])
		if final && have == 0 {
			return failed
		}
	}
}

const (
	// readAhead is how much more than a chunk the buffer of a reader takes, in
	// bytes.
	readAhead = 2 << 20
	// hashAside is the length of a chunk, in bytes, from which others look for
	// the next cut point while it is hashed. A large file is read by one
	// reader, which is not to be what the rest waits for.
	hashAside = 128 << 10
)

// cut finds the chunks in b and their IDs. It returns how many bytes they have.
func (r *reader) cut(b []byte, final bool) (at int) {
	r.pieces = r.pieces[:0]
	var aside sync.WaitGroup
	for at < len(b) {
		n := r.chunker.Cut(b[at:], final)
		if n == 0 {
			break
		}
		r.pieces = append(r.pieces, piece{from: at, to: at + n})
		p, content := &r.pieces[len(r.pieces)-1], b[at:at+n]
		at += n
		if n < hashAside {
			h := <-r.hashers
			p.id = h.ID(content)
			r.hashers <- h
			continue
		}
		aside.Go(func() {
			h := <-r.hashers
			p.id = h.ID(content)
			r.hashers <- h
		})
	}
	aside.Wait()
	return at
}

func (r *reader) chunk(f *file, p *piece) error {
	b := r.buf[p.from:p.to]
	ref, stored, err := r.framer.Add(p.id, b)
	if err != nil {
		return err
	}
	if stored {
		r.healed(f, p.id, len(b))
	}
	f.refs = append(f.refs, ref)
	f.entry.Chunks = append(f.entry.Chunks, manifest.Chunk{ID: p.id, Len: uint32(len(b))})
	r.Progress.Bytes.Add(uint64(len(b)))
	return nil
}

// Command is a command whose standard output is captured as a file.
type Command struct {
	Argv    []string
	Restore []string // arguments of the command that takes the output back; may be none
	As      string   // path of the file in the snapshot
	Run     func(ctx context.Context, argv []string, stdout io.Writer) error
}

// runCommands captures the output of every command and makes the entries,
// those of the implied directories included, in path order.
func (c *capture) runCommands(ctx context.Context) ([]*item, error) {
	if len(c.Commands) == 0 || c.DryRun {
		return nil, nil
	}
	if err := checkCommands(c.Commands); err != nil {
		return nil, err
	}
	r := &reader{capture: c}
	now := manifest.Time{Sec: c.started.Unix()}
	byPath := map[string]*item{}
	for _, cmd := range c.Commands {
		pr, pw := io.Pipe()
		failed := make(chan error, 1)
		go func() {
			err := cmd.Run(ctx, cmd.Argv, pw)
			failed <- err
			pw.CloseWithError(err)
		}()
		e := &manifest.Entry{Path: cmd.As, Type: manifest.File, Flags: manifest.Command, Mode: 0o600, Mtime: now, Stat: &manifest.Stat{}}
		f := &file{entry: e}
		err := r.content(ctx, pr, f)
		pr.CloseWithError(err)
		if runErr := <-failed; runErr != nil {
			return nil, &CommandError{cmd.As, runErr}
		}
		if err != nil {
			return nil, err
		}
		e.Size = chunked(e)
		c.Progress.Files.Add(1)
		c.Progress.FilesRead.Add(1)
		byPath[e.Path] = &item{entry: e, file: f}
		for i, b := range cmd.As {
			if b == '/' && byPath[cmd.As[:i]] == nil {
				byPath[cmd.As[:i]] = &item{entry: &manifest.Entry{Path: cmd.As[:i], Type: manifest.Dir, Flags: manifest.Implied | manifest.Command, Mode: 0o700, Mtime: now, Stat: &manifest.Stat{}}}
			}
		}
	}
	if byPath[""] == nil {
		byPath[""] = &item{entry: &manifest.Entry{Type: manifest.Dir, Flags: manifest.Implied | manifest.Command, Mode: 0o755, Mtime: now, Stat: &manifest.Stat{}}}
	}
	items := make([]*item, 0, len(byPath))
	for _, it := range byPath {
		items = append(items, it)
	}
	slices.SortFunc(items, func(a, b *item) int { return manifest.Compare(a.entry.Path, b.entry.Path) })
	return items, nil
}

// checkCommands refuses paths that cannot all be in one tree, before a command
// runs for hours.
func checkCommands(commands []Command) error {
	for i, c := range commands {
		if c.As == "" || !manifest.ValidPath(c.As) {
			return fmt.Errorf("command source %q: not a path that its output could have", c.As)
		}
		for j, o := range commands {
			if i != j && manifest.Within(c.As, o.As) {
				return fmt.Errorf("command source %q: another has the path %q: give one of them another path", c.As, o.As)
			}
		}
	}
	return nil
}

// CommandError says that a command source failed, and so the snapshot.
type CommandError struct {
	As  string
	Err error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("command source %q: %v: no snapshot was taken", e.As, e.Err)
}

func (e *CommandError) Unwrap() error { return e.Err }
