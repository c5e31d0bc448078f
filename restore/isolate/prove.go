package isolate

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// prove tries, inside the cell, what must not succeed. The error names the first thing that did.
// Each attempt is harmless if it succeeds: calls get arguments that do nothing.
func prove(o order, ours ...*os.File) (attempts []Attempt, err error) {
	try := func(what string, refused bool) {
		attempts = append(attempts, Attempt{what, refused})
		if !refused && err == nil {
			err = fmt.Errorf("it did not refuse: %s", what)
		}
	}
	none, pid := ^uintptr(0), unix.Getpid()
	call := func(nr, a, b, c uintptr) bool {
		_, _, errno := unix.Syscall(nr, a, b, c)
		if unix.Getpid() != pid {
			unix.Exit(1) // it was a fork, and succeeded
		}
		return errno == unix.EPERM || errno == unix.EACCES || errno == unix.ENOSYS
	}

	try("unclean credentials: capabilities, no_new_privs, filter of system calls", clean(o.Spec.Rung))
	try("a variable of the environment that was not given", slices.Equal(os.Environ(), environment))
	try("the machine's root directory", o.Spec.Rung == Static && unreadable("/") || o.Spec.Rung != Static && !visible(o.Host.Root))
	try("a signal to the parent process", unix.Kill(o.Host.PID, 0) != nil)
	for _, c := range forbidden {
		try("system call "+c.name, call(uintptr(c.nr), none, none, none))
	}
	try("a new user namespace by clone", call(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_THREAD, 0, 0))
	try("the kernel memory", opened("/dev/mem", "/dev/kmem", "/proc/kcore", "/dev/port"))
	try("a setting of the kernel", opened("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/proc/sys/vm/overcommit_memory"))
	try("writing in /sys", opened("/sys/kernel/uevent_helper", "/sys/power/state", "/sys/fs/cgroup/cgroup.procs"))
	if !o.Spec.Network {
		try("the network by the machine's loopback address", noAnswer("tcp", o.Host.TCP))
		try("the network outside by TCP", noAnswer("tcp", "192.0.2.1:443") && noAnswer("tcp", "[2001:db8::1]:443"))
		try("the network outside by UDP", noAnswer("udp", "192.0.2.1:53"))
		try("an abstract Unix socket of the machine", noAnswer("unix", o.Host.Abstract))
		interfaces, err := net.Interfaces()
		try("a network interface besides loopback", o.Spec.Rung == Static || err == nil && len(interfaces) == 1 && interfaces[0].Name == "lo")
	}
	for name, family := range map[string]uintptr{"packet": unix.AF_PACKET, "vsock": unix.AF_VSOCK, "alg": unix.AF_ALG} {
		try("a socket of the family "+name, call(unix.SYS_SOCKET, family, unix.SOCK_RAW, 0))
	}

	if o.Spec.Rung == Static {
		for _, c := range staticForbidden {
			try("system call "+c.name, call(uintptr(c.nr), none, none, none))
		}
		try("a new process", call(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0))
		try("a file outside the tree", unreadable("/etc/passwd") && unreadable("/proc/self/environ"))
		try("writing in the tree", opened(filepath.Join(o.Spec.Tree, ".knowngood-proof")))
		return attempts, err
	}

	others, listErr := processes()
	try("processes besides those of the cell", listErr == nil && others == 0)
	try("the program of the first process", unreadable("/proc/1/exe"))
	device := filepath.Join("/dev/shm", "proof")
	for _, kind := range []uint32{unix.S_IFBLK, unix.S_IFCHR} {
		made := unix.Mknod(device, kind|0o600, int(unix.Mkdev(7, 0)))
		try("making a device", made != nil)
		_ = os.Remove(device)
	}
	try("changing the machine's program or devices", unchangeable("/proc/self/exe", "/dev/null", "/dev/tty"))
	var extra []string
	listErr = eachDescriptor(ours, func(fd int, what string) error { extra = append(extra, what); return nil })
	try("an inherited descriptor", listErr == nil && len(extra) == 0)
	return attempts, err
}

// clean reports whether this is a confined process.
func clean(rung string) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if unix.Capget(&header, &caps[0]) != nil {
		return false
	}
	var set uint64
	for i, c := range caps {
		set |= uint64(c.Permitted|c.Effective|c.Inheritable) << (32 * i)
	}
	for c := 0; c < 64 && os.Geteuid() == 0; c++ { // of others no_new_privs makes it useless
		if have, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && have == 1 {
			set |= 1 << c
		}
	}
	privs, err1 := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	mode, err2 := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	dumpable, err3 := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	return errors.Join(err1, err2, err3) == nil && set&^kept(rung) == 0 && privs == 1 && mode == unix.SECCOMP_MODE_FILTER && dumpable == 0
}

// visible reports whether the directory with this identity is above or beside our root.
func visible(id string) bool {
	return slices.ContainsFunc([]string{"/", "/..", "/proc/1/root", "/proc/self/root", "/proc/1/cwd"}, func(p string) bool { return identify(p) == id })
}

// processes counts those that are neither of the two of the cell.
func processes() (n int, err error) {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != 1 && pid != os.Getpid() {
			n++
		}
	}
	return n, err
}

// opened reports whether none of the files can be opened for writing.
func opened(paths ...string) bool {
	for _, p := range paths {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err == nil {
			_ = f.Close()
			return false
		}
	}
	return true
}

// unchangeable reports whether the metadata of none of the files can be changed.
func unchangeable(paths ...string) bool {
	for _, p := range paths {
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && unix.Chmod(p, st.Mode&0o7777) == nil {
			return false
		}
	}
	return true
}

func unreadable(path string) bool {
	f, err := os.Open(path)
	if err == nil {
		_ = f.Close()
	}
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)
}

// noAnswer reports whether nobody can be reached at an address.
func noAnswer(network, address string) bool {
	conn, err := net.DialTimeout(network, address, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}
