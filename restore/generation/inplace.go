package generation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/durable"
	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// InPlace is about sources that a command changes where they are: a copy of them is made
// before, from which a rollback puts back what was changed. The journal is that of
// generations; of these there are two, the one before the command and the one after it.
type InPlace struct {
	Dir     string // of the journal and the copy, only for the running user
	Sources []configs.Source
	// Walk is how sources are walked, and what of them is left out.
	Walk func([]configs.Source) ([]walk.Source, []posix.DevIno, error)
	// Run runs the command. It is not called while something is only finished.
	Run func(ctx context.Context) error

	scope scope
}

// scope is where a command may change things.
type scope struct {
	Sources []configs.Source `json:"sources"`
	Mounts  []string         `json:"mounts"` // in the sources, when they were copied
}

// methodCopy is that of a state in place.
const methodCopy = "copy"

// Begin is Open for sources in place, of which there need be no state yet.
func Begin(ctx context.Context, o *Options) (*Set, error) {
	if err := os.MkdirAll(o.InPlace.Dir, 0o700); err != nil {
		return nil, err
	}
	s, err := opened(ctx, o)
	if err != nil {
		return nil, err
	}
	if s.state == nil {
		s.state = &state{Version: stateVersion, Environment: s.Environment, Method: methodCopy, Generations: []*Generation{}}
	}
	if err := s.idle(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Room is what a copy of sources takes, in bytes.
type Room struct {
	Entries, Bytes, Free uint64
	Shared               bool // the file system shares content: only what is changed takes room
}

const (
	roomOfEntry = 512      // for its metadata
	roomToSpare = 64 << 20 // that stays free
)

// packageDatabases are where package managers keep what is installed.
var packageDatabases = []string{"var/lib/dpkg", "var/lib/rpm", "usr/lib/sysimage/rpm", "var/lib/pacman", "lib/apk/db"}

// Room measures the sources, and refuses what could not be put back: sources that links
// lead to, no room for a copy, and, where packages may change, a package database outside.
func (s *Set) Room(ctx context.Context, packages bool) (*Room, error) {
	sources, omit, err := s.InPlace.Walk(s.InPlace.Sources)
	if err != nil {
		return nil, err
	}
	for _, src := range sources {
		if real, err := filepath.EvalSymlinks(src.Path); err != nil {
			return nil, err
		} else if real != src.Path {
			return nil, fmt.Errorf("source %s leads to %s by a link, and what changes there could not be put back: name %[2]s as the source", src.Path, real)
		}
	}
	r := &Room{Shared: true}
	outside, links, shares := map[string]bool{}, map[posix.DevIno]bool{}, map[uint64]bool{}
	for _, d := range packageDatabases {
		if real, err := filepath.EvalSymlinks("/" + d); err == nil && packages {
			outside[manifest.EntryPath(real)] = true
		}
	}
	c := &scan{top: "/", sources: sources, omit: omit, node: func(n *walk.Node, e, _ *entry) error {
		r.Entries++
		delete(outside, n.Path)
		size := min(e.st.Size, e.st.Blocks*512)
		if e.st.Type != inode.File || size == 0 || links[e.st.ID()] {
			return nil
		}
		if e.st.Nlink > 1 {
			links[e.st.ID()] = true
		}
		if _, asked := shares[e.st.Dev]; !asked {
			shares[e.st.Dev] = shared(n, s.dir)
		}
		if !shares[e.st.Dev] {
			r.Shared, r.Bytes = false, r.Bytes+size
		}
		return nil
	}}
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	for _, d := range slices.Sorted(maps.Keys(outside)) {
		return nil, fmt.Errorf("the package database /%s is not in environment %s: after a way back it would list what is not there. Add it to the sources, or say that the command changes no packages (--no-packages)", d, s.Environment)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	r.Bytes += r.Entries * roomOfEntry
	r.Free = st.Bavail * uint64(st.Bsize)
	if r.Bytes+roomToSpare > r.Free || st.Files > 0 && st.Ffree < r.Entries {
		return nil, fmt.Errorf("there is no room for a way back: a copy of the sources takes %d MiB and %d inodes, and in %s %d MiB and %d are free. Make room, move the state directory (--state-dir), or leave out what the command does not change", (r.Bytes+roomToSpare)>>20, r.Entries, s.dir, r.Free>>20, st.Ffree)
	}
	return r, nil
}

// shared reports whether the content of a file can be shared with a copy in a directory.
func shared(n *walk.Node, dir string) bool {
	dirfd, err := n.Dir.Open()
	if err != nil {
		return false
	}
	fd, _, err := posix.OpenFile(dirfd, n.Name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	to, err := os.CreateTemp(dir, ".record-*")
	if err != nil {
		return false
	}
	defer to.Close()
	defer os.Remove(to.Name())
	return unix.IoctlFileClone(int(to.Fd()), fd) == nil
}

// StageInPlace copies the sources, of which a snapshot has been taken, and returns the name
// of the version that a command is to make of them: see Switch.
func (s *Set) StageInPlace(ctx context.Context, number uint64, id [32]byte, o Origin) (string, error) {
	to, err := s.copySources(ctx, number, id, o)
	if err != nil {
		return "", errors.Join(fmt.Errorf("copy of the sources: %w", err), s.tidy())
	}
	return to, nil
}

func (s *Set) copySources(ctx context.Context, number uint64, id [32]byte, o Origin) (string, error) {
	p := s.InPlace
	sources, omit, err := p.Walk(p.Sources)
	if err == nil {
		p.scope.Sources = p.Sources
		p.scope.Mounts, err = mountsIn(sources)
	}
	if s.state.Problem = ""; err == nil { // what was kept because of it goes
		err = s.tidy()
	}
	if err != nil {
		return "", err
	}
	for _, src := range sources {
		if err := os.MkdirAll(filepath.Join(s.path(newName), filepath.Dir(src.Path)), 0o700); err != nil {
			return "", err
		}
	}
	s.point("before copying")
	c, err := newCopier(s.path(newName), false)
	if err != nil {
		return "", err
	}
	defer c.to.Close()
	from := &Generation{Name: nameOf(number, id), Status: Committed, Origin: o, Built: s.Now()}
	r := &scan{top: "/", sources: sources, omit: omit, write: s.path(from.Name + recordName), node: func(n *walk.Node, _, _ *entry) error { return c.node(n, n.Path) }}
	if err := r.run(ctx); err != nil {
		return "", err
	}
	if err := c.finish(); err != nil {
		return "", err
	}
	s.point("after copying")
	if from.Entries, from.Way = r.count, "copied"; c.reflinks {
		from.Way = "copied by reflinks"
	}
	if err := errors.Join(posix.SyncFS(s.path(newName)), s.remove(from.Name)); err != nil {
		return "", err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, s.path(newName), unix.AT_FDCWD, s.path(from.Name), unix.RENAME_NOREPLACE); err != nil {
		return "", err
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return "", err
	}
	to := &Generation{Name: fmt.Sprintf("patched-%08x", uint32(s.Now().Unix())), Status: Staged, Origin: Origin{Way: "changed in place", Proof: "unproven"}, Built: s.Now()}
	s.state.Generations = []*Generation{from, to}
	time.Sleep(ClockTick) // what is changed from now on has another ctime
	return to.Name, s.save("staged")
}

// SetSnapshot records which snapshot has the live generation.
func (s *Set) SetSnapshot(ref string, id [32]byte) error {
	g, err := s.Live()
	if err != nil {
		return err
	}
	g.Snapshot, g.ID = ref, fmt.Sprintf("%x", id)
	return s.save("snapshot")
}

// mountsIn are the mount points in sources.
func mountsIn(sources []walk.Source) (mounts []string, err error) {
	all, err := posix.Mounts("/")
	for _, m := range all {
		at := manifest.EntryPath(m.Path)
		if slices.ContainsFunc(sources, func(s walk.Source) bool { return manifest.Within(at, manifest.EntryPath(s.Path)) }) {
			mounts = append(mounts, at)
		}
	}
	slices.Sort(mounts)
	return mounts, err
}
