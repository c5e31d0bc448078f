package generation

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
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
	Dir     string // of the journal and the copy, for the running user alone
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
	s, err := open(o)
	if err == nil && s.state != nil {
		err = s.recover(ctx)
	} else if err == nil {
		s.state = &state{Version: stateVersion, Environment: s.Environment, Method: methodCopy, Generations: []*Generation{}}
	}
	if err == nil {
		err = s.idle()
	}
	if err != nil && s != nil {
		s.Close()
	}
	return s, err
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
	time.Sleep(clockTick) // what is changed from now on has another ctime
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

// changes are what of sources is not as it was copied, by path.
type changes struct {
	paths map[string]change
	order []string        // as they were found: what is in a directory after it
	dirs  map[string]bool // that were there and are
}

type change struct {
	kind string // as that of Change
	sum  [32]byte
	id   posix.DevIno
}

// sumOf is the hash of all that an entry has, content included.
func sumOf(ctx context.Context, n *walk.Node) ([32]byte, error) {
	e, err := (&scan{}).read(ctx, n, ".", nil)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(e.fixed(nil)), nil
}

// wayBack leads from what a command made of sources in place to the copy of what they were.
type wayBack struct {
	places
	from  string // name of the copy
	scope *scope
}

// changed compares sources with the record of them.
func (w *wayBack) changed(ctx context.Context) (*changes, error) {
	sources, omit, err := w.InPlace.Walk(w.scope.Sources)
	if err != nil {
		return nil, err
	}
	mounts, err := mountsIn(sources)
	if err == nil && !slices.Equal(mounts, w.scope.Mounts) {
		err = fmt.Errorf("other file systems are mounted in the sources than before (%q, and now %q): mount, or unmount, what is different", w.scope.Mounts, mounts)
	}
	if err != nil {
		return nil, err
	}
	if sources, err = present(sources); err != nil {
		return nil, err
	}
	x := &changes{map[string]change{}, nil, map[string]bool{}}
	add := func(path string, c change) {
		x.paths[path] = c
		x.order = append(x.order, path)
	}
	c := &scan{top: "/", old: w.path(w.from + recordName), sources: sources, omit: omit}
	c.changed = func(y Change) {
		if y.Kind == "removed" {
			add(y.Path, change{kind: y.Kind})
		}
	}
	c.node = func(n *walk.Node, e, was *entry) error {
		path := strings.Clone(n.Path)
		switch {
		case was == nil:
			add(path, change{kind: "added"})
		case !was.same(&n.Stat):
			sum, err := sumOf(ctx, n)
			if err != nil {
				return err
			}
			add(path, change{"changed", sum, n.Stat.ID()})
		}
		if was != nil && e.st.Type == inode.Dir {
			x.dirs[path] = true
		}
		return nil
	}
	return x, c.run(ctx)
}

// present are the sources that are there. None was reached by a link when it was copied: one
// that is a link now is removed.
func present(sources []walk.Source) (have []walk.Source, err error) {
	have = []walk.Source{}
	for _, src := range sources {
		real, err := filepath.EvalSymlinks(src.Path)
		if info, lerr := os.Lstat(src.Path); lerr == nil && info.Mode()&os.ModeSymlink != 0 {
			if err := os.Remove(src.Path); err != nil {
				return nil, err
			}
			continue
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case real != src.Path:
			return nil, fmt.Errorf("the way to source %s leads to %s by a link, which it did not: remove that link", src.Path, real)
		default:
			have = append(have, src)
		}
	}
	return have, nil
}

// putBack makes the sources what they were when they were copied, by plan: what was added
// goes, what was changed or removed is put back, each by one rename, with its metadata. Then
// all of it is compared again. What is not changed is not touched.
func (w *wayBack) putBack(ctx context.Context) error {
	x, err := w.changed(ctx)
	if err == nil {
		w.note("putting back what was changed in environment %s: %d %s", w.Environment, len(x.order), english.PluralWord(len(x.order), "path", ""))
		err = w.apply(ctx, x)
	}
	if err != nil {
		return fmt.Errorf("putting back: %w (the copy is in %s)", err, w.path(w.from))
	}
	w.point("put back")
	return w.compare(ctx, x)
}

