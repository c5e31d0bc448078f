package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// Extra tells what a capture as of o would add to what the tree has at and
// below under: the topmost new paths, in path order. What the capture would
// leave out is not extra, for it walks as that does; a source that is gone adds
// nothing. within says that the directory it is in was captured, not only the
// way through it to a source. Problem hears of what cannot be looked at.
func Extra(ctx context.Context, t *Tree, under string, o walk.Options, found func(path string, within bool) error, problem func(path string, err error)) error {
	o.Sources = slices.Clone(o.Sources)
	o.Sources = slices.DeleteFunc(o.Sources, func(s walk.Source) bool {
		path := strings.Trim(s.Path, "/")
		_, err := os.Lstat(s.Path)
		return errors.Is(err, fs.ErrNotExist) || !manifest.Within(path, under) && !manifest.Within(under, path)
	})
	next, stop := iter.Pull2(t.Entries(ctx, under))
	defer stop()
	e, eerr, more := next()
	past := errors.New("past what is to be looked at")
	captured := map[string]bool{} // directories on the way to the present node
	inside, covered := "", false  // of something that is told, or that is no directory in the tree
	err := walk.Walk(ctx, o, func(n *walk.Node) error {
		if n.Dir != nil {
			n.Dir.Release()
		}
		switch {
		case !manifest.Within(n.Path, under) && manifest.Compare(n.Path, under) > 0:
			return past
		case !manifest.Within(n.Path, under), covered && manifest.Within(n.Path, inside):
			return nil
		}
		if n.Err != nil && !errors.Is(n.Err, unix.ENOENT) {
			problem(n.Path, n.Err)
		}
		for more && eerr == nil && manifest.Compare(e.Path, n.Path) < 0 {
			e, eerr, more = next()
		}
		switch {
		case eerr != nil:
			return eerr
		case more && e.Path == n.Path:
			if e.Type != manifest.Dir {
				inside, covered = n.Path, true
				return nil
			}
			maps.DeleteFunc(captured, func(dir string, _ bool) bool { return !manifest.Within(n.Path, dir) })
			captured[strings.Clone(n.Path)] = e.Flags&manifest.Implied == 0
			return nil
		case n.Implied || !n.Listed:
			return nil
		}
		inside, covered = n.Path, true
		dir := n.Path[:max(0, strings.LastIndexByte(n.Path, '/'))]
		return found(n.Path, n.Path != "" && captured[dir])
	})
	if err == past {
		return nil
	}
	return err
}
