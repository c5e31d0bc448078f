package posix

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// Unsized reads a file to its end, independent of its stated size. An error comes when
// that is not within bounds. It is read by a goroutine, because a read that
// waits cannot be ended.
type Unsized struct {
	pipe  *io.PipeReader
	write *io.PipeWriter
	limit time.Duration
	left  time.Duration // that may be waited for the file
}

// NewUnsized reads from the offset of an open file, at most so many bytes, waiting
// for them no longer than limit. The descriptor stays the caller's. Close must be
// called.
func NewUnsized(fd int, bytes uint64, limit time.Duration) (*Unsized, error) {
	// One of its own, because it may still wait when the caller's is closed.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	u := &Unsized{limit: limit, left: limit}
	u.pipe, u.write = io.Pipe()
	go func() {
		defer unix.Close(own)
		u.write.CloseWithError(u.copy(own, bytes))
	}()
	return u, nil
}

func (u *Unsized) copy(fd int, most uint64) error {
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
			return fmt.Errorf("has no size, and more than %d MiB in it: the rest was not read", most>>20)
		}
	}
}

func (u *Unsized) Read(b []byte) (int, error) {
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
func (u *Unsized) Close() error { return u.pipe.Close() }
