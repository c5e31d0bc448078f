package isolate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"knowngood/restore/isolate"
)

// request is what the tests ask of the inside function: one of these.
type request struct {
	Argv []string // a program to run, with UID
	UID  uint32
	Read string // a file
	// Flood writes without end to the pipe and to standard error.
	Flood bool
}

type answer struct {
	Output string
	Error  string
}

const nobody = 65534

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "cell":
			fmt.Fprintln(os.Stderr, isolate.Enter(inside))
			os.Exit(2)
		case "attack":
			os.Exit(attack(os.Args[2], os.Args[3:]))
		case "parent":
			parent(os.Args[2], os.Args[3], os.Args[4])
			os.Exit(1)
		case "hardened":
			os.Exit(hardened(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(m.Run())
}

func inside(in io.Reader, out io.Writer) error {
	for d, e := json.NewDecoder(in), json.NewEncoder(out); ; {
		var r request
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var text []byte
		var err error
		switch {
		case r.Flood:
			for {
				line := []byte(strings.Repeat("x", 4096))
				_, _ = os.Stderr.Write(line)
				if _, err := out.Write(line); err != nil {
					return err
				}
			}
		case r.Read != "":
			text, err = os.ReadFile(r.Read)
		default:
			cmd := exec.Command(r.Argv[0], r.Argv[1:]...)
			if r.UID != 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: r.UID, Gid: r.UID}}
			}
			cmd.WaitDelay = 5 * time.Second
			text, err = cmd.CombinedOutput()
		}
		a := answer{Output: string(text[:min(len(text), 32<<10)])}
		if err != nil {
			a.Error = err.Error()
		}
		if err := e.Encode(a); err != nil {
			return err
		}
	}
}

// attack is a program of a hostile tree. It prints what it achieved.
func attack(kind string, args []string) int {
	switch kind {
	case "fork": // one that doubles, and one that stays
		for n := 0; ; n++ {
			script := "b() { b | b & }; b; b; b"
			if n > 10 {
				script = "sleep 100; : " + args[0]
			}
			cmd := exec.Command("/bin/sh", "-c", script)
			if cmd.Start() != nil {
				time.Sleep(time.Millisecond)
			}
		}
	case "memory":
		var all [][]byte
		for range 64 {
			b := make([]byte, 32<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
		}
		fmt.Println("has", len(all)*32, "MiB")
	case "disk":
		total := 0
		for _, dir := range args {
			for n := range 64 {
				f, err := os.Create(dir + "/fill" + strconv.Itoa(n))
				if err != nil {
					break
				}
				for range 16 {
					w, err := f.Write(make([]byte, 1<<20))
					total += w
					if err != nil {
						break
					}
				}
				_ = f.Close()
			}
		}
		fmt.Print(total)
	case "reach":
		for _, a := range args {
			network, address, _ := strings.Cut(a, ",")
			if conn, err := net.DialTimeout(network, address, time.Second); err == nil {
				fmt.Println("reached", a, conn.RemoteAddr())
			}
		}
	case "signal":
		for _, a := range args {
			pid, _ := strconv.Atoi(a)
			if err := syscall.Kill(pid, 0); err == nil {
				fmt.Println("can signal", pid)
			}
		}
	case "write":
		for _, a := range args {
			if f, err := os.OpenFile(a, os.O_WRONLY, 0); err == nil {
				fmt.Println("opened", a)
				_ = f.Close()
			}
		}
	case "change": // nothing: but it takes the right to change the file's metadata
		for _, a := range args {
			fi, err := os.Stat(a)
			if err == nil {
				err = os.Chmod(a, fi.Mode().Perm())
			}
			if err == nil {
				fmt.Println("can change", a)
			}
		}
	case "look":
		for _, a := range args {
			if text, err := os.ReadFile(a); err == nil && len(text) > 0 {
				fmt.Println("read", a, len(text))
			}
		}
	case "parent": // the process that asks: it holds the pipes
		for _, file := range []string{"environ", "mem", "exe", "fd/3", "maps", "root"} {
			if f, err := os.Open(fmt.Sprintf("/proc/%d/%s", os.Getppid(), file)); err == nil {
				fmt.Println("opened", f.Name())
				_ = f.Close()
			}
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, uintptr(os.Getppid()), 0); errno == 0 {
			fmt.Println("traces its parent")
		}
	case "device":
		for _, mode := range []uint32{syscall.S_IFBLK, syscall.S_IFCHR} {
			if err := syscall.Mknod("/tmp/device", mode|0o666, 0x700); err == nil {
				fmt.Println("made a device")
			}
		}
	case "users":
		fmt.Print(os.Getuid(), os.Geteuid())
	}
	return 0
}

// parent starts a cell in which something runs, and waits to be killed.
func parent(mark, tree, scratch string) {
	spec := isolate.Spec{Rung: isolate.Namespaces, Base: "host", Tree: tree, Scratch: scratch, Limits: isolate.Limits{Disk: 16 << 20}}
	fmt.Println("starting")
	c, err := isolate.Start(context.Background(), []string{"test", "cell", mark}, spec)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("started")
	_ = json.NewEncoder(c.In()).Encode(request{Argv: []string{"/bin/sh", "-c", "setsid sleep 300 & exec sleep 301 " + mark}})
	select {}
}

// hardened starts a static cell below a filter like that of the daemon's unit: no
// namespaces, no mounts, no capabilities, no resources.
func hardened(tree, scratch string) int {
	refuse := bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}
	for _, nr := range []uint32{unix.SYS_MOUNT, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_CAPSET, unix.SYS_SETRLIMIT, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SETUID, unix.SYS_SETRESUID, unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT} {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: 1}, refuse)
	}
	p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE, SkipTrue: 3}, bpf.LoadAbsolute{Off: 16, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET, SkipTrue: 1}, refuse,
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW})
	raw, err := bpf.Assemble(p)
	if err != nil {
		panic(err)
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		panic(errno)
	}

	spec := isolate.Spec{Rung: isolate.Namespaces, Base: "host", Tree: tree, Scratch: scratch, Limits: isolate.Limits{CPUs: 1, Memory: 1 << 30}}
	var none *isolate.Unreachable
	if _, err := isolate.Start(context.Background(), []string{"test", "cell"}, spec); !errors.As(err, &none) {
		fmt.Println("namespaces:", err)
		return 1
	}
	spec.Rung = isolate.Static
	c, err := isolate.Start(context.Background(), []string{"test", "cell"}, spec)
	if err != nil {
		fmt.Println("static:", err)
		return 1
	}
	fmt.Println(none, len(c.Proof().Attempts))
	if err := c.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// asNobody runs tests of this program again as a user without rights.
func asNobody(t *testing.T, pattern string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this is no root: the tests themselves run as a user")
	}
	dir, err := os.MkdirTemp("", "nobody") // t.TempDir lies in a directory only of root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run="+pattern, "-test.v", "-test.timeout=2m")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatal(err)
	}
}
