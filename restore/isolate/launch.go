package isolate

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command prepares the process, with its pipes; theirs are the ends to close once it runs.
func (c *Cell) command(argv []string, m mode, network bool) (_ *exec.Cmd, theirs []*os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	c.socket = os.NewFile(uintptr(pair[0]), "cell")
	theirs = []*os.File{os.NewFile(uintptr(pair[1]), "parent"), nil, nil}
	if theirs[1], c.in, err = os.Pipe(); err != nil {
		return nil, theirs, err
	}
	if c.out, theirs[2], err = os.Pipe(); err != nil {
		return nil, theirs, err
	}

	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: argv, Dir: "/",
		Env:   append([]string{stageVar + "=init"}, environment...),
		Stdin: theirs[1], Stdout: theirs[2], Stderr: &c.stderr, ExtraFiles: theirs[:1],
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true},
		WaitDelay:   time.Second,
	}
	if m == alone {
		cmd.Env[0] = stageVar + "=inside"
	} else {
		cmd.SysProcAttr.Cloneflags = namespaces &^ unix.CLONE_NEWUSER
	}
	if network {
		cmd.SysProcAttr.Cloneflags &^= unix.CLONE_NEWNET
	}
	return cmd, theirs, nil
}

// idRange is how many IDs the cells of root have, and as many may come for those of
// Spec.IDs. mostRuns is how many runs of these are mapped: the kernel takes a page of text.
const (
	idRange  = 1 << 16
	mostRuns = 128
)

// firstID chooses a block of IDs between those of systemd-nspawn and the end, which
// nobody else uses: each cell its own, so that limits by user count one cell.
func firstID() int {
	n, err := rand.Int(rand.Reader, big.NewInt(2000))
	if err != nil {
		panic(err) // it never fails
	}
	return 0x70000000 + int(n.Int64())*2*idRange
}

// mappings are the IDs of a cell of root's: all that are small, and further ones.
func mappings(first int, further []uint32) []syscall.SysProcIDMap {
	maps := []syscall.SysProcIDMap{{HostID: first, Size: idRange}}
	for i, id := range further {
		last := &maps[len(maps)-1]
		switch {
		case i == idRange || id == math.MaxUint32: // which is nobody at all
			return maps
		case last.ContainerID+last.Size == int(id):
			last.Size++
		case len(maps) > mostRuns:
			return maps
		default:
			maps = append(maps, syscall.SysProcIDMap{ContainerID: int(id), HostID: first + idRange + i, Size: 1})
		}
	}
	return maps
}

var processLimit sync.Mutex // the limit of this process is changed

// launch starts the process from a thread of its own that lives as long as it:
// the signal at the death of a parent comes at the death of the thread.
func (c *Cell) launch(cmd *exec.Cmd, l Limits, m mode, first int, further []uint32) error {
	started := make(chan error)
	go onItsThread(func() {
		err := func() error {
			processLimit.Lock()
			defer processLimit.Unlock()
			var others int
			switch m {
			case unprivileged:
				if c.mappers = mappers(); c.mappers == nil {
					cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
					cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
				}
				others = tasksOf(os.Getuid())
			case ranged:
				ids := mappings(first, further)
				cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids, ids
				cmd.SysProcAttr.GidMappingsEnableSetgroups = true
				cmd.SysProcAttr.Credential = &syscall.Credential{}
				if err := becomeOnThisThread(first); err != nil {
					return fmt.Errorf("becoming user %d: %w", first, err)
				}
			default:
				return cmd.Start()
			}

			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
			// The kernel remembers this limit for a user namespace that is made by
			// anyone but root, and holds it against all of its tasks together. A control
			// group counts what it refuses, so that its limit is the lower one.
			var old unix.Rlimit
			if err := unix.Prlimit(0, unix.RLIMIT_NPROC, nil, &old); err != nil {
				return err
			}
			limit := unix.Rlimit{Cur: min(uint64(others+l.Processes+2*ownTasks), old.Max), Max: old.Max}
			if err := unix.Prlimit(0, unix.RLIMIT_NPROC, &limit, nil); err != nil {
				return err
			}
			err := cmd.Start()
			return errors.Join(err, unix.Prlimit(0, unix.RLIMIT_NPROC, &old, nil))
		}()
		c.process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is seen in its report and its pipes
			close(c.ended)
		}
	})
	return <-started
}

// onItsThread calls f on a thread that ends with it, with whatever credentials it has then.
// The first thread of the process would not end, and shows whose the process is.
func onItsThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	begun := make(chan struct{})
	go onItsThread(func() { close(begun); f() })
	<-begun
	runtime.UnlockOSThread()
}

// becomeOnThisThread makes the calling thread, and only it, another user, with
// all capabilities as before.
func becomeOnThisThread(id int) error {
	var caps [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	for _, nr := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, errno := unix.RawSyscall(nr, uintptr(id), uintptr(id), uintptr(id)); errno != 0 {
			return errno
		}
	}
	return unix.Capset(&header, &caps[0])
}

// mappers returns the commands that give a process, whose ID is to come first, this user and
// the further IDs that belong to it; nil when there are none.
func mappers() (argv [][]string) {
	me, err := user.Current()
	if err != nil {
		return nil
	}
	for program, of := range map[string][2]string{"newuidmap": {"/etc/subuid", me.Uid}, "newgidmap": {"/etc/subgid", me.Gid}} {
		text, _ := os.ReadFile(of[0])
		path, err := exec.LookPath(program)
		for line := range strings.Lines(string(text)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if err != nil || len(f) != 3 || f[0] != me.Username && f[0] != me.Uid {
				continue
			}
			if n, err := strconv.Atoi(f[2]); err == nil && n > 0 {
				argv = append(argv, []string{path, "0", of[1], "1", "1", f[1], strconv.Itoa(min(n, idRange-1))})
				break
			}
		}
	}
	if len(argv) != 2 {
		return nil
	}
	return argv
}

// tasksOf counts the processes and threads that a user has now.
func tasksOf(uid int) (n int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	for _, d := range dirs {
		var st unix.Stat_t
		if unix.Stat(d, &st) == nil && int(st.Uid) == uid {
			n++
		}
	}
	return n
}
