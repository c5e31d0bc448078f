package posix

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
)

// maxLinks is how many symbolic links are followed at most, as in the kernel.
const maxLinks = 40

// Follow goes along an absolute path, over symbolic links at its end too, and
// opens its end as a mere reference (O_PATH), which the caller closes. Every
// component is opened from its parent, and visit is called with each: "/", the
// directories and links on the way, and the end, with its path free of links.
func Follow(abs string, visit func(at string, st *Stat)) (fd int, st Stat, real string, err error) {
	f := &follower{fd: -1, visit: visit}
	if err := f.restart(); err != nil {
		return -1, Stat{}, "", err
	}

	links := 0
	for todo := strings.Split(abs, "/"); len(todo) > 0; {
		name := todo[0]
		if todo = todo[1:]; name == "" || name == "." {
			continue
		}
		target, err := f.step(name)
		if err == nil && target != "" {
			if links++; links > maxLinks {
				err = unix.ELOOP
			} else if path.IsAbs(target) {
				err = f.restart()
			}
			todo = append(strings.Split(target, "/"), todo...)
		}
		if err != nil {
			f.close()
			return -1, Stat{}, "", err
		}
	}
	return f.fd, f.stat, f.real, nil
}

// follower is where Follow has come to.
type follower struct {
	fd    int
	stat  Stat
	real  string
	visit func(at string, st *Stat)
}

// restart goes to the root of the file system.
func (f *follower) restart() error {
	fd, st, err := OpenNode(unix.AT_FDCWD, "/")
	if err == nil {
		f.move(fd, &st, "/")
	}
	return err
}

// step goes on over one name. Where that is a symbolic link, it stays and
// returns what the link contains.
func (f *follower) step(name string) (target string, err error) {
	fd, st, err := OpenNode(f.fd, name)
	if err != nil {
		return "", err
	}
	at := path.Join(f.real, name)
	if st.Type != inode.Symlink {
		f.move(fd, &st, at)
		return "", nil
	}
	defer unix.Close(fd)
	f.visit(at, &st)
	return Readlink(fd, "")
}

// move takes over the descriptor of the node that was come to.
func (f *follower) move(fd int, st *Stat, real string) {
	f.close()
	f.fd, f.real, f.stat = fd, real, *st
	f.visit(real, st)
}

func (f *follower) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
	f.fd = -1
}
