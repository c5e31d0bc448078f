package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// parent is a directory above the target that this restore made.
type parent struct {
	path string // absolute
	fd   int
}

// locate finds the entry that the restore starts from.
func (r *restorer) locate(ctx context.Context) (*manifest.Entry, error) {
	if r.Under == "" {
		return &manifest.Entry{Type: manifest.Dir}, nil
	}
	e, err := r.Tree.Find(ctx, r.Under)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fmt.Errorf("%w: %q in %s (knowngood ls %s shows what it has)", ErrNoPath, "/"+r.Under, r.Tree.Snapshot.Ref(), r.Tree.Snapshot.Ref())
	}
	r.strip = len(r.Under) + 1
	if e.Type != manifest.Dir {
		r.single = path.Base(r.Under)
	}
	return e, nil
}

// rel is the path of an entry below root.
func (r *restorer) rel(path string) string {
	if r.single != "" {
		if manifest.Within(path, r.Under) {
			return r.single + path[len(r.Under):]
		}
		_, name := split(path) // what is made beside it
		return name
	}
	if under := r.at(r.Under); len(r.detours) > 0 {
		return strings.TrimPrefix(strings.TrimPrefix(r.at(path), under), "/")
	}
	if len(path) < r.strip {
		return ""
	}
	return path[r.strip:]
}

// located is where an entry comes to lie, as the caller names the target.
func (r *restorer) located(p string) string {
	switch {
	case r.original():
		return "/" + r.at(p)
	case r.single != "":
		return path.Join(path.Dir(r.place), r.rel(p))
	}
	return path.Join(r.Target, r.rel(p))
}

// isOwn reports whether a path in the target is one of Spare, or in one.
func (r *restorer) isOwn(path string) bool {
	at := filepath.Join(r.real, r.rel(path))
	return slices.ContainsFunc(r.Spare, func(p string) bool { return p == at || strings.HasPrefix(at, p+"/") })
}

// spared reports whether a path in the target is one of Spare, or above or
// below one.
func (r *restorer) spared(path string) bool {
	at := filepath.Join(r.real, r.rel(path))
	return slices.ContainsFunc(r.Spare, func(p string) bool {
		return p == at || strings.HasPrefix(p, at+"/") || strings.HasPrefix(at, p+"/")
	})
}

// original reports whether what is restored comes to lie where it was.
func (r *restorer) original() bool {
	return r.InPlace && filepath.Clean(r.Target) == path.Join("/", r.Under)
}

// openTarget opens the directory that is restored into, and makes it when it is
// missing. What is in it counts only in place, or when the marker of an
// interrupted restore of the same snapshot shows whose it is.
func (r *restorer) openTarget(ctx context.Context) error {
	dir := r.Target
	r.place = dir
	if r.original() {
		dir = "/" + r.at(r.Under)
	}
	if r.single != "" {
		var err error
		if dir, err = r.placeSingle(); err != nil {
			return err
		}
		r.place = path.Join(dir, r.single)
	}
	near, err := r.openRoot(dir)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}

	switch {
	case r.InPlace && r.root < 0:
		return nil
	case r.InPlace:
		if r.real, err = filepath.EvalSymlinks(dir); err == nil {
			r.real, err = filepath.Abs(r.real)
		}
		return err
	case r.single != "":
		return r.checkSpace(ctx, near)
	}

	if r.root >= 0 {
		goesOn, err := r.goesOn()
		if err != nil || goesOn {
			return err
		}
	}
	if err := r.checkSpace(ctx, near); err != nil || r.DryRun {
		return err
	}
	return r.makeMarker()
}

// placeSingle decides where a node goes that is not a directory: into which
// directory, which it returns, and under which name.
func (r *restorer) placeSingle() (dir string, err error) {
	if r.original() { // whatever is there now
		dir, r.single = path.Split("/" + r.at(r.Under))
		return dir, nil
	}
	dir, name := path.Split(r.Target)
	if dir == "" {
		dir = "."
	}

	st, err := os.Stat(r.Target)
	switch isDir := err == nil && st.IsDir(); {
	case isDir && name == r.single:
		return "", fmt.Errorf("%w: %s is a directory now, and in the snapshot it is none (move it away, or give --target %s to restore into it)",
			ErrAmbiguous, r.Target, path.Join(r.Target, name))
	case isDir, name == "":
		dir = r.Target
	default:
		r.single = name
	}

	// It is restored as in place: by way of a temporary file, which is also
	// what a killed restore leaves, and not half a file of that name.
	r.compare = true
	at := path.Join(dir, r.single)
	if _, err := os.Lstat(at); err == nil && !r.InPlace {
		return "", fmt.Errorf("%w: %s (choose another --target, or give --in-place to replace it)", ErrExists, at)
	}
	return dir, nil
}

