package restore

import (
	"context"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/storage/chunk"
)

// examiner compares files with what is there, by content, on all cores.
type examiner struct {
	r     *restorer
	ctx   context.Context
	g     *errgroup.Group
	files chan *file
	sent  uint64

	taking sync.Mutex // files are taken in their order
	mu     sync.Mutex
	moved  sync.Cond // of turns
	turns  []uint64  // of the file that each worker has, or noTurn
}

const noTurn = math.MaxUint64

func newExaminer(ctx context.Context, r *restorer) *examiner {
	x := &examiner{r: r, files: make(chan *file, 256), turns: slices.Repeat([]uint64{noTurn}, runtime.GOMAXPROCS(0))}
	x.moved.L = &x.mu
	x.g, x.ctx = errgroup.WithContext(ctx)
	for worker := range x.turns {
		x.g.Go(func() error { return x.work(worker) })
	}
	return x
}

func (x *examiner) send(f *file) error {
	f.turn = x.sent
	x.sent++
	select {
	case x.files <- f:
		return nil
	case <-x.ctx.Done():
		return context.Cause(x.ctx)
	}
}

func (x *examiner) wait() error {
	close(x.files)
	return x.g.Wait()
}

// take takes the next file for a worker; nil when there are no more.
func (x *examiner) take(worker int) *file {
	x.setTurn(worker, noTurn)
	x.taking.Lock()
	defer x.taking.Unlock()
	f := <-x.files
	if f != nil {
		x.setTurn(worker, f.turn)
	}
	return f
}

func (x *examiner) setTurn(worker int, turn uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.turns[worker] = turn
	x.moved.Broadcast()
}

// await waits until all files before one are done with, so that what is first
// come, first served does not depend on which worker is faster.
func (x *examiner) await(f *file) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for slices.Min(x.turns) < f.turn {
		x.moved.Wait()
	}
}

func (x *examiner) work(worker int) error {
	defer x.setTurn(worker, noTurn)
	c := &comparer{hasher: chunk.NewHasher(x.r.Tree.Reader.Domain().ChunkKey())}
	for f := x.take(worker); f != nil; f = x.take(worker) {
		if err := x.ctx.Err(); err != nil {
			return context.Cause(x.ctx)
		}
		if err := x.r.fatal(f.entry.Path, x.file(c, f)); err != nil {
			return err
		}
	}
	return nil
}

// file decides what becomes of a file: left alone, given its metadata, or
// written anew with the chunks that are still good.
func (x *examiner) file(c *comparer, f *file) error {
	r, e := x.r, f.entry
	fd, st, err := x.open(e)
	switch {
	case errors.Is(err, unix.ENOENT):
		c.good = c.good[:0]
		return x.write(c, f, -1)
	case err != nil:
		return f.giveUp(r, err)
	}
	f.action = "change"
	if fd >= 0 {
		defer unix.Close(fd)
	}

	same, err := c.compare(fd, &st, e)
	if err != nil && r.DryRun {
		r.problem(e.Path, err)
		f.group.fail(r)
		return nil
	}
	if err == nil && same { // what cannot be read is written anew
		keeps, err := x.keep(f, fd, &st)
		if err != nil || keeps {
			return err
		}
	}
	return x.write(c, f, fd)
}

// open opens what is at the place of a file. The descriptor is -1 where
// something else is that the file may replace.
func (x *examiner) open(e *manifest.Entry) (fd int, st posix.Stat, err error) {
	r := x.r
	err = r.with(e.Path, func() error {
		h, name, err := r.within(e.Path)
		if err != nil && r.DryRun {
			return unix.ENOENT // which would be made
		}
		if err != nil {
			return err
		}
		defer h.Release()

		fd, st, err = posix.OpenFile(h.FD(), name)
		return err
	})
	refused := errors.Is(err, unix.EACCES) && !r.DryRun
	if !refused && !errors.Is(err, posix.ErrNotRegular) {
		return fd, st, err
	}
	if st, err = r.stat(e.Path); err == nil && st.Type == manifest.Dir {
		err = r.mayClear(e.Path)
	}
	return -1, st, err
}

// write writes a file anew, with the chunks of the open one that are good.
func (x *examiner) write(c *comparer, f *file, fd int) error {
	r := x.r
	if r.DryRun {
		return f.planned(r, c.good)
	}
	f.temp = true
	f.group.renew()
	if fd >= 0 && len(c.good) > 0 {
		if err := x.reuse(c, f, fd); err != nil {
			return f.giveUp(r, err)
		}
	}
	return f.fetch(x.ctx, r)
}

// keep leaves the content of a file that is as it should be, and sees to its
// metadata. It reports whether the inode can stay at all: one that has names
// elsewhere is not to change along, and one that is another file's as well is
// to be two again.
func (x *examiner) keep(f *file, fd int, st *posix.Stat) (bool, error) {
	r, e := x.r, f.entry
	same, err := r.sameMetadata(fd, st, e)
	if err != nil && r.DryRun {
		r.problem(e.Path, err)
	}
	if st.Nlink > 1 {
		switch {
		case same:
		case f.group == nil:
			return false, nil
		case !r.links.second:
			r.links.wait(f.group)
			return true, nil
		case !r.holdsAll(f.group, st):
			return false, nil
		}
		if x.await(f); !r.links.claim(st, f.group) {
			return false, nil
		}
	}

	if f.group != nil {
		f.group.inode = st.ID()
	}
	f.action = "unchanged"
	if !same {
		f.action = "metadata"
		if !r.DryRun {
			r.attributes(e.Path, r.applier.Apply(fd, e.Metadata()))
		}
	}
	r.Progress.Bytes.Add(e.Size)
	r.Progress.Found.Add(e.Size)
	return true, f.placed(r)
}

