// Package target is the directory that a restore writes into: where the entries
// of a manifest come to lie in it, and how their nodes are reached without
// following a link. It opens or makes the directory, keeps the marker by which an
// interrupted restore continues, and removes for the time of the restore the
// modes and inode flags that stand in the way.
//
// It refuses a new target that is not empty, unless the marker in it shows that
// an earlier restore of the same snapshot was interrupted there.
package target

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// Errors that callers branch on.
var (
	ErrNotEmpty  = errors.New("the target directory is not empty")
	ErrExists    = errors.New("the target exists")
	ErrAmbiguous = errors.New("the target could be meant in two ways")
)

// Options describe a target.
type Options struct {
	Target  string // path, as the caller names it
	InPlace bool   // what is in it stays, and counts
	DryRun  bool   // nothing is changed, and nothing is made
	Spare   []string

	Snapshot string            // how a user names it
	ID       [32]byte          // of the snapshot
	Sources  []manifest.Source // of the snapshot
	Under    string            // path of the entry that is restored; "" is all
	IsDir    bool              // that entry is a directory

	// Problem gets what could not be put back in order, by the path of the entry.
	Problem func(path string, err error)
}

// Target is where a restore writes. Except for Close it may be used concurrently.
type Target struct {
	Paths
	dir     directory
	rights  rights
	flags   protection
	near    string // the nearest directory that was there before
	made    []madeDir
	compare bool // what is there counts
	marker  marker
	inPlace bool
	dryRun  bool
}

// directory is the target itself, and the open directories in it.
type directory struct {
	fd   int // -1 in a dry run without a target
	open *posix.Dirs
}

// above opens the directory that rel lies in.
func (d *directory) above(rel string) (*posix.Dir, string, error) {
	dir, name := Split(rel)
	h, err := d.open.Get(dir)
	return h, name, err
}

// descend makes a directory, and opens it in the place of the one that it lies in.
func (d *directory) descend(name string) error {
	if err := unix.Mkdirat(d.fd, name, 0o700); err != nil {
		return err
	}
	fd, err := posix.OpenDir(d.fd, name)
	if err == nil {
		unix.Close(d.fd)
		d.fd = fd
	}
	return err
}

// madeDir is a directory above the target that this restore made.
type madeDir struct {
	path string // absolute
	fd   int
}

// Open opens a target, and makes it and the directories above it that are
// missing; a dry run makes none. What is in it counts only in place, or when the
// marker of an interrupted restore of the same snapshot shows whose it is.
func Open(o *Options) (*Target, error) {
	t := &Target{
		Paths:   Paths{under: o.Under, target: o.Target, place: o.Target, spare: o.Spare, original: o.InPlace && filepath.Clean(o.Target) == filepath.Join("/", o.Under)},
		dir:     directory{fd: -1},
		compare: o.InPlace,
		inPlace: o.InPlace,
		dryRun:  o.DryRun,
	}
	uid := os.Geteuid()
	t.marker = marker{dir: &t.dir, uid: uid, text: fmt.Sprintf("%x\n%s\n", o.ID, o.Under)}
	t.rights = rights{dir: &t.dir, problem: func(rel string, err error) { o.Problem(t.entry(rel), err) }, uid: uid}
	t.flags = protection{paths: &t.Paths, dir: &t.dir, problem: o.Problem}
	if o.Under != "" {
		t.strip = len(o.Under) + 1
	}
	if !o.IsDir {
		t.single = filepath.Base(o.Under)
	}

	err := t.findDetours(o)
	if err == nil {
		err = t.open()
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Target) open() (err error) {
	dir := t.target
	if t.original {
		dir = "/" + t.at(t.under)
	}
	if t.single != "" {
		if dir, err = t.placeSingle(); err != nil {
			return err
		}
		t.place = filepath.Join(dir, t.single)
	}
	if err := t.openRoot(dir); err != nil {
		return fmt.Errorf("target: %w", err)
	}

	switch {
	case t.inPlace && t.dir.fd >= 0:
		if t.real, err = filepath.EvalSymlinks(dir); err == nil {
			t.real, err = filepath.Abs(t.real)
		}
	case !t.inPlace && t.single == "" && t.dir.fd >= 0:
		err = t.marker.find(t.dryRun)
		if err == ErrNotEmpty {
			return fmt.Errorf("%w: %s (choose a new directory, or --in-place to change what is there)", err, t.target)
		}
		if err != nil {
			return fmt.Errorf("target %s: %w", t.target, err)
		}
		t.compare = t.marker.here
	}
	return err
}

// Marked reports whether the target has the marker of this restore.
func (t *Target) Marked() bool { return t.marker.here }

// Mark marks a new target as one of this restore.
func (t *Target) Mark() error {
	if err := t.marker.make(); err != nil {
		return fmt.Errorf("target %s: %w", t.target, err)
	}
	return nil
}

// Exists reports whether the target is there, which a dry run may find not to be.
func (t *Target) Exists() bool { return t.dir.fd >= 0 }

// Near returns the nearest directory that was there before the restore.
func (t *Target) Near() string { return t.near }

// Compares reports whether what is in the target counts.
func (t *Target) Compares() bool { return t.compare && t.dir.fd >= 0 }

// MayHold reports whether a directory may be there before the restore makes it.
func (t *Target) MayHold(rel string) bool {
	return t.compare || t.marker.lostFound && rel == lostFound
}

// Dir opens the directory at rel.
func (t *Target) Dir(rel string) (*posix.Dir, error) { return t.dir.open.Get(rel) }

// Above opens the directory that an entry lies in, and returns its name in there.
func (t *Target) Above(entry string) (*posix.Dir, string, error) { return t.dir.above(t.Rel(entry)) }

// Stat describes the node at the path of an entry: ENOENT also when it has no
// directory, and where nothing is to be compared with.
func (t *Target) Stat(entry string) (posix.Stat, error) {
	if !t.Compares() {
		return posix.Stat{}, unix.ENOENT
	}
	h, name, err := t.Above(entry)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return posix.Stat{}, unix.ENOENT // a dry run makes no directories
	}
	if err != nil {
		return posix.Stat{}, err
	}
	defer h.Release()
	return posix.StatAt(h.FD(), name)
}

