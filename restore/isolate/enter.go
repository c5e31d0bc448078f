package isolate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const socketFD = 3 // of the parent, in both processes of a cell

// Enter is called in the process that Start has made. It builds the cell, proves it,
// reports that, and calls inside with the two pipes to the parent. It does not return, except
// with an error when this process was not made by Start. The working directory of inside is the
// tree: the root of the cell, or for Static the tree where it lies. When inside returns, everything
// in the cell ends; its error goes to standard error.
//
// For Namespaces the first process only starts the second one and waits for whatever
// dies; the second one calls inside.
func Enter(inside func(in io.Reader, out io.Writer) error) error {
	part := os.Getenv(stageVar)
	if kind, err := unix.GetsockoptInt(socketFD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET || part == "" {
		return errors.New("this command runs in drills only, which start it themselves")
	}
	unix.CloseOnExec(socketFD)
	// What the kernel kills for want of memory is to be here.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	reserveThreads()
	if part == "init" {
		os.Exit(first())
	}

	hide()
	in, out, err := pipes()
	if err == nil {
		err = enter(in, out)
	}
	if err == nil {
		err = inside(in, out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
	return nil
}

// hide keeps everybody from looking into this process, and from reaching its program.
// It does not fail; the proof has an attempt of it.
func hide() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

// reserveThreads makes the runtime start as many threads as this process will ever need:
// later a fork bomb may have left no room for one, and the runtime would give up.
func reserveThreads() {
	var all, done sync.WaitGroup
	all.Add(ownTasks / 4)
	for range ownTasks / 4 {
		done.Go(func() {
			runtime.LockOSThread()
			all.Done()
			all.Wait()
			runtime.UnlockOSThread()
		})
	}
	done.Wait()
}

// first is the first process of the cell: it starts the second, reaps what is
// orphaned, and ends with the second or with the parent. Then the kernel kills all.
func first() int {
	runtime.LockOSThread() // the death of this thread is what kills the second
	if _, err := unix.Read(socketFD, make([]byte, 2)); err != nil {
		return 1
	}
	hide()
	program, err := ownProgram()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := &exec.Cmd{
		Path: program, Args: os.Args, Dir: "/",
		Env:   append([]string{stageVar + "=inside"}, environment...),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		ExtraFiles:  []*os.File{os.NewFile(socketFD, "parent")},
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() { // no event is waited for: the end of the parent is always one
		fds := []unix.PollFd{{Fd: socketFD}}
		for {
			if n, err := unix.Poll(fds, -1); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				os.Exit(1)
			}
		}
	}()
	if null, err := os.OpenFile("/dev/null", os.O_RDWR, 0); err == nil {
		_ = unix.Dup3(int(null.Fd()), 0, 0) // the ends of the pipes belong to the second
		_ = unix.Dup3(int(null.Fd()), 1, 0)
	}
	if err := confine(Spec{Rung: Namespaces}, false); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if pid == cmd.Process.Pid || err != nil && !errors.Is(err, unix.EINTR) {
			return status.ExitStatus()
		}
	}
}

// ownProgram is a path by which the second process runs this program. A program of the
// tree that is a link to /proc/self/exe has the machine's own file then: by a mount
// that is read-only, so that nobody changes its mode either. Where users are mapped
// the file's owner mostly has no user in the cell: the proof has the last word.
func ownProgram() (string, error) {
	const self = "/proc/self/exe"
	path, err := os.Readlink(self)
	if err == nil && identify(path) != identify(self) {
		err = fmt.Errorf("%s is another program by now: start this command again", path)
	}
	fd := -1
	if err == nil {
		fd, err = clone(path, readOnly)
	}
	if err != nil && !trueRoot() {
		return self, nil
	}
	return "/proc/self/fd/" + strconv.Itoa(fd), err
}

// pipes moves the two pipes away from the standard descriptors.
func pipes() (in, out *os.File, err error) {
	var fds [2]int
	for n := range fds {
		if fds[n], err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			return nil, nil, err
		}
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = null.Close() }()
	err = errors.Join(unix.Dup3(int(null.Fd()), 0, 0), unix.Dup3(int(null.Fd()), 1, 0))
	return os.NewFile(uintptr(fds[0]), "in"), os.NewFile(uintptr(fds[1]), "out"), err
}

// enter builds and proves the cell and reports to the parent.
func enter(in, out *os.File) error {
	o, mounts, err := receive()
	if err != nil {
		return err
	}
	var r report
	if err = within(&o, mounts, in, out); err == nil {
		r.Built = true
		r.Attempts, err = prove(o, in, out)
	}
	if err != nil {
		r.Error = err.Error()
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := unix.Write(socketFD, text); err != nil {
		return err
	}
	_ = unix.Close(socketFD)
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}

// receive takes the order, and the mounts that come with it.
func receive() (o order, mounts map[string]int, err error) {
	text, rights := make([]byte, 64<<10), make([]byte, 1<<10)
	n, rn, _, _, err := unix.Recvmsg(socketFD, text, rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return o, nil, err
	}
	if err := json.Unmarshal(text[:n], &o); err != nil {
		return o, nil, err
	}
	mounts = map[string]int{}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return o, nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil || len(fds) != len(o.Mounts) {
			return o, nil, fmt.Errorf("%d mounts came instead of %d: %w", len(fds), len(o.Mounts), err)
		}
		for i, fd := range fds {
			mounts[o.Mounts[i]] = fd
		}
	}
	return o, mounts, nil
}

// within makes this process one that is inside.
func within(o *order, mounts map[string]int, ours ...*os.File) error {
	os.Clearenv()
	for _, e := range environment {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if o.Spec.Rung == Static {
		if err := os.Chdir(o.Spec.Tree); err != nil {
			return err
		}
	} else {
		if err := build(*o, mounts); err != nil {
			return err
		}
		if !o.Spec.Network {
			if err := loopbackUp(); err != nil {
				return err
			}
		}
		if err := unix.Sethostname([]byte("cell")); err != nil {
			return err
		}
	}
	if err := closeInherited(ours); err != nil {
		return err
	}
	return confine(o.Spec, o.Held)
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

// closeInherited closes every descriptor that is not one of ours, such as one that whoever started
// the parent forgot. The Go runtime has anonymous ones of its own.
func closeInherited(ours []*os.File) error {
	return eachDescriptor(ours, func(fd int, what string) error { return unix.Close(fd) })
}

// eachDescriptor calls f with the descriptors that should not be.
func eachDescriptor(ours []*os.File, f func(fd int, what string) error) error {
	own := func(fd int) bool {
		return slices.ContainsFunc(ours, func(f *os.File) bool { return int(f.Fd()) == fd })
	}
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range list {
		fd, err := strconv.Atoi(e.Name())
		what, gone := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || gone != nil || fd <= socketFD || own(fd) || strings.HasPrefix(what, "anon_inode:") {
			continue
		}
		if err := f(fd, what); err != nil {
			return err
		}
	}
	return nil
}
