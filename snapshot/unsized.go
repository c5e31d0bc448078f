package snapshot

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what is read of a file that states no size; see
// posix.FileSystem.SizeUnknown. Some of those never end, or let readers wait.
const (
	maxUnsized  = 64 << 20 // bytes
	unsizedTime = 10 * time.Second
)

// unsized reads a file to its end, whatever size it states. An error comes when
// that is not within bounds. It is read by a goroutine, because a read that
// waits cannot be ended.
type unsized struct {
	pipe  *io.PipeReader
	write *io.PipeWriter
	limit time.Duration
	left  time.Duration // that may be waited for the file
}

// newUnsized reads from where an open file stands. The descriptor stays the
// caller's. Close must be called.
func newUnsized(fd int, bytes uint64, limit time.Duration) (*unsized, error) {
	// One of its own, because it may still wait when the caller's is closed.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	u := &unsized{limit: limit, left: limit}
	u.pipe, u.write = io.Pipe()
	go func() {
		defer unix.Close(own)
		u.write.CloseWithError(u.copy(own, bytes))
	}()
	return u, nil
}

func (u *unsized) copy(fd int, most uint64) error {
	buf := make([]byte, 64<<10)
	for total := uint64(0); ; {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read at byte %d: %w", total, err)
		}
		if n == 0 {
			return nil
		}
		over := total+uint64(n) > most
		if over {
			n = int(most - total)
		}
		if _, err := u.write.Write(buf[:n]); err != nil {
			return err // nobody reads on
		}
		if total += uint64(n); over {
			return fmt.Errorf("states no size, and holds more than %d MiB: the rest was not read", most>>20)
		}
	}
}

func (u *unsized) Read(b []byte) (int, error) {
	started := time.Now()
	wait := time.AfterFunc(u.left, func() {
		u.write.CloseWithError(fmt.Errorf("states no size, and did not come to its end within %v", u.limit))
	})
	defer wait.Stop()
	n, err := u.pipe.Read(b)
	u.left -= time.Since(started)
	return n, err
}

// Close ends the reading.
func (u *unsized) Close() error { return u.pipe.Close() }
