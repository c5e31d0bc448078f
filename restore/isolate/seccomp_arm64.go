package isolate

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

var forbiddenHere = []call{{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD}}

var staticForbiddenHere []call
