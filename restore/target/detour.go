package target

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/live"
	"knowngood/snapshot/manifest"
)

// detour is a source that lay behind symbolic links when it was captured. Its
// entries have the path that was configured; the files lie at real.
type detour struct{ path, real string } // of entries

// findDetours finds the sources of the snapshot that lay behind links, for a
// restore to where they were. Such links are neither replaced nor trusted: the
// restore writes where they led, and refuses when they lead elsewhere today.
func (p *Paths) findDetours(o *Options) error {
	if !p.original {
		return nil
	}
	for i := range o.Sources {
		s := &o.Sources[i]
		path := manifest.EntryPath(s.Path)
		above := manifest.Within(path, o.Under) && path != o.Under
		if !above && !manifest.Within(o.Under, path) {
			continue
		}
		if real := live.Real("/" + path); real != "" { // whichever generation it was
			p.detours = append(p.detours, detour{path, manifest.EntryPath(real)})
			continue
		}
		if s.Resolved == "" {
			continue
		}

		today, err := filepath.EvalSymlinks("/" + path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("source %s led to %s when the snapshot was taken, and its links lead nowhere today: make them again, or restore with --target %s", s.Path, s.Resolved, s.Resolved)
		case err != nil:
			return fmt.Errorf("source %s: %w", s.Path, err)
		case today != s.Resolved:
			return fmt.Errorf("source %s led to %s when the snapshot was taken, and leads to %s today: restore %s:/%s with --target and the directory that you mean", s.Path, s.Resolved, today, o.Snapshot, path)
		}

		real := manifest.EntryPath(s.Resolved)
		if above && !manifest.Within(real, o.Under) {
			return fmt.Errorf("source %s leads to %s, outside of /%s: restore %s:/%s by itself", s.Path, s.Resolved, o.Under, o.Snapshot, path)
		}
		p.detours = append(p.detours, detour{path, real})
	}
	slices.SortFunc(p.detours, func(a, b detour) int { return len(b.path) - len(a.path) }) // the innermost first
	return nil
}

// openWithoutLinks opens the directory at an absolute path, and refuses symbolic
// links anywhere on the way: somebody who may change a directory there could
// otherwise choose what is restored over.
func openWithoutLinks(dir string) (int, error) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	at := ""
	for part := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		if part == "" {
			break // the root itself
		}
		at += "/" + part
		next, err := unix.Openat(fd, part, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if st, serr := posix.StatAt(fd, part); err != nil && serr == nil && st.Type == manifest.Symlink {
			err = fmt.Errorf("%s is a symbolic link today, which it was not when the snapshot was taken: move it away, or give --target with the directory that you mean", at)
		}
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	defer unix.Close(fd)
	return unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
