package generation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"
	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/snapshot/walk"
)

// changes are what of sources is not as it was copied, by path.
type changes struct {
	paths map[string]change
	order []string                // as they were found: what is in a directory after it
	dirs  map[string]posix.DevIno // that were there and are
}

// has reports whether a directory was there and is.
func (x *changes) has(dir string) bool {
	_, ok := x.dirs[dir]
	return ok
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
	x := &changes{map[string]change{}, nil, map[string]posix.DevIno{}}
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
			x.dirs[path] = n.Stat.ID()
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
		w.Note("putting back what was changed in environment %s: %d %s", w.Environment, len(x.order), english.PluralWord(len(x.order), "path", ""))
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
	c.there = x.dirs
	touched := map[string]bool{}
	for _, path := range x.order { // what holds a directory comes before it
		if dir := parentOf(path); !touched[dir] && (x.has(dir) || x.paths[dir].kind == "added") {
			c.open(dir)
		}
		touched[parentOf(path)] = true
	}
	for _, path := range slices.Backward(x.order) {
		if x.paths[path].kind != "added" {
			continue
		}
		if err := c.remove(path); errors.Is(err, unix.ENOTEMPTY) {
			x.dirs[path] = posix.DevIno{} // of what it holds the environment leaves out all
			w.Note("/%s is new and is kept: what is in it is no part of environment %s", path, w.Environment)
		} else if err != nil {
			return fmt.Errorf("remove /%s: %w", path, err)
		}
		w.point("a path is removed")
	}
	return errors.Join(eachBelow(ctx, w.path(w.from), nil, func(n *walk.Node, rel string) error {
		was, ok := x.paths[rel]
		isDir := n.Stat.Type == inode.Dir
		if !ok && !(isDir && touched[rel] && x.has(rel)) {
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
	out, err := c.above(path)
	if errors.Is(err, errExchanged) { // all else goes on
		c.failed = cmp.Or(c.failed, err)
		return nil
	} else if errors.Is(err, fs.ErrNotExist) {
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
	err = eachBelow(ctx, w.path(w.from), nil, func(n *walk.Node, rel string) error {
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
	var differ Changes
	for _, path := range x.order {
		if now, other := x.paths[path]; other && !(now.kind == "added" && before.has(path)) {
			differ.add(path, now.kind)
		}
	}
	if differ.Count > 0 {
		return &differsError{fmt.Errorf("what was put back is not all as it was, or was changed again: %s (the copy of it stays in %s)", &differ, w.path(w.from))}
	}
	return nil
}
