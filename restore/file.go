package restore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/authentic"
)

// earlyWrite is the length of a chunk, in bytes, from which the disk is told to
// begin with it at once, so that less is left for the sync at the end.
const earlyWrite = 256 << 10

// file is a regular file being restored.
type file struct {
	r      *restorer
	entry  *manifest.Entry
	group  *linkGroup // nil unless the file has several names
	action string     // what is done to it: "create" or "change"
	part   string     // the path of the file of which it is what was read; "" stands for itself
	left   atomic.Int64
	turn   uint64 // in the order of files that are compared with what is there

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

// fetch asks for the chunks of a file that it does not have yet.
func (f *file) fetch(ctx context.Context, r *restorer) error {
	f.r = r
	chunks := f.entry.Chunks
	need := len(chunks)
	for i := range f.present {
		if f.present[i] {
			need--
		}
	}
	f.left.Store(int64(need))
	if need == 0 {
		return r.fatal(f.entry.Path, f.finish(r))
	}

	at := uint64(0)
	for i := range chunks {
		c := &chunks[i]
		if f.present == nil || !f.present[i] {
			if err := r.fetcher.Want(ctx, c, at, f); err != nil {
				return err
			}
		}
		at += uint64(c.Len)
	}
	return nil
}

// open creates the file when it is not open; f.mu is held.
func (f *file) open(r *restorer) error {
	if f.fd >= 0 {
		return nil
	}
	if err := r.with(f.entry.Path, func() error { return f.create(r) }); err != nil {
		return err
	}
	if f.temp {
		r.commit.opened(f)
	}
	if len(f.entry.Chunks) != 1 || len(f.entry.Holes) > 0 {
		return unix.Ftruncate(f.fd, int64(f.entry.Size))
	}
	return nil
}

func (f *file) create(r *restorer) error {
	h, name, err := r.within(f.entry.Path)
	if err != nil {
		return err
	}
	defer h.Release()

	if f.temp {
		name = walk.PartName(name)
		if err := removePart(h.FD(), name); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(h.FD(), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, r.createMode(f.entry))
	if err == nil {
		f.fd = fd
		posix.SetEmptyFlags(fd, f.entry.InodeFlags)
	}
	return err
}

// createMode is the mode with which a file is made: its own when whoever makes
// it will own it, which saves a call; else nobody else's until it is complete.
func (r *restorer) createMode(e *manifest.Entry) uint32 {
	if int(e.UID) == r.uid && int(e.GID) == r.gid && len(e.Xattrs) == 0 {
		return e.Mode & 0o777
	}
	return 0o600
}

// Write puts a verified chunk in its place and completes the file with the
// last one.
func (f *file) Write(at uint64, b []byte) error {
	r := f.r
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
		err = f.put(fd, at, b)
		f.writing.Unlock()
		if len(b) >= earlyWrite {
			unix.SyncFileRange(fd, int64(at), int64(len(b)), unix.SYNC_FILE_RANGE_WRITE)
		}
	}
	if err != nil {
		f.Fail(err)
		if endsRestore(err) {
			return fmt.Errorf("%q: %w", "/"+f.entry.Path, err)
		}
		return nil
	}
	r.Progress.Bytes.Add(uint64(len(b)))
	if f.left.Add(-1) == 0 {
		return r.fatal(f.entry.Path, f.finish(r))
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

// Fail gives the file up: nothing of it is left.
func (f *file) Fail(err error) {
	r := f.r
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
	f.discard(r)
	f.group.fail(r)
}

// discard closes a file and removes what of it was written, if it is open;
// f.mu is held.
func (f *file) discard(r *restorer) {
	if f.fd < 0 {
		return
	}
	unix.Close(f.fd)
	f.fd = -1
	f.remove(r)
}

// remove removes what was written of a file.
func (f *file) remove(r *restorer) {
	h, name, err := r.within(f.entry.Path)
	if err != nil {
		return
	}
	defer h.Release()

	if f.temp {
		name = walk.PartName(name)
		r.commit.gone(f)
	}
	unix.Unlinkat(h.FD(), name, 0)
}

// finish gives a file whose content is complete its metadata and its name.
func (f *file) finish(r *restorer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed {
		return nil
	}

	if err := f.seal(r); err != nil {
		f.failed = true
		return f.giveUp(r, err)
	}
	if f.temp {
		return r.commit.add(f)
	}
	return f.placed(r)
}

// giveUp removes what was written of a file that nobody works on any more. It
// returns the error as that of the file.
func (f *file) giveUp(r *restorer, err error) error {
	f.discard(r)
	f.group.fail(r)
	return fmt.Errorf("not restored: %w", err)
}

// seal applies the metadata of a file, and closes it.
func (f *file) seal(r *restorer) error {
	if err := f.open(r); err != nil {
		return err
	}
	r.attributes(f.entry.Path, r.applier.Apply(f.fd, f.entry.Metadata()))
	if f.group != nil {
		st, err := posix.StatFd(f.fd)
		if err != nil {
			return err
		}
		f.group.inode = st.ID()
	}
	err := unix.Close(f.fd)
	f.fd = -1
	if err != nil {
		f.remove(r)
	}
	return err
}

// placed counts a file that has its name, and makes its other names.
func (f *file) placed(r *restorer) error {
	r.Progress.Files.Add(1)
	return f.count(r)
}

// count counts a file as restored, in a dry run as one that could be, and does
// the same for its other names.
func (f *file) count(r *restorer) error {
	if f.part != "" {
		r.did(f.action, f.entry.Path)
		r.wrotePart(f.part, f.entry.Path)
		return nil
	}
	r.protectLater(f.entry)
	r.done(f.action, f.entry.Path, manifest.File, f.entry.Size)
	return f.group.complete(r)
}

// planned is the part of a dry run for a file that would be written; good are
// the chunks that would be taken from what is there.
func (f *file) planned(r *restorer, good []bool) error {
	err := r.objects.Lacking(f.entry, good)
	if authentic.Damaged(err) {
		r.note(f.entry.Path, err)
		f.group.fail(r)
		return nil
	}
	if err != nil {
		return err
	}
	f.group.renew()
	return f.count(r)
}