// sameMetadata reports whether nothing has to be applied.
func (r *restorer) sameMetadata(fd int, st *posix.Stat, e *manifest.Entry) (bool, error) {
	if !r.sameStat(st, e) {
		return false, nil
	}
	flags, _, err := posix.InodeFlags(fd)
	if e.Flags&manifest.MetadataIncomplete != 0 { // what it lacks says nothing
		flags &= e.InodeFlags
	}
	if err != nil || flags != e.InodeFlags {
		return false, err
	}
	have, err := posix.Xattrs(fd)
	return err == nil && sameXattrs(have, e), err
}

// sameStat is the part of sameMetadata that a stat tells.
func (r *restorer) sameStat(st *posix.Stat, e *manifest.Entry) bool {
	return (st.Mode == e.Mode || e.Type == manifest.Symlink) && st.Mtime == e.Mtime && r.applier.Owns(st, e.UID, e.GID)
}

// sameXattrs compares extended attributes with those of an entry.
func sameXattrs(have []manifest.Xattr, e *manifest.Entry) bool {
	if e.Flags&manifest.MetadataIncomplete != 0 { // what it lacks says nothing
		have = slices.DeleteFunc(have, func(x manifest.Xattr) bool {
			return !slices.ContainsFunc(e.Xattrs, func(y manifest.Xattr) bool { return x.Name == y.Name })
		})
	}
	return slices.EqualFunc(have, e.Xattrs, func(a, b manifest.Xattr) bool { return a.Name == b.Name && string(a.Value) == string(b.Value) })
}

// reuse copies the chunks that are still good into the new version.
func (x *examiner) reuse(c *comparer, f *file, fd int) error {
	f.mu.Lock()
	err := f.open(x.r)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	f.present = make([]bool, len(f.entry.Chunks))
	at := uint64(0)
	for i := range f.entry.Chunks {
		n := uint64(f.entry.Chunks[i].Len)
		if i < len(c.good) && c.good[i] {
			b := c.buffer(int(n))
			err := readContent(fd, f.entry, at, b)
			// It may have changed since: what is copied is verified too.
			if err == nil && c.hasher.ID(b) == f.entry.Chunks[i].ID {
				if err := f.put(f.fd, at, b); err != nil {
					return err
				}
				f.present[i] = true
				x.r.Progress.Bytes.Add(n)
				x.r.Progress.Found.Add(n)
			}
		}
		at += n
	}
	return nil
}

// comparer compares content with chunk IDs.
type comparer struct {
	hasher *chunk.Hasher
	buf    []byte
	good   []bool // chunks of the last file that are where they should be
}

func (c *comparer) buffer(n int) []byte {
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	return c.buf[:n]
}

// compare tells whether a file has the content of an entry, holes read as
// zeros; fd is -1 when there is no regular file.
func (c *comparer) compare(fd int, st *posix.Stat, e *manifest.Entry) (bool, error) {
	c.good = c.good[:0]
	if fd < 0 {
		return false, nil
	}
	same := st.Size == e.Size
	at := uint64(0)
	for i := range e.Chunks {
		b := c.buffer(int(e.Chunks[i].Len))
		err := readContent(fd, e, at, b)
		if err != nil && err != io.ErrUnexpectedEOF {
			return false, err
		}
		good := err == nil && c.hasher.ID(b) == e.Chunks[i].ID
		same = same && good
		if !same && len(e.Chunks) == 1 {
			return false, nil
		}
		c.good = append(c.good, good)
		at += uint64(e.Chunks[i].Len)
	}
	if same && len(e.Holes) > 0 {
		// What the snapshot has as holes must read as zeros.
		return c.zeros(fd, e)
	}
	return same, nil
}

// zeros tells whether all holes of an entry read as zeros; those that are
// holes in the file cost nothing.
func (c *comparer) zeros(fd int, e *manifest.Entry) (bool, error) {
	have, err := posix.Holes(fd, e.Size)
	if err != nil {
		return false, err
	}
	for _, h := range e.Holes {
		for at := h.Offset; at < h.Offset+h.Length; {
			if n := holeAt(have, at); n > 0 {
				at += n
				continue
			}
			b := c.buffer(int(min(64<<10, h.Offset+h.Length-at)))
			if err := pread(fd, b, at); err != nil {
				return false, err
			}
			for _, x := range b {
				if x != 0 {
					return false, nil
				}
			}
			at += uint64(len(b))
		}
	}
	return true, nil
}

// holeAt is how far a hole reaches from at; 0 when at is data.
func holeAt(holes []manifest.Extent, at uint64) uint64 {
	for _, h := range holes {
		if at >= h.Offset && at < h.Offset+h.Length {
			return h.Offset + h.Length - at
		}
	}
	return 0
}

// readContent fills b with content of the file, holes of the entry left out.
func readContent(fd int, e *manifest.Entry, at uint64, b []byte) error {
	for _, h := range e.Holes {
		if h.Offset > at {
			n := min(h.Offset-at, uint64(len(b)))
			if err := pread(fd, b[:n], at); err != nil {
				return err
			}
			b, at = b[n:], at+n
			if len(b) == 0 {
				return nil
			}
		}
		at += h.Length
	}
	return pread(fd, b, at)
}

func pread(fd int, b []byte, at uint64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, int64(at))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		b, at = b[n:], at+uint64(n)
	}
	return nil
}
