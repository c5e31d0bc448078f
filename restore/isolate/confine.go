package isolate

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// kept are the capabilities of root in a cell, by rung: what services need to become
// their users, and for Static what it takes to read every file of the tree.
func kept(rung string) (set uint64) {
	list := []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT}
	if rung == Static {
		list = []int{unix.CAP_DAC_READ_SEARCH}
	}
	for _, c := range list {
		set |= 1 << c
	}
	return set
}

// everyThread makes a system call on every thread of the process: the kernel keeps
// credentials by thread.
func everyThread(nr, a, b, c uintptr) error {
	if _, _, errno := psx.Syscall6(nr, a, b, c, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// confine takes from this process, for good, what it does not need. held is whether
// control groups hold the limits on memory and processors.
func confine(s Spec, held bool) error {
	if err := limit(s, held); err != nil {
		return fmt.Errorf("setting limits: %w", err)
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	keep := kept(s.Rung)
	for c := uintptr(0); c < 64; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		err := everyThread(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			break // there are no further ones, or this process has none; the proof has the last word
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}

	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	for i := range caps {
		caps[i].Permitted &= uint32(keep >> (32 * i))
		caps[i].Effective, caps[i].Inheritable = caps[i].Permitted, 0
	}
	err := everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&caps)), 0)
	runtime.KeepAlive(&caps)
	if errors.Is(err, unix.EPERM) && s.Rung == Static {
		err = nil // the filter of a unit; the proof shows whether it was needed
	}
	if err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	if err := guard(s); err != nil {
		return err
	}
	return install(s.Rung)
}

// limit sets the resource limits of this process and its children.
func limit(s Spec, held bool) error {
	l := s.Limits
	if now, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && 20-now < l.Nice { // the call returns 20 less the niceness
		if err := everyThread(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(l.Nice)); err != nil {
			return err
		}
	}
	set := func(what int, value uint64) error {
		var old unix.Rlimit
		if err := unix.Getrlimit(what, &old); err != nil {
			return err
		}
		value = min(value, old.Max)
		return unix.Setrlimit(what, &unix.Rlimit{Cur: value, Max: value})
	}
	err := errors.Join(set(unix.RLIMIT_CORE, 0), set(unix.RLIMIT_NOFILE, 4096), set(unix.RLIMIT_MSGQUEUE, 0))
	if l.Disk > 0 {
		err = errors.Join(err, set(unix.RLIMIT_FSIZE, uint64(l.Disk)))
	}
	if l.Memory > 0 && !held {
		err = errors.Join(err, set(unix.RLIMIT_DATA, uint64(l.Memory)))
	}
	if l.CPUs > 0 && !held && s.Rung == Static {
		runtime.GOMAXPROCS(int(math.Ceil(l.CPUs)))
	} else if l.CPUs > 0 && !held {
		err = errors.Join(err, someProcessors(l.CPUs))
	}
	return err
}

// someProcessors binds this process to as many of its processors. The filter of system
// calls keeps it there.
func someProcessors(n float64) error {
	var have, want unix.CPUSet
	if err := unix.SchedGetaffinity(0, &have); err != nil {
		return err
	}
	var list []int
	for c := range len(have) * 64 {
		if have.IsSet(c) {
			list = append(list, c)
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for i, c := range list {
		if float64(i) < n {
			want.Set(c)
		}
	}
	err := everyThread(unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(want), uintptr(unsafe.Pointer(&want)))
	runtime.KeepAlive(&want)
	return err
}

const (
	makeDevice = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	reading    = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
)

// accesses of files that a version of Landlock knows.
func accesses(abi int) (set uint64) {
	set = unix.LANDLOCK_ACCESS_FS_REFER - 1
	if abi >= 2 {
		set |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		set |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return set
}

// openRuled opens a path that a rule of Landlock is for. The root of the first process of a
// cell becomes that of the second one, at any moment: what is gone by then is -1, and
// the first may do less.
func openRuled(path, rung string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) && rung == Namespaces {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("opening %s for a rule of Landlock: %w", path, err)
	}
	return fd, nil
}

// guard adds the rules of Landlock, which hold besides all else. For Static they are what
// keeps the process in the tree. In namespaces they forbid writing outside the directories of the
// root, such as in /proc, and devices; reading and executing is not their concern, so
// that every loader works.
func guard(s Spec) error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	abi := int(version)
	if errno != 0 || abi < 2 && s.Rung == Namespaces { // version 1 forbids to rename across directories
		if s.Rung == Namespaces {
			return nil
		}
		return fmt.Errorf("the kernel has no Landlock, which is there since Linux 5.13: %w", errno)
	}

	all := accesses(abi)
	allowed := map[string]uint64{}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: all}
	if s.Rung == Static {
		allowed[s.Tree] = reading &^ unix.LANDLOCK_ACCESS_FS_EXECUTE
		allowed["/proc/self/task"] = unix.LANDLOCK_ACCESS_FS_READ_DIR // a build with cgo finds its threads there
		if s.Scratch != "" {
			allowed[s.Scratch] = all &^ (makeDevice | unix.LANDLOCK_ACCESS_FS_EXECUTE)
		}
	} else {
		attr.Handled_access_fs &^= reading
		entries, err := os.ReadDir("/")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.IsDir() && e.Name() != "proc" {
				allowed[filepath.Join("/", e.Name())] = attr.Handled_access_fs &^ makeDevice
			}
		}
		if abi >= 2 {
			allowed["/"] = unix.LANDLOCK_ACCESS_FS_REFER
		}
	}
	size := uintptr(8)
	if abi >= 4 && s.Rung == Static {
		attr.Handled_access_net, size = unix.LANDLOCK_ACCESS_NET_BIND_TCP|unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, 16
	}
	if abi >= 6 {
		attr.Scoped, size = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET|unix.LANDLOCK_SCOPE_SIGNAL, 24
	}

	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("making the rules of Landlock: %w", errno)
	}
	defer func() { _ = unix.Close(int(ruleset)) }()
	for path, access := range allowed {
		fd, err := openRuled(path, s.Rung)
		if err != nil {
			return err
		}
		if fd < 0 {
			continue
		}
		rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
		_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
		_ = unix.Close(fd)
		if errno != 0 {
			return fmt.Errorf("a rule of Landlock for %s: %w", path, errno)
		}
	}
	if err := everyThread(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); err != nil {
		return fmt.Errorf("enforcing Landlock: %w", err)
	}
	return nil
}
