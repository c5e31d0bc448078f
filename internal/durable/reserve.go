package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const reserveSize = 256 << 10

// ReplaceReserved replaces a file by a value as JSON, that only its owner can read; see Replace. On a
// full disk it removes the reserve, a file beside it that keeps room for that, and tries again.
// When nothing is under way it makes the reserve, for the next time.
func ReplaceReserved(path, reserve string, value any, idle bool) error {
	err := ReplaceJSON(path, value, 0o600)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		_ = os.Remove(reserve)
		return ReplaceJSON(path, value, 0o600)
	}
	if err == nil && idle {
		makeReserve(reserve)
	}
	return err
}

// makeReserve makes the room. Where there is none, the next change may find none.
func makeReserve(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return // it is there
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path)
	}
}
