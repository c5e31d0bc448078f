package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of states, which are files of JSON.
const (
	// MaxState is how large one can be, in bytes.
	MaxState = 4 << 20
	// Reserve is the name of a file beside it that keeps room for it on a full disk.
	Reserve     = "reserve"
	reserveSize = 256 << 10
)

// ReadState reads a state, whose keys must all be known, and has it checked. It is nil where
// there is no file.
func ReadState[T any](path string, check func(*T) error) (*T, error) {
	// Whoever owns the directory may replace it at any moment.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: be root, or the user who owns that directory", err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	state := new(T)
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > MaxState) {
		err = fmt.Errorf("it is no file of at most %d bytes", MaxState)
	}
	if err == nil {
		d := json.NewDecoder(io.LimitReader(f, MaxState))
		d.DisallowUnknownFields()
		err = d.Decode(state)
	}
	if err == nil {
		err = check(state)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read by this version of knowngood: %w", path, err)
	}
	return state, nil
}

// MaxText is how many bytes a state spends on a text that a program, or a name in a tree, may
// make of any length.
const MaxText = 6 << 10

// Text is what a state remembers of a text, in at most some bytes of JSON: where that is long,
// its begin and its end.
func Text(s string, limit int) string {
	if len(s) < limit {
		if b, err := json.Marshal(s); err == nil && len(b) <= limit {
			return s
		}
	}
	const escaped = len(`\u0001`) // what a byte may take
	part := min(len(s), limit/escaped) / 2
	return strings.ToValidUTF8(s[:part], "") + "…" + strings.ToValidUTF8(s[len(s)-part:], "")
}

// WriteState replaces a state, that only its owner can read; see Replace. One that could not be
// read again is refused. On a full disk it removes the reserve, and tries again. When nothing is
// under way it makes the reserve, for the next time.
func WriteState(path string, state any, idle bool) error {
	b, err := json.MarshalIndent(state, "", "  ")
	if err == nil && len(b) >= MaxState {
		err = fmt.Errorf("%s would have more than %d bytes, and is not written", path, MaxState)
	}
	if err != nil {
		return err
	}
	reserve := filepath.Join(filepath.Dir(path), Reserve)
	err = Replace(path, append(b, '\n'), 0o600)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		_ = os.Remove(reserve)
		return Replace(path, append(b, '\n'), 0o600)
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
