package restore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/fetch"
	"knowngood/restore/target"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/authentic"
)

// earlyWrite is the length of a chunk, in bytes, from which the kernel is asked to
// write it to the disk at once, so that less is left for the sync at the end.
const earlyWrite = 256 << 10

// files writes regular files.
type files struct {
	target   *target.Target
	report   *report
	metadata *metadata
	fetcher  *fetch.Fetcher // of the stage
	packs    *fetch.Packs   // of a dry run that verifies; else nil
	commit   committer
	uid, gid int // of this process
}

// createMode returns the mode with which a file is made: its own when whoever
// makes it will own it, which saves a call; otherwise nobody else may open it
// until it is complete.
func (w *files) createMode(e *manifest.Entry) uint32 {
	if int(e.UID) == w.uid && int(e.GID) == w.gid && len(e.Xattrs) == 0 {
		return e.Mode & 0o777
	}
	return 0o600
}

// file is a regular file being restored: its chunks are fetched and written, in
// any order, and the last one finishes it.
type file struct {
	to     *files
	entry  *manifest.Entry
	group  *linkGroup // nil unless the file has several names
	action string     // what is done to it: "create" or "change"
	part   string     // path of the file of which this is what was read; else ""
	left   atomic.Int64
	turn   uint64 // in the order of files that are compared with what is there

	// temp is set when the file is written beside its final name.
	temp    bool
	present []bool // chunks that the temporary file has already; nil is none

	mu     sync.Mutex
	fd     int // -1 when not open
	failed bool
	// writing is held while a chunk is written: the kernel serialises writes to a
	// file, and those who wait for it there burn a core.
	writing sync.Mutex
}

// fetch asks for the chunks of a file that it does not have yet.
func (f *file) fetch(ctx context.Context) error {
	chunks := f.entry.Chunks
	need := len(chunks)
	for i := range f.present {
		if f.present[i] {
			need--
		}
	}
	f.left.Store(int64(need))
	if need == 0 {
		return f.to.report.fatal(f.entry.Path, f.finish())
	}

	at := uint64(0)
	for i := range chunks {
		c := &chunks[i]
		if f.present == nil || !f.present[i] {
			if err := f.to.fetcher.Want(ctx, c, at, f); err != nil {
				return err
			}
		}
		at += uint64(c.Len)
	}
	return nil
}

// open creates the file when it is not open; f.mu is held.
func (f *file) open() error {
	if f.fd >= 0 {
		return nil
	}
	if err := f.to.target.With(f.entry.Path, f.create); err != nil {
		return err
	}
	if f.temp {
		f.to.commit.opened(f)
	}
	if len(f.entry.Chunks) != 1 || len(f.entry.Holes) > 0 {
		return unix.Ftruncate(f.fd, int64(f.entry.Size))
	}
	return nil
}

func (f *file) create() error {
	h, name, err := f.to.target.Above(f.entry.Path)
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
	fd, err := unix.Openat(h.FD(), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, f.to.createMode(f.entry))
	if err == nil {
		f.fd = fd
		posix.SetEmptyFlags(fd, f.entry.InodeFlags)
	}
	return err
}

// Write puts a verified chunk in its place and completes the file with the
// last one.
func (f *file) Write(at uint64, b []byte) error {
	f.mu.Lock()
	if f.failed {
		f.mu.Unlock()
		f.done()
		return nil
	}
	err := f.open()
	fd := f.fd
	f.mu.Unlock()
	if err == nil {
		f.writing.Lock()
		err = writeContent(fd, f.entry, at, b)
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
	f.to.report.progress.Bytes.Add(uint64(len(b)))
	if f.left.Add(-1) == 0 {
		return f.to.report.fatal(f.entry.Path, f.finish())
	}
	return nil
}

// Fail gives the file up: nothing of it is left.
func (f *file) Fail(err error) {
	f.mu.Lock()
	first := !f.failed
	f.failed = true
	f.mu.Unlock()
	if first {
		f.to.report.problem(f.entry.Path, notRestored(err))
	}
	f.done()
}

// done counts down a chunk of a failed file; the last one removes it.
func (f *file) done() {
	if f.left.Add(-1) > 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.discard()
	f.group.fail()
}

// discard closes a file and removes what of it was written, if it is open;
// f.mu is held.
func (f *file) discard() {
	if f.fd < 0 {
		return
	}
	unix.Close(f.fd)
	f.fd = -1
	f.remove()
}

// remove removes what was written of a file.
func (f *file) remove() {
	h, name, err := f.to.target.Above(f.entry.Path)
	if err != nil {
		return
	}
	defer h.Release()

	if f.temp {
		name = walk.PartName(name)
		f.to.commit.gone(f)
	}
	unix.Unlinkat(h.FD(), name, 0)
}

// finish gives a file whose content is complete its metadata and its name.
func (f *file) finish() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed {
		return nil
	}

	if err := f.seal(); err != nil {
		f.failed = true
		return f.giveUp(err)
	}
	if f.temp {
		return f.to.commit.add(f)
	}
	return f.placed()
}

// giveUp removes what was written of a file that nobody works on any more. It
// returns the error as that of the file.
func (f *file) giveUp(err error) error {
	f.discard()
	f.group.fail()
	return notRestored(err)
}

// seal applies the metadata of a file, and closes it.
func (f *file) seal() error {
	if err := f.open(); err != nil {
		return err
	}
	f.to.metadata.apply(f.fd, f.entry)
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
		f.remove()
	}
	return err
}

// placed counts a file that has its name, and makes its other names.
func (f *file) placed() error {
	f.to.report.progress.Files.Add(1)
	return f.count()
}

// count counts a file as restored, in a dry run as one that could be, and does
// the same for its other names.
func (f *file) count() error {
	if f.part != "" {
		f.to.report.did(f.action, f.entry.Path)
		f.to.report.part(f.part, f.to.target.Located(f.entry.Path))
		return nil
	}
	f.to.target.ProtectLater(f.entry)
	f.to.report.done(f.action, f.entry.Path, manifest.File, f.entry.Size)
	return f.group.complete()
}

// planned is the part of a dry run for a file that would be written; good are
// the chunks that would be taken from what is there.
func (f *file) planned(good []bool) error {
	err := f.to.packs.Lacking(f.entry, good)
	if authentic.Damaged(err) {
		f.to.report.note(f.entry.Path, err)
		f.group.fail()
		return nil
	}
	if err != nil {
		return err
	}
	f.group.renew()
	return f.count()
}
