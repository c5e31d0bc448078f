package walk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// UnsafeLinkError means that symbolic links lead to a source over a place where
// others than root and the running user could make them lead elsewhere.
type UnsafeLinkError struct {
	Link  string // the first symbolic link on the way
	Real  string // where the path leads now
	Place string // what is in the hands of others
	Why   string // such as "can be written by others"
}

func (e *UnsafeLinkError) Error() string {
	return fmt.Sprintf("the symbolic link %s is not followed, because %s %s, who could make it lead elsewhere; give the path that it leads to, %s, if that is what you want", e.Link, e.Place, e.Why, e.Real)
}

// DanglingLinkError is a source that is a symbolic link and leads nowhere.
type DanglingLinkError struct {
	Target string // of the link, as it is written there
	Err    error  // what following it met
}

func (e *DanglingLinkError) Error() string {
	why := "which does not exist: is a disk not mounted?"
	switch {
	case errors.Is(e.Err, unix.ENOTDIR):
		why = "where a directory on the way is none"
	case errors.Is(e.Err, unix.ELOOP):
		why = "which leads in a circle"
	}
	return fmt.Sprintf("is a symbolic link to %s, %s", e.Target, why)
}

func (e *DanglingLinkError) Unwrap() error { return e.Err }

// dangling is the error of following a symbolic link, with its target where it
// leads nowhere.
func dangling(link string, err error) error {
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return err
	}
	target, readErr := os.Readlink(link)
	if readErr != nil {
		return err
	}
	return &DanglingLinkError{target, err}
}

// route is where an absolute path leads. Every component was opened from its
// parent, so what was looked at is what is open.
type route struct {
	fd     int // O_PATH, of the end
	stat   posix.Stat
	real   string // absolute, free of links
	link   string // the first symbolic link on the way, or ""
	unsafe UnsafeLinkError
}

// follow goes along an absolute path, over symbolic links at its end too. The
// caller closes the route.
func follow(abs string) (*route, error) {
	r := &route{}
	var err error
	r.fd, r.stat, r.real, err = posix.Follow(abs, r.pass)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// pass records what lies on the way.
func (r *route) pass(at string, st *posix.Stat) {
	why := ownedByOthers(st) // the owner of a link can replace it in a sticky directory
	if st.Type == manifest.Symlink && r.link == "" {
		r.link = at
	}
	if why == "" && st.Type == manifest.Dir && st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		why = "can be written by others"
	}
	r.note(at, why)
}

func (r *route) note(place, why string) {
	if why != "" && r.unsafe.Why == "" {
		r.unsafe.Place, r.unsafe.Why = place, why
	}
}

func (r *route) close() {
	if r.fd >= 0 {
		unix.Close(r.fd)
	}
	r.fd = -1
}

// safe returns *UnsafeLinkError where links lead to the end, and others have
// something on the way in their hands, the end included.
func (r *route) safe() error {
	if r.link == "" || r.unsafe.Why == "" {
		return nil
	}
	e := r.unsafe
	e.Link, e.Real = r.link, r.real
	return &e
}

func ownedByOthers(st *posix.Stat) string {
	if st.UID == 0 || int(st.UID) == os.Geteuid() {
		return ""
	}
	return fmt.Sprintf("belongs to user %d", st.UID)
}