// openRoot opens a directory, and makes it and those above it that are missing,
// each from the descriptor of the one above. A dry run makes none. It returns
// the nearest directory that was there before.
func (r *restorer) openRoot(dir string) (near string, err error) {
	near = dir
	var missing []string // names, the deepest first
	for {
		if _, err = os.Stat(near); err == nil {
			break
		}
		above, name := splitPath(near)
		if !errors.Is(err, fs.ErrNotExist) || above == near {
			return "", err
		}
		near, missing = above, append(missing, name)
	}
	if len(missing) > 0 && r.DryRun {
		return near, nil
	}

	if r.root, err = r.openExisting(near); err != nil {
		return "", err
	}
	at := near
	for i, name := range slices.Backward(missing) {
		at = path.Join(at, name)
		if err := r.makeRoot(name); err != nil {
			return "", fmt.Errorf("make %s: %w", at, err)
		}
		if r.original() && (i > 0 || r.single != "") {
			if err := r.addParent(at); err != nil {
				return "", err
			}
		}
	}
	if r.dirs, err = posix.NewDirs(r.root, 4*posix.DirsLimit); err != nil {
		r.root = -1 // it is closed
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	return near, nil
}

// splitPath separates the last component of a path; that of "/" and "." is
// themselves.
func splitPath(p string) (above, name string) {
	for len(p) > 1 && p[len(p)-1] == '/' {
		p = p[:len(p)-1]
	}
	switch i := strings.LastIndexByte(p, '/'); i {
	case -1:
		return ".", p
	case 0:
		return "/", p[1:]
	default:
		return p[:i], p[i+1:]
	}
}

// openExisting opens a directory that is there. One that belongs to this user
// and refuses him is unlocked, where he asked to change what is there.
func (r *restorer) openExisting(dir string) (int, error) {
	open := func(dir string) (int, error) {
		return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if r.original() { // the snapshot names it, and its links were looked at
		open = openWithoutLinks
	}
	fd, err := open(dir)
	if err == unix.EACCES && r.InPlace && !r.DryRun {
		fd, err = r.rights.openLocked(r, dir)
	}
	if err == unix.ENOTDIR {
		return -1, fmt.Errorf("%s is not a directory: move it away, or choose another --target", dir)
	}
	if err != nil {
		return -1, fmt.Errorf("%s: %w", dir, err)
	}
	return fd, nil
}

// makeRoot makes a directory in root, which root is then.
func (r *restorer) makeRoot(name string) error {
	if err := unix.Mkdirat(r.root, name, 0o700); err != nil {
		return err
	}
	fd, err := posix.OpenDir(r.root, name)
	if err == nil {
		unix.Close(r.root)
		r.root = fd
	}
	return err
}

// addParent remembers that root was made and gets the metadata that it had.
func (r *restorer) addParent(at string) error {
	fd, err := unix.FcntlInt(uintptr(r.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	r.parents = append(r.parents, parent{at, fd})
	return nil
}

// finishParents gives the directories above the target that were made anew the
// metadata that the snapshot has of them.
func (r *restorer) finishParents(ctx context.Context) {
	for _, p := range slices.Backward(r.parents) {
		e, err := r.Tree.Find(ctx, p.path[1:])
		switch {
		case err != nil:
			r.problem(p.path[1:], err)
		case e != nil && e.Type == manifest.Dir:
			r.owners.Apply(ctx, e, false)
			r.attributes(e.Path, r.applier.Apply(p.fd, e.Metadata()))
		}
	}
}

// close closes what openTarget opened.
func (r *restorer) close() {
	for _, p := range r.parents {
		unix.Close(p.fd)
	}
	switch {
	case r.dirs != nil:
		r.dirs.Close()
	case r.root >= 0:
		unix.Close(r.root)
	}
}

// checkSpace compares the content to be written with the room there is at a
// directory.
func (r *restorer) checkSpace(ctx context.Context, near string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(near, &st); err != nil {
		return fmt.Errorf("target %s: %w", r.Target, err)
	}
	free := st.Bavail * uint64(st.Bsize)
	need := uint64(0)
	if r.Under == "" && r.Select == nil {
		need = r.Tree.Snapshot.Body.ContentBytes
		if need <= free {
			return nil
		}
		need = 0 // it counts holes and hard links; look closer
	}
	seen := map[uint64]bool{}
	for e, err := range r.Tree.Entries(ctx, r.Under) {
		if err != nil {
			continue // the restore itself names it
		}
		if e.Type != manifest.File || !r.wanted(e.Path, false) || e.Link != 0 && seen[e.Link] {
			continue
		}
		if e.Link != 0 {
			seen[e.Link] = true
		}
		need += e.ContentSize()
	}
	if need > free {
		return fmt.Errorf("%w: %s has %s free, the restore takes %s (make room, or restore a sub-path)", ErrNoSpace, r.Target, humanize.IBytes(free), humanize.IBytes(need))
	}
	return ctx.Err()
}