func (w *wayBack) apply(ctx context.Context, x *changes) error {
	c, err := newCopier("/", true)
	if err != nil {
		return err
	}
	defer c.to.Close()
	touched := map[string]bool{}
	for _, path := range x.order { // what holds a directory comes before it
		if dir := parentOf(path); !touched[dir] && (x.dirs[dir] || x.paths[dir].kind == "added") {
			c.open(dir)
		}
		touched[parentOf(path)] = true
	}
	for _, path := range slices.Backward(x.order) {
		if x.paths[path].kind != "added" {
			continue
		}
		if err := c.remove(path); errors.Is(err, unix.ENOTEMPTY) {
			x.dirs[path] = true // of what it holds the environment leaves out all
			w.note("/%s is new and is kept: what is in it is no part of environment %s", path, w.Environment)
		} else if err != nil {
			return fmt.Errorf("remove /%s: %w", path, err)
		}
		w.point("a path is removed")
	}
	return errors.Join(eachBelow(ctx, w.path(w.from), func(n *walk.Node, rel string) error {
		was, ok := x.paths[rel]
		isDir := n.Stat.Type == inode.Dir
		if !ok && !(isDir && touched[rel] && x.dirs[rel]) {
			return nil
		}
		if ok && was.kind == "changed" && (n.Stat.Nlink == 1 || isDir && !touched[rel]) {
			if sum, err := sumOf(ctx, n); err != nil || sum == was.sum {
				return err
			}
		}
		if err := c.node(n, rel); err != nil {
			return err
		}
		w.point("a path is put back")
		return nil
	}), c.finish(), w.syncSources())
}

// syncSources makes durable what was put back.
func (w *wayBack) syncSources() (err error) {
	for _, src := range w.scope.Sources {
		if src.Path != "" {
			err = errors.Join(err, posix.SyncFS(filepath.Dir(src.Path)))
			if info, serr := os.Stat(src.Path); serr == nil && info.IsDir() {
				err = errors.Join(err, posix.SyncFS(src.Path))
			}
		}
	}
	return err
}

func parentOf(path string) string { return strings.TrimPrefix(filepath.Dir("/"+path), "/") }

// remove removes what was added. A directory is empty by then, or it is unix.ENOTEMPTY.
func (c *copier) remove(path string) error {
	out, err := c.to.Get(parentOf(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer out.Release()
	name := filepath.Base(path)
	st, err := posix.StatAt(out.FD(), name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Type == inode.Dir:
		c.open(path)
		c.to.Forget(path)
		return unix.Unlinkat(out.FD(), name, unix.AT_REMOVEDIR)
	}
	return posix.RemoveAll(out.FD(), name)
}

// differsError: what was put back is not as it was. It is not tried again.
type differsError struct{ error }

// compare demands that the sources are as they were copied, after before was put back.
func (w *wayBack) compare(ctx context.Context, before *changes) error {
	x, err := w.changed(ctx)
	if err != nil {
		return err
	}
	groups := map[posix.DevIno]posix.DevIno{} // names of one file are names of one file again
	err = eachBelow(ctx, w.path(w.from), func(n *walk.Node, rel string) error {
		now, ok := x.paths[rel]
		if !ok || now.kind != "changed" {
			return nil
		}
		sum, err := sumOf(ctx, n)
		if err != nil || sum != now.sum {
			return err
		}
		if n.Stat.Nlink > 1 && n.Stat.Type != inode.Dir {
			if first, known := groups[n.Stat.ID()]; known && first != now.id {
				return nil
			}
			groups[n.Stat.ID()] = now.id
		}
		delete(x.paths, rel)
		return nil
	})
	if err != nil {
		return err
	}
	var first []Change
	count := 0
	for _, path := range x.order {
		now, other := x.paths[path]
		if !other || now.kind == "added" && before.dirs[path] {
			continue
		}
		if count++; count <= maxNamed {
			first = append(first, Change{Path: path, Kind: now.kind})
		}
	}
	if count > 0 {
		return &differsError{fmt.Errorf("what was put back is not all as it was, or was changed again: %s (the copy of it stays in %s)", Named(first, count), w.path(w.from))}
	}
	return nil
}
