package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// errNoLink says that an inode cannot get another name where the name is to
// lie: on another file system, or on one that allows no more names, or none.
var errNoLink = errors.New("it cannot be linked there")

// cannotLink adds errNoLink to errors of link(2) that it stands for.
func cannotLink(err error) error {
	for _, no := range []error{unix.EXDEV, unix.EMLINK, unix.EPERM, unix.ENOTSUP, unix.ENOSYS} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w (%w)", errNoLink, err)
		}
	}
	return err
}

// mayLink is for a dry run: an error when a name would lie on another file
// system than the first of its inode.
func (r *restorer) mayLink(g *linkGroup, path string) error {
	if r.device(g.path) != r.device(path) {
		return cannotLink(unix.EXDEV)
	}
	return nil
}

// device is that of the directory of a path, or of the one that it would be
// made in; 0 without a target.
func (r *restorer) device(path string) uint64 {
	if r.root < 0 {
		return 0
	}
	for dir, _ := split(r.rel(path)); ; dir, _ = split(dir) {
		if h, err := r.dirs.Get(dir); err == nil {
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

// putOff leaves a name of a group to the next stage.
func (l *links) putOff(g *linkGroup, path string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.later == nil {
		l.later = map[string]error{}
	}
	l.later[strings.Clone(path)] = fmt.Errorf("restored as a file of its own, and not as another name of %q: %w", "/"+g.path, err)
}

// nextStage begins the stage of the names that were put off, and reports
// whether there are any.
func (l *links) nextStage() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apart, l.later = l.later, nil
	l.groups, l.second = map[uint64]*linkGroup{}, false
	l.waiting.Store(false)
	return len(l.apart) > 0
}

// apart restores an entry that was put off: the first one of its group that
// comes as a file of its own, and the others as names of that, where a file can
// have several. Each of them is named when it is restored; see done.
func (r *restorer) apart(ctx context.Context, ex *examiner, e *manifest.Entry) error {
	why := r.links.apart[e.Path]
	if why == nil {
		return nil
	}
	if !errors.Is(why, unix.EXDEV) && !errors.Is(why, unix.EMLINK) {
		e.Link = 0
	}
	what := e.InodeDigest()
	r.owners.Apply(ctx, e, false)
	return r.make(ctx, ex, e, what)
}
