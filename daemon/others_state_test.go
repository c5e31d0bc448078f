package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
)

// TestADaemonOfRootsIsLedNowhere has another user, whose state directory it is,
// replace each file of the daemon.
func TestOthersState(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("root works in the directory of somebody else")
	}
	const somebody = 54321
	for _, file := range []string{"jobs/env-web.state", "jobs/env-web.runs", "told.state", "locks/.daemon", "locks/web", "jobs", "locks"} {
		for name, plant := range map[string]func(roots, at string) error{
			"a symbolic link": os.Symlink,
			"a hard link":     os.Link,
			"a named pipe":    func(_, at string) error { return errors.Join(unix.Mkfifo(at, 0o600), os.Chown(at, somebody, somebody)) },
		} {
			t.Run(file+" is "+name, func(t *testing.T) {
				t.Parallel()
				base := t.TempDir()
				state, roots := filepath.Join(base, "state"), filepath.Join(base, "roots")
				at := filepath.Join(state, "daemon", file)
				for _, dir := range []string{state, filepath.Join(state, "daemon"), filepath.Dir(at)} {
					if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chown(dir, somebody, somebody)); err != nil {
						t.Fatal(err)
					}
				}
				if err := errors.Join(os.WriteFile(roots, []byte("root's"), 0o600), plant(roots, at)); err != nil {
					t.Fatal(err)
				}

				j, _, _ := openJob(state, "web")
				_ = j.ended(report.Run{Result: report.Success})
				_ = j.slots.Write(&j.state)
				before, slots, _ := openSent(state)
				_ = slots.Write(before)
				for _, lock := range []string{".daemon", "web"} {
					if l, err := jobfiles.TryLock(jobfiles.Locks(state), lock, "a test"); err == nil {
						l.Release()
					}
				}

				info, err := os.Stat(roots)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(roots); err != nil || string(b) != "root's" || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 0 {
					t.Errorf("root's file is now %v of %d and says %q, %v", info.Mode(), info.Sys().(*syscall.Stat_t).Uid, b, err)
				}
			})
		}
	}
}
