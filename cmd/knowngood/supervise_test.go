package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"knowngood/internal/treetest"
)

// call is a system call on a watched tree that a supervised program has begun
// and the kernel has not done yet.
type call struct {
	name string // such as openat
	path string // of the node, as far as the call names one
}

// watched are the calls that a capture looks at a tree with.
func watched() map[int32]string {
	return map[int32]string{
		unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2", unix.SYS_STATX: "statx", unix.SYS_NEWFSTATAT: "newfstatat",
		unix.SYS_GETDENTS64: "getdents64", unix.SYS_READLINKAT: "readlinkat", unix.SYS_PREAD64: "pread64",
		unix.SYS_LISTXATTR: "listxattr", unix.SYS_FLISTXATTR: "flistxattr", unix.SYS_GETXATTR: "getxattr", unix.SYS_FGETXATTR: "fgetxattr",
	}
}

// notification and reply are struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type reply struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

// supervise runs the program and calls at before each of its system calls on
// the tree, one after the other, whatever thread makes them. So what at does
// to the tree happens at that very stage of the run. A call that at answers
// with false waits, and at is asked again after the next one.
func (m *machine) supervise(t treetest.T, tree string, at func(c call) bool, args ...string) *outcome {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer ours.Close()
	o := &outcome{args: args}
	cmd := exec.Command("under-supervision", append([]string{"knowngood"}, args...)...)
	cmd.Env = m.command(args...).Env
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &o.stdout, &o.stderr, []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatalf("%v", err)
	}
	hung := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	listener, err := receiveDescriptor(ours)
	if err == nil {
		s := &supervisor{listener: listener, tree: tree, at: at, names: watched()}
		err = s.serve()
		unix.Close(listener)
	}
	_ = cmd.Wait() // its code is looked at
	o.code = cmd.ProcessState.ExitCode()
	if err != nil {
		t.Fatalf("supervise knowngood %s: %v\n%s%s", strings.Join(args, " "), err, &o.stdout, &o.stderr)
	}
	return o
}

type supervisor struct {
	listener int
	tree     string
	at       func(call) bool
	names    map[int32]string
	waiting  []pending
}

type pending struct {
	id uint64
	call
}

// serve answers until the program has ended.
func (s *supervisor) serve() error {
	for {
		fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return fmt.Errorf("poll: %w", err)
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return nil
		}
		var n notification
		if err := ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err == unix.EINTR || err == unix.ENOENT {
			continue // it was killed meanwhile
		} else if err != nil {
			return fmt.Errorf("receive a system call: %w", err)
		}
		if err := s.answer(&n); err != nil {
			return err
		}
	}
}

func (s *supervisor) answer(n *notification) error {
	path := s.path(n)
	if path != s.tree && !strings.HasPrefix(path, s.tree+"/") {
		return s.proceed(n.id)
	}
	s.waiting = append(s.waiting, pending{n.id, call{s.names[n.nr], path}})
	// The newest first: those before have been asked and wait.
	for i := len(s.waiting) - 1; i >= 0; i-- {
		if !s.at(s.waiting[i].call) {
			continue
		}
		if err := s.proceed(s.waiting[i].id); err != nil {
			return err
		}
		s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
	}
	return nil
}

// proceed lets the kernel do a call.
func (s *supervisor) proceed(id uint64) error {
	r := reply{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if err := ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil && err != unix.ENOENT {
		return fmt.Errorf("let a system call go on: %w", err)
	}
	return nil
}

// path of the node that a call is about; "" when the program is gone.
func (s *supervisor) path(n *notification) string {
	switch n.nr {
	case unix.SYS_LISTXATTR, unix.SYS_GETXATTR:
		// /proc/self/fd/N, of a node that is open only as a reference to it.
		fd, ok := strings.CutPrefix(text(n.pid, n.args[0]), "/proc/self/fd/")
		number, err := strconv.Atoi(fd)
		if !ok || err != nil {
			return ""
		}
		return descriptor(n.pid, number)
	case unix.SYS_GETDENTS64, unix.SYS_PREAD64, unix.SYS_FLISTXATTR, unix.SYS_FGETXATTR:
		return descriptor(n.pid, int(int32(n.args[0])))
	}
	name := text(n.pid, n.args[1])
	switch {
	case strings.HasPrefix(name, "/"):
		return name
	case name == "" || name == ".":
		return descriptor(n.pid, int(int32(n.args[0])))
	}
	return descriptor(n.pid, int(int32(n.args[0]))) + "/" + name
}

func descriptor(pid uint32, fd int) string {
	if fd < 0 {
		return ""
	}
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)) // it may have ended
	return path
}

// text is what a pointer of another process leads to, up to its NUL.
func text(pid uint32, at uint64) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	var out []byte
	for buf := make([]byte, 256); len(out) < unix.PathMax; {
		// Up to the end of 256 bytes, so that no page beyond is touched.
		piece := buf[:256-(at+uint64(len(out)))%256]
		n, err := f.ReadAt(piece, int64(at)+int64(len(out)))
		if end := bytes.IndexByte(piece[:n], 0); end >= 0 {
			return string(append(out, piece[:end]...))
		}
		if err != nil || n == 0 {
			return ""
		}
		out = append(out, piece[:n]...)
	}
	return string(out)
}

// underSupervision runs a program whose system calls on trees wait for who is
// at the other end of the socket at descriptor 3: under-supervision PROGRAM
// ARGUMENT...
func underSupervision() {
	runtime.LockOSThread() // a filter belongs to a thread; exec takes that of the caller
	listener, err := filterCalls()
	if err == nil {
		err = unix.Sendmsg(3, []byte{0}, unix.UnixRights(listener), nil, 0)
	}
	if err != nil {
		fatal("supervise: %v", err)
	}
	unix.Close(listener)
	unix.Close(3)
	replace(os.Args[1:])
}

// filterCalls makes the watched calls of this thread, and of what it starts,
// wait for an answer at the descriptor that is returned.
func filterCalls() (listener int, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("no new privileges: %w", err)
	}
	calls := watched()
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // the number of the call
	left := len(calls)
	for nr := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(left), K: uint32(nr)})
		left--
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return -1, fmt.Errorf("seccomp: %w", errno)
	}
	return int(fd), nil
}

// needSupervision skips a test where the kernel has no such filters.
func needSupervision(t *testing.T) {
	t.Helper()
	action := uint32(unix.SECCOMP_RET_USER_NOTIF)
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))); errno != 0 {
		t.Skipf("the kernel lets no process wait for another's system calls: %v", errno)
	}
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs"), nil
}

func receiveDescriptor(socket *os.File) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive the filter's descriptor: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return -1, err
	}
	if len(messages) == 0 {
		return -1, errors.New("the program did not start")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}
