package walk

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// maxLinks is how many symbolic links lead to a source at most, as in the
// kernel.
const maxLinks = 40

// UnsafeLinkError says that symbolic links lead to a source over a place where
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
	r := &route{fd: -1}
	if err := r.restart(); err != nil {
		return nil, err
	}
	links := 0
	for todo := strings.Split(abs, "/"); len(todo) > 0; {
		name := todo[0]
		if todo = todo[1:]; name == "" || name == "." {
			continue
		}
		target, err := r.step(name)
		if err == nil && target != "" {
			if links++; links > maxLinks {
				err = unix.ELOOP
			} else if path.IsAbs(target) {
				err = r.restart()
			}
			todo = append(strings.Split(target, "/"), todo...)
		}
		if err != nil {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

// restart goes to the root of the file system.
func (r *route) restart() error {
	fd, st, err := posix.OpenNode(unix.AT_FDCWD, "/")
	if err == nil {
		r.move(fd, &st, "/")
	}
	return err
}

// step goes on over one name. Where that is a symbolic link, it stays and
// returns what the link says.
func (r *route) step(name string) (target string, err error) {
	fd, st, err := posix.OpenNode(r.fd, name)
	if err != nil {
		return "", err
	}
	at := path.Join(r.real, name)
	if st.Type != manifest.Symlink {
		r.move(fd, &st, at)
		return "", nil
	}
	defer unix.Close(fd)
	if r.link == "" {
		r.link = at
	}
	r.note(at, ownedByOthers(&st)) // its owner can replace it in a sticky directory
	return posix.Readlink(fd, "")
}

// move takes over the descriptor of the node that the route has come to.
func (r *route) move(fd int, st *posix.Stat, real string) {
	r.close()
	r.fd, r.real, r.stat = fd, real, *st
	why := ownedByOthers(st)
	if why == "" && st.Type == manifest.Dir && st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		why = "can be written by others"
	}
	r.note(real, why)
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
