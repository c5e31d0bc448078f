package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"knowngood/cmd/knowngood/session"
	"knowngood/internal/enginetest"
)

// TestMain makes this test binary stand for the program as well: tests find
// it in their PATH as knowngood, beside programs that start it under
// circumstances.
func TestMain(m *testing.M) {
	// Each check of a property runs the program several times, and the same ones are made
	// each time; other tests wait more than they work. Flags on the command line, which
	// are read later, win.
	parallel := strconv.Itoa(2 * runtime.GOMAXPROCS(0))
	for name, value := range map[string]string{"rapid.checks": "15", "rapid.seed": "1", "test.parallel": parallel} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	testscript.Main(inMemory{m}, map[string]func(){
		"knowngood": func() {
			start(func(s *session.Session) {
				// Files of tests are younger than what the kernel leaves unwritten;
				// tests of package snapshot are about that.
				s.WritebackWindow = time.Nanosecond
				s.WorkFactor = 10 // what makes guessing slow makes tests slow; package identity has a test of it
			})
		},
		"without-rights":    withoutRights,
		"with-disk":         withDisk,
		"without-proc":      withoutProc,
		"as-machine":        asMachine,
		"with-accounts":     withAccounts,
		"under-supervision": underSupervision,
		"with-peak":         withPeak,
		"attest-passed":     attestPassed,
	})
}

// inMemory are the tests, with their temporary directories in memory.
type inMemory struct{ *testing.M }

func (m inMemory) Run() int {
	if err := enginetest.InMemory(); err != nil {
		panic(err)
	}
	return m.M.Run()
}

// withoutRights runs a program as a user whom the modes of files concern, be
// it root: without-rights PROGRAM ARGUMENT...
func withoutRights() {
	runtime.LockOSThread() // capabilities belong to a thread; exec takes those of the caller
	if os.Geteuid() == 0 {
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
				fatal("drop capability %d: %v", c, err)
			}
		}
	}
	replace(os.Args[1:])
}

// withDisk runs a program that sees, as the only one, a small file system at a directory:
// with-disk DIRECTORY OPTIONS PROGRAM ARGUMENT...; options are those of tmpfs.
func withDisk() {
	if len(os.Args) < 4 {
		fatal("usage: with-disk DIRECTORY OPTIONS PROGRAM ARGUMENT...")
	}
	runtime.LockOSThread() // a namespace belongs to a thread; exec takes that of the caller
	if err := mountDisk(os.Args[1], os.Args[2]); err != nil {
		fatal("mount a file system at %s: %v", os.Args[1], err)
	}
	replace(os.Args[3:])
}

// withoutProc runs a program as in a chroot in which /proc is not mounted:
// without-proc PROGRAM ARGUMENT...
func withoutProc() {
	runtime.LockOSThread() // as in withDisk
	err := ownMounts()
	if err == nil {
		err = unix.Unmount("/proc", unix.MNT_DETACH)
	}
	if err != nil {
		fatal("unmount /proc: %v", err)
	}
	replace(os.Args[1:])
}

// asMachine runs a program as if on another machine, whose ID is in a file:
// as-machine FILE PROGRAM ARGUMENT...
func asMachine() {
	if len(os.Args) < 3 {
		fatal("usage: as-machine FILE PROGRAM ARGUMENT...")
	}
	runtime.LockOSThread() // as in withDisk
	err := ownMounts()
	if err == nil {
		err = unix.Mount(os.Args[1], "/etc/machine-id", "", unix.MS_BIND, "")
	}
	if err != nil {
		fatal("mount %s: %v", os.Args[1], err)
	}
	replace(os.Args[2:])
}

// withAccounts runs a program as if on a machine with other users and groups,
// those of passwd and group in a directory: with-accounts DIRECTORY PROGRAM
// ARGUMENT...
func withAccounts() {
	if len(os.Args) < 3 {
		fatal("usage: with-accounts DIRECTORY PROGRAM ARGUMENT...")
	}
	runtime.LockOSThread() // as in withDisk
	err := ownMounts()
	for _, name := range []string{"passwd", "group"} {
		if err == nil {
			err = unix.Mount(os.Args[1]+"/"+name, "/etc/"+name, "", unix.MS_BIND, "")
		}
	}
	if err != nil {
		fatal("mount the accounts of %s: %v", os.Args[1], err)
	}
	replace(os.Args[2:])
}

// mountDisk mounts a tmpfs that only the calling thread sees.
func mountDisk(dir, options string) error {
	if err := ownMounts(); err != nil {
		return err
	}
	flags := uintptr(0)
	if rest, ok := strings.CutPrefix(options, "ro,"); ok {
		flags, options = unix.MS_RDONLY, rest
	}
	return unix.Mount("tmpfs", dir, "tmpfs", flags, options)
}

// ownMounts hides what the calling thread mounts from all others.
func ownMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// replace makes this process run another program.
func replace(argv []string) {
	if len(argv) == 0 {
		fatal("which program?")
	}
	path, err := exec.LookPath(argv[0])
	if err == nil {
		err = syscall.Exec(path, argv, os.Environ())
	}
	fatal("%s: %v", argv[0], err)
}

// fatal ends a program that could not do its part with a code that knowngood
// never has.
func fatal(format string, args ...any) {
	fmt.Fprintf(os.Stderr, os.Args[0]+": "+format+"\n", args...)
	os.Exit(125)
}
