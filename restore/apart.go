package restore

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoLink means that an inode cannot get another name where the name is to
// lie: on another file system, or on one that allows no more names, or none.
var errNoLink = errors.New("it cannot be linked there")

// cannotLink adds errNoLink to those errors of link(2) that mean it.
func cannotLink(err error) error {
	for _, no := range []error{unix.EXDEV, unix.EMLINK, unix.EPERM, unix.ENOTSUP, unix.ENOSYS} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w (%w)", errNoLink, err)
		}
	}
	return err
}

// mayLink returns an error when a name would lie on another file system than the
// first name of its inode, for a dry run.
func (l *links) mayLink(g *linkGroup, path string) error {
	if l.target.Device(g.path) != l.target.Device(path) {
		return cannotLink(unix.EXDEV)
	}
	return nil
}

// postpone leaves a name of a group to the next stage.
func (l *links) postpone(g *linkGroup, path string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.later == nil {
		l.later = map[string]error{}
	}
	l.later[strings.Clone(path)] = fmt.Errorf("restored as a file of its own, and not as another name of %q: %w", "/"+g.path, err)
}

// nextStage begins the stage of the names that were postponed, and reports
// whether there are any.
func (l *links) nextStage() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.apart, l.later = l.later, nil
	l.groups, l.second = map[uint64]*linkGroup{}, false
	l.waiting.Store(false)
	return len(l.report.apart) > 0
}
