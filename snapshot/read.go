package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
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
	"knowngood/storage/repository"
)

// reader reads files, one at a time.
type reader struct {
	*capture
	framer  *repository.Framer
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
	r := c.newReader()
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

func (c *capture) newReader() *reader {
	r := &reader{capture: c}
	if c.writer != nil {
		r.framer, r.hashers = c.writer.NewFramer(), make(chan *chunk.Hasher, runtime.GOMAXPROCS(0))
		for range cap(r.hashers) {
			r.hashers <- chunk.NewHasher(c.host.Domain.ChunkKey())
		}
		// One chunk of the greatest length, and room to read on.
		d := c.repo.Descriptor()
		r.buf = make([]byte, d.ChunkMax+readAhead)
		r.pieces = make([]piece, 0, len(r.buf)/int(d.ChunkMin)+2)
	}
	return r
}

// node completes the entry of a node: metadata that a stat does not tell, and
// content.
func (r *reader) node(ctx context.Context, f *file) error {
	n := f.node
	if n.Dir != nil {
		defer n.Dir.Release()
	}
	f.node = nil
	if r.DryRun {
		if f.entry.Type == manifest.File {
			r.Progress.Files.Add(1)
			r.Progress.FilesRead.Add(1)
			r.Progress.Bytes.Add(f.entry.Size)
			f.entry.Chunks = nil
		}
		return nil
	}
	e := f.entry
	dirfd, err := n.Dir.Open()
	switch {
	case err != nil:
	case e.Type == manifest.File && f.twin == nil:
		err = r.file(ctx, dirfd, n.Name, f)
	default:
		err = r.metadata(dirfd, n.Name, e)
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOENT):
		f.gone = true
		r.problem(e.Path, "vanished while the snapshot was taken")
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case context.Cause(r.writer.Context()) != nil:
		return context.Cause(r.writer.Context())
	default:
		e.Flags |= manifest.Unreadable
		r.problem(e.Path, err.Error())
	}
	if e.Type == manifest.File && !f.gone {
		r.Progress.Files.Add(1)
	}
	return nil
}

// fill sets what a stat tells.
func (c *capture) fill(e *manifest.Entry, st *posix.Stat) {
	posix.Fill(e, st)
	e.User, e.Group = c.users.User(e.UID), c.users.Group(e.GID)
	e.Link = 0
	if st.Nlink > 1 && st.Type != manifest.Dir {
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], st.Dev)
		binary.LittleEndian.PutUint64(b[8:], st.Ino)
		sum := sha256.Sum256(b[:])
		e.Link = binary.LittleEndian.Uint64(sum[:]) | 1
	}
}

// metadata reads what a stat does not tell of a node that is not read.
func (r *reader) metadata(dirfd int, name string, e *manifest.Entry) (err error) {
	if e.Type == manifest.Symlink {
		if e.Target, err = posix.Readlink(dirfd, name); err != nil {
			return err
		}
		if e.Target == "" {
			return errors.New("the symlink has no target")
		}
	}
	e.Xattrs, err = posix.XattrsAt(dirfd, name)
	return err
}

// errChanged says that a file changed while it was read.
var errChanged = errors.New("changed while it was read, twice: what was captured may mix old and new content")

// file reads a regular file into chunks. A file that changes meanwhile is
// read once more.
func (r *reader) file(ctx context.Context, dirfd int, name string, f *file) error {
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
	r.Progress.FilesRead.Add(1)
	return nil
}

// once reads the file and tells whether it was another when it ended.
func (r *reader) once(ctx context.Context, dirfd int, name string, f *file) (changed bool, err error) {
	e := f.entry
	e.Size, e.Chunks, e.Holes, f.refs = 0, nil, nil, f.refs[:0]
	fd, before, err := posix.OpenFile(dirfd, name)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	r.fill(e, &before)
	want := e.Size
	e.Size = 0
	if e.Xattrs, err = posix.Xattrs(fd); err != nil {
		return false, err
	}
	var holes []manifest.Extent
	if before.Sparse() {
		if holes, err = posix.Holes(fd, want); err != nil {
			return false, err
		}
	}
	if err := r.content(ctx, &source{fd: fd, holes: holes, size: want}, f); err != nil {
		// What was read so far is kept, and named as such.
		e.Holes, e.Size = nil, chunked(e)
		return false, err
	}
	e.Holes, e.Size = holes, want
	if n := e.ContentSize(); n != chunked(e) {
		// It grew shorter while it was read: what there was is all data.
		e.Holes, e.Size = nil, chunked(e)
	}
	after, err := posix.StatFd(fd)
	if err != nil {
		return false, err
	}
	same := after.Mtime == before.Mtime && after.Size == before.Size && after.Ctime == before.Ctime && e.Size == want
	return !same, nil
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
func (r *reader) content(ctx context.Context, src io.Reader, f *file) error {
	have, final := 0, false
	for {
		for !final && have < len(r.buf) {
			n, err := src.Read(r.buf[have:])
			have += n
			r.Progress.BytesRead.Add(uint64(n))
			if err == io.EOF {
				final = true
			} else if err != nil {
				return err
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
			return nil
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
	ref, err := r.framer.Add(p.id, b)
	if err != nil {
		return err
	}
	f.refs = append(f.refs, ref)
	f.entry.Chunks = append(f.entry.Chunks, manifest.Chunk{ID: p.id, Len: uint32(len(b))})
	r.Progress.Bytes.Add(uint64(len(b)))
	return nil
}

// Command is a command whose standard output is captured as a file.
type Command struct {
	Argv []string
	As   string // path of the file in the snapshot
	Run  func(ctx context.Context, argv []string, stdout io.Writer) error
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
	r := c.newReader()
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