// Device returns the device of the directory of an entry, or of the one that it
// would be made in; 0 without a target.
func (t *Target) Device(entry string) uint64 {
	if !t.Exists() {
		return 0
	}
	for dir, _ := Split(t.Rel(entry)); ; dir, _ = Split(dir) {
		if h, err := t.Dir(dir); err == nil {
			st, err := posix.StatFd(h.FD())
			h.Release()
			if err == nil {
				return st.Dev
			}
		}
		if dir == "" {
			return 0
		}
	}
}

// Mounted reports whether a file system is mounted on the directory of an entry.
// A target of the caller's choice counts as not mounted.
func (t *Target) Mounted(entry string) (bool, error) {
	if rel := t.Rel(entry); rel != "" {
		h, name, err := t.dir.above(rel)
		if err != nil {
			return false, err
		}
		defer h.Release()
		return posix.Mounted(h.FD(), name)
	}

	if !t.original || t.real == "/" {
		return false, nil
	}
	fd, err := unix.Open(filepath.Dir(t.real), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return posix.Mounted(fd, filepath.Base(t.real))
}

// With does something to the node of an entry, and does it once more when the
// directories above refused it and could be unlocked, or inode flags did and
// could be removed.
func (t *Target) With(entry string, do func() error) error {
	err := do()
	if t.dryRun || !t.Exists() {
		return err
	}
	if errors.Is(err, unix.EACCES) && t.rights.unlock(t.Rel(entry)) {
		err = do()
	}
	if errors.Is(err, unix.EPERM) {
		if undo, did := t.flags.remove(entry); did {
			if err = do(); err != nil {
				undo()
			}
		}
	}
	return err
}

// ProtectLater remembers a restored file or directory whose inode flags forbid
// changes, for Protect.
func (t *Target) ProtectLater(e *manifest.Entry) {
	if e.InodeFlags&posix.LockingFlags != 0 && !t.dryRun {
		t.flags.add(e)
	}
}

// Settle reports that the directory at rel has the mode, and the inode flags,
// that it is to have.
func (t *Target) Settle(rel string, mode, flags bool) {
	if mode {
		t.rights.settled(rel)
	}
	if flags {
		t.flags.settled(rel)
	}
}

// PutBack gives the directories that were unlocked their modes and flags again,
// unless Settle was called for them.
func (t *Target) PutBack() {
	t.rights.putBack()
	t.flags.putBack()
}

// Finish protects what is to be protected, and makes all of it durable. When the
// restore is complete, a marker is removed.
func (t *Target) Finish(complete bool) error {
	t.flags.protect(false)
	if !t.marker.here {
		t.flags.protect(true)
	}
	if err := t.Sync(); err != nil {
		return err
	}
	if !t.marker.here || !complete {
		return nil
	}

	err := t.marker.remove()
	if err == nil {
		t.flags.protect(true)
		err = t.Sync()
	}
	if err != nil {
		return fmt.Errorf("target %s: end the restore: %w", t.target, err)
	}
	return nil
}

// Sync makes everything in the target durable.
func (t *Target) Sync() error {
	if _, _, errno := unix.Syscall(unix.SYS_SYNCFS, uintptr(t.dir.fd), 0, 0); errno != 0 {
		return fmt.Errorf("sync %s: %w", t.target, errno)
	}
	return nil
}

// Made returns the directories above the target that this restore made where the
// snapshot has them too, and their descriptors, the deepest first.
func (t *Target) Made() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for _, d := range slices.Backward(t.made) {
			if !yield(d.path, d.fd) {
				return
			}
		}
	}
}

// Close closes the target.
func (t *Target) Close() {
	for _, d := range t.made {
		unix.Close(d.fd)
	}
	switch {
	case t.dir.open != nil:
		t.dir.open.Close()
	case t.dir.fd >= 0:
		unix.Close(t.dir.fd)
	}
}
