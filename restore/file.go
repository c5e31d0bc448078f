package restore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// earlyWrite is the length of a chunk, in bytes, from which the disk is told to
// begin with it at once, so that less is left for the sync at the end.
const earlyWrite = 256 << 10

// file is a regular file being restored.
type file struct {
	entry *manifest.Entry
	group *linkGroup // nil unless the file has several names
	left  atomic.Int64

	// temp is set when the file is written beside its final name.
	temp    bool
	present []bool // chunks that the temporary file has already; nil is none

	mu     sync.Mutex
	fd     int // -1 when not open
	failed bool
	// writing lets one chunk at a time be written: the kernel serialises
	// writes to a file, and those who wait for it there burn a core.
	writing sync.Mutex
}

// have tells whether chunk i is in the file already.
func (f *file) have(i int) bool { return f.present != nil && f.present[i] }

// open creates the file when it is not open; f.mu is held.
func (f *file) open(r *restorer) error {
	if f.fd >= 0 {
		return nil
	}
	h, name, err := r.within(f.entry.Path)
	if err != nil {
		return err
	}
	defer h.Release()
	if f.temp {
		name = walk.PartName(name)
		if err := unix.Unlinkat(h.FD(), name, 0); err != nil && err != unix.ENOENT {
			return err
		}
	}
	fd, err := unix.Openat(h.FD(), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, r.createMode(f.entry))
	if err != nil {
		return err
	}
	f.fd = fd
	if len(f.entry.Chunks) != 1 || len(f.entry.Holes) > 0 {
		return unix.Ftruncate(fd, int64(f.entry.Size))
	}
	return nil
}

// createMode is the mode with which a file is made: its own when whoever makes
// it will own it, which saves a call; else nobody else's until it is complete.
func (r *restorer) createMode(e *manifest.Entry) uint32 {
	if int(e.UID) == r.uid && int(e.GID) == r.gid && len(e.Xattrs) == 0 {
		return e.Mode & 0o777
	}
	return 0o600
}

// write puts a verified chunk in its place and completes the file with the
// last one.
func (f *file) write(r *restorer, u use, b []byte) error {
	f.mu.Lock()
	if f.failed {
		f.mu.Unlock()
		f.done(r)
		return nil
	}
	err := f.open(r)
	fd := f.fd
	f.mu.Unlock()
	if err == nil {
		f.writing.Lock()
		err = f.put(fd, u.at, b)
		f.writing.Unlock()
		if len(b) >= earlyWrite {
			unix.SyncFileRange(fd, int64(u.at), int64(len(b)), unix.SYNC_FILE_RANGE_WRITE)
		}
	}
	if err != nil {
		f.fail(r, err)
		return r.ends(f.entry.Path, err)
	}
	r.Progress.Bytes.Add(uint64(len(b)))
	if f.left.Add(-1) == 0 {
		return r.fatal(f.entry.Path, f.finish(r))
	}
	return nil
}

// ends lets through what ends the restore; the rest is noted already.
func (r *restorer) ends(path string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EIO) {
		return fmt.Errorf("%q: %w", "/"+path, err)
	}
	return nil
}

// put writes b, whose offset counts content without holes.
func (f *file) put(fd int, at uint64, b []byte) error {
	for _, h := range f.entry.Holes {
		if h.Offset > at {
			n := min(h.Offset-at, uint64(len(b)))
			if err := pwrite(fd, b[:n], at); err != nil {
				return err
			}
			b, at = b[n:], at+n
			if len(b) == 0 {
				return nil
			}
		}
		at += h.Length
	}
	return pwrite(fd, b, at)
}

func pwrite(fd int, b []byte, at uint64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, int64(at))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+uint64(n)
	}
	return nil
}

// fail gives the file up: nothing of it is left.
func (f *file) fail(r *restorer, err error) {
	f.mu.Lock()
	first := !f.failed
	f.failed = true
	f.mu.Unlock()
	if first {
		r.problem(f.entry.Path, fmt.Errorf("not restored: %w", err))
	}
	f.done(r)
}

// done counts down a chunk of a failed file; the last one removes it.
func (f *file) done(r *restorer) {
	if f.left.Add(-1) > 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
		if h, name, err := r.within(f.entry.Path); err == nil {
			if f.temp {
				name = walk.PartName(name)
			}
			unix.Unlinkat(h.FD(), name, 0)
			h.Release()
		}
	}
	f.group.fail(r)
}

// finish gives a file whose content is complete its metadata and its name.
func (f *file) finish(r *restorer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed {
		return nil
	}
	if err := f.open(r); err != nil {
		return err
	}
	r.attributes(f.entry.Path, r.applier.Apply(f.fd, f.entry))
	err := unix.Close(f.fd)
	f.fd = -1
	if err != nil {
		return err
	}
	r.Progress.Files.Add(1)
	if f.temp {
		return r.commit.add(f)
	}
	return f.group.complete(r, f.entry.Path)
}

// complete makes the other names of a file that has its first.
func (g *linkGroup) complete(r *restorer, path string) error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	later := g.later
	g.path, g.done, g.later = path, true, nil
	g.mu.Unlock()
	for _, p := range later {
		if err := r.fatal(p, r.linkNow(g, p)); err != nil {
			return err
		}
	}
	return nil
}

// planned ends a dry run's part for a node that would be made anew.
func (g *linkGroup) planned(r *restorer, path string) error {
	if g == nil {
		return nil
	}
	g.renewed = true
	return g.complete(r, path)
}

func (g *linkGroup) fail(r *restorer) {
	if g == nil {
		return
	}
	g.mu.Lock()
	later := g.later
	g.failed, g.later = true, nil
	g.mu.Unlock()
	for _, p := range later {
		r.problem(p, errors.New("not restored: another name of a file that could not be restored"))
	}
}

// committer puts files that were written beside their names in their places:
// sync, then rename, in batches. What was there stays whole until then.
type committer struct {
	r     *restorer
	mu    sync.Mutex
	files []*file
}

const commitBatch = 2048

func (c *committer) add(f *file) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = append(c.files, f)
	if len(c.files) < commitBatch {
		return nil
	}
	return c.flushLocked()
}

func (c *committer) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *committer) flushLocked() error {
	if len(c.files) == 0 {
		return nil
	}
	if err := syncfs(c.r.root); err != nil {
		return fmt.Errorf("sync %s: %w", c.r.Target, err)
	}
	for _, f := range c.files {
		if err := c.r.fatal(f.entry.Path, c.rename(f)); err != nil {
			return err
		}
	}
	c.files = c.files[:0]
	return nil
}

func (c *committer) rename(f *file) error {
	h, name, err := c.r.within(f.entry.Path)
	if err != nil {
		return err
	}
	defer h.Release()
	err = unix.Renameat(h.FD(), walk.PartName(name), h.FD(), name)
	if err == unix.EISDIR || err == unix.ENOTEMPTY {
		if err = c.r.clear(h.FD(), name, f.entry.Path); err == nil {
			err = unix.Renameat(h.FD(), walk.PartName(name), h.FD(), name)
		}
	}
	if err != nil {
		return err
	}
	return f.group.complete(c.r, f.entry.Path)
}
