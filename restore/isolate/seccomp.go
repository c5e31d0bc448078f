package isolate

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

type call struct {
	name string
	nr   uint32
}

// forbidden are the system calls that nothing in a cell may make: those that
// container runtimes forbid, those that look into other processes, and io_uring, whose
// operations no filter sees.
var forbidden = append([]call{
	{"mount", unix.SYS_MOUNT}, {"umount", unix.SYS_UMOUNT2}, {"pivot_root", unix.SYS_PIVOT_ROOT}, {"open_tree", unix.SYS_OPEN_TREE}, {"move_mount", unix.SYS_MOVE_MOUNT},
	{"fsopen", unix.SYS_FSOPEN}, {"fsconfig", unix.SYS_FSCONFIG}, {"fsmount", unix.SYS_FSMOUNT}, {"fspick", unix.SYS_FSPICK}, {"mount_setattr", unix.SYS_MOUNT_SETATTR},
	{"setns", unix.SYS_SETNS}, {"unshare", unix.SYS_UNSHARE}, {"ptrace", unix.SYS_PTRACE}, {"process_vm_readv", unix.SYS_PROCESS_VM_READV}, {"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV},
	{"process_madvise", unix.SYS_PROCESS_MADVISE}, {"kcmp", unix.SYS_KCMP}, {"pidfd_getfd", unix.SYS_PIDFD_GETFD}, {"keyctl", unix.SYS_KEYCTL}, {"add_key", unix.SYS_ADD_KEY}, {"request_key", unix.SYS_REQUEST_KEY},
	{"bpf", unix.SYS_BPF}, {"perf_event_open", unix.SYS_PERF_EVENT_OPEN}, {"userfaultfd", unix.SYS_USERFAULTFD}, {"fanotify_init", unix.SYS_FANOTIFY_INIT},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP}, {"io_uring_enter", unix.SYS_IO_URING_ENTER}, {"io_uring_register", unix.SYS_IO_URING_REGISTER},
	{"kexec_load", unix.SYS_KEXEC_LOAD}, {"init_module", unix.SYS_INIT_MODULE}, {"finit_module", unix.SYS_FINIT_MODULE}, {"delete_module", unix.SYS_DELETE_MODULE},
	{"reboot", unix.SYS_REBOOT}, {"settimeofday", unix.SYS_SETTIMEOFDAY}, {"clock_settime", unix.SYS_CLOCK_SETTIME}, {"clock_adjtime", unix.SYS_CLOCK_ADJTIME}, {"adjtimex", unix.SYS_ADJTIMEX},
	{"sethostname", unix.SYS_SETHOSTNAME}, {"setdomainname", unix.SYS_SETDOMAINNAME}, {"swapon", unix.SYS_SWAPON}, {"swapoff", unix.SYS_SWAPOFF}, {"acct", unix.SYS_ACCT}, {"quotactl", unix.SYS_QUOTACTL}, {"quotactl_fd", unix.SYS_QUOTACTL_FD},
	{"syslog", unix.SYS_SYSLOG}, {"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT}, {"lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE}, {"nfsservctl", unix.SYS_NFSSERVCTL}, {"vhangup", unix.SYS_VHANGUP},
	{"migrate_pages", unix.SYS_MIGRATE_PAGES}, {"move_pages", unix.SYS_MOVE_PAGES}, {"sched_setaffinity", unix.SYS_SCHED_SETAFFINITY},
}, forbiddenHere...)

