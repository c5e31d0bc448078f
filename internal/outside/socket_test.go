package outside

import (
	"net"
	"os"
	"syscall"
)

// socketpair is a connection of which the test has both ends.
func socketpair() (ends [2]*net.UnixConn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return ends, err
	}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return ends, err
		}
		ends[i] = c.(*net.UnixConn)
	}
	return ends, nil
}
