package isolate

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

var forbiddenHere = []call{
	{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD},
	{"ioperm", unix.SYS_IOPERM}, {"iopl", unix.SYS_IOPL}, {"uselib", unix.SYS_USELIB}, {"ustat", unix.SYS_USTAT}, {"sysfs", unix.SYS_SYSFS},
	{"create_module", unix.SYS_CREATE_MODULE}, {"modify_ldt", unix.SYS_MODIFY_LDT},
}

var staticForbiddenHere = []call{
	{"fork", unix.SYS_FORK}, {"vfork", unix.SYS_VFORK}, {"chmod", unix.SYS_CHMOD}, {"chown", unix.SYS_CHOWN}, {"lchown", unix.SYS_LCHOWN},
	{"utime", unix.SYS_UTIME}, {"utimes", unix.SYS_UTIMES}, {"futimesat", unix.SYS_FUTIMESAT},
}