// staticForbidden are further ones for Static, where no program runs: what
// makes processes, reaches others or changes what Landlock does not guard.
var staticForbidden = append([]call{
	{"execve", unix.SYS_EXECVE}, {"execveat", unix.SYS_EXECVEAT}, {"socket", unix.SYS_SOCKET}, {"socketpair", unix.SYS_SOCKETPAIR}, {"connect", unix.SYS_CONNECT}, {"bind", unix.SYS_BIND},
	{"pidfd_open", unix.SYS_PIDFD_OPEN}, {"pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL}, {"tkill", unix.SYS_TKILL}, {"rt_sigqueueinfo", unix.SYS_RT_SIGQUEUEINFO}, {"rt_tgsigqueueinfo", unix.SYS_RT_TGSIGQUEUEINFO},
	{"setpriority", unix.SYS_SETPRIORITY}, {"ioprio_set", unix.SYS_IOPRIO_SET}, {"sched_setparam", unix.SYS_SCHED_SETPARAM}, {"sched_setscheduler", unix.SYS_SCHED_SETSCHEDULER}, {"sched_setattr", unix.SYS_SCHED_SETATTR},
	{"shmget", unix.SYS_SHMGET}, {"msgget", unix.SYS_MSGGET}, {"semget", unix.SYS_SEMGET}, {"shmat", unix.SYS_SHMAT}, {"shmctl", unix.SYS_SHMCTL}, {"msgctl", unix.SYS_MSGCTL}, {"semctl", unix.SYS_SEMCTL}, {"mq_open", unix.SYS_MQ_OPEN}, {"mq_unlink", unix.SYS_MQ_UNLINK},
	{"fchmod", unix.SYS_FCHMOD}, {"fchmodat", unix.SYS_FCHMODAT}, {"fchmodat2", unix.SYS_FCHMODAT2}, {"fchown", unix.SYS_FCHOWN}, {"fchownat", unix.SYS_FCHOWNAT}, {"utimensat", unix.SYS_UTIMENSAT},
	{"setxattr", unix.SYS_SETXATTR}, {"lsetxattr", unix.SYS_LSETXATTR}, {"fsetxattr", unix.SYS_FSETXATTR}, {"removexattr", unix.SYS_REMOVEXATTR}, {"lremovexattr", unix.SYS_LREMOVEXATTR}, {"fremovexattr", unix.SYS_FREMOVEXATTR},
	{"truncate", unix.SYS_TRUNCATE}, {"chroot", unix.SYS_CHROOT},
}, staticForbiddenHere...)

const (
	clone3Call = 435 // of every architecture
	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
)

// filter returns the program of the kernel's filter for one rung, pid being the process in which
// it is installed. Calls of another architecture do not exist in a cell.
func filter(rung string, pid uint32) ([]bpf.Instruction, error) {
	if auditArch == 0 {
		return nil, fmt.Errorf("this program has no filter of system calls for %s", runtime.GOARCH)
	}
	refuse := bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	unknown := bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	number := bpf.LoadAbsolute{Off: 0, Size: 4}

	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1}, unknown,
		number,
		// x32 on amd64; elsewhere there are no such numbers.
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 0x4000_0000, SkipTrue: 1}, unknown,
		// Its flags lie in memory, where no filter sees them; libraries fall back to clone.
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clone3Call, SkipTrue: 1}, unknown,
	}
	calls := forbidden
	if rung == Static {
		calls = append(calls[:len(calls):len(calls)], staticForbidden...)
	}
	for _, c := range calls {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: c.nr, SkipTrue: 1}, refuse)
	}

	// only refuses a call unless a test of an argument skips over the refusal.
	only := func(nr uint32, arg uint32, tests ...bpf.JumpIf) {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: uint8(len(tests) + 3)}, bpf.LoadAbsolute{Off: 16 + 8*arg, Size: 4})
		for i, t := range tests {
			t.SkipTrue = uint8(len(tests) - i)
			p = append(p, t)
		}
		p = append(p, refuse, number)
	}
	equal := func(v uint32) bpf.JumpIf { return bpf.JumpIf{Cond: bpf.JumpEqual, Val: v} }
	only(unix.SYS_CLONE, 0, bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: namespaces})
	only(unix.SYS_IOCTL, 1, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.TIOCSTI})
	only(unix.SYS_IOCTL, 1, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.TIOCLINUX})
	if rung == Static {
		only(unix.SYS_CLONE, 0, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.CLONE_THREAD})
		only(unix.SYS_KILL, 0, equal(pid))
		only(unix.SYS_TGKILL, 0, equal(pid))
		only(unix.SYS_PRLIMIT64, 0, equal(0), equal(pid))
	} else {
		only(unix.SYS_SOCKET, 0, equal(unix.AF_UNIX), equal(unix.AF_INET), equal(unix.AF_INET6), equal(unix.AF_NETLINK))
	}
	return append(p, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}), nil
}

// install puts the filter over all threads of this process, together with
// no_new_privs, which the calling thread has.
func install(rung string) error {
	p, err := filter(rung, uint32(unix.Getpid()))
	if err != nil {
		return err
	}
	raw, err := bpf.Assemble(p)
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	stuck, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(raw)
	if errno != 0 {
		return fmt.Errorf("filtering system calls: %w", errno)
	}
	if stuck != 0 {
		return fmt.Errorf("filtering system calls: thread %d has other filters", stuck)
	}
	return nil
}
