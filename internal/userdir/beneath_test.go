package userdir_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
)

// withoutOpenat2 calls do on a thread for which openat2 fails.
func withoutOpenat2(errno unix.Errno, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT2, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
		}
		runtime.KeepAlive(filter)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

func TestBeneath(t *testing.T) {
	t.Parallel()
	use := func(d userdir.Dir) error {
		read := func(want string) error {
			if b, err := d.ReadFile("name"); err != nil || string(b) != want || b == nil {
				return errors.Join(err, errors.New("read "+string(b)))
			}
			return nil
		}
		err := errors.Join(d.Make(), d.Make(), d.Replace("name", nil), read(""), d.ReplaceUnsynced("name", []byte("content")), read("content"), d.Sync())
		if info, serr := d.Stat("name"); serr != nil || info.Name() != "name" || info.Size() != 7 || info.Mode() != 0o600 {
			err = errors.Join(err, serr, errors.New("the file is described wrongly"))
		}
		if names, nerr := d.Names(); nerr != nil || len(names) != 1 {
			err = errors.Join(err, nerr, errors.New("another number of names"))
		}
		if _, missing := d.Stat("other"); !errors.Is(missing, fs.ErrNotExist) {
			err = errors.Join(err, missing, errors.New("a missing file is not reported missing"))
		}
		if _, missing := d.ReadFile("other"); !errors.Is(missing, fs.ErrNotExist) {
			err = errors.Join(err, missing, errors.New("a missing file is not reported missing"))
		}
		return errors.Join(err, d.Remove("name"), d.In("..", "b").Remove(""))
	}

	for name, run := range map[string]func(do func() error) error{
		"with it":                  func(do func() error) error { return do() },
		"a kernel without it":      func(do func() error) error { return withoutOpenat2(unix.ENOSYS, do) },
		"a filter that forbids it": func(do func() error) error { return withoutOpenat2(unix.EPERM, do) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := userdir.At(filepath.Join(t.TempDir(), "top")).In("a", "b")
			if err := run(func() error { return use(d) }); err != nil {
				t.Error(err)
			}
		})
	}
}
