package userdir

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Owner is the user with whose file rights a directory is worked in. The zero
// Owner is the user of this process.
type Owner struct {
	uid, gid int
	other    bool // than the user of this process
}

// OwnerOf is the owner of a directory, when this process is root's and the
// directory is another user's. Else it is the zero Owner: who is not root has no
// rights to give up.
func OwnerOf(dir fs.FileInfo) Owner {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{}
	}
	return ownerOf(st.Uid, st.Gid)
}

func ownerOf(uid, gid uint32) Owner {
	if uid == 0 || os.Geteuid() != 0 {
		return Owner{}
	}
	return Owner{int(uid), int(gid), true}
}

// Do calls do with the file rights of the owner: what do makes is the owner's,
// and what the owner may not open, change or remove, do may not either. Only
// opening and naming files takes rights; what do has opened can be read and
// written afterwards. It must call no other goroutine to do its work.
func (o Owner) Do(do func() error) error {
	if !o.other {
		return do()
	}

	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked, so it ends with this goroutine: nothing
		// else runs with what is left of its rights.
		runtime.LockOSThread()
		if err := o.become(); err != nil {
			done <- fmt.Errorf("act as user %d, who owns the directory: %w (run knowngood as that user instead)", o.uid, err)
			return
		}
		done <- do()
	}()
	return <-done
}

// become gives this thread the file rights of the owner, and no capability. Its
// real user stays root, so that the owner cannot send it signals.
func (o Owner) become() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}

	// Both calls report failure only by what is set afterwards.
	_, _ = unix.SetfsgidRetGid(o.gid)
	if now, _ := unix.SetfsgidRetGid(-1); now != o.gid {
		return os.NewSyscallError("setfsgid", unix.EPERM)
	}
	_, _ = unix.SetfsuidRetUid(o.uid)
	if now, _ := unix.SetfsuidRetUid(-1); now != o.uid {
		return os.NewSyscallError("setfsuid", unix.EPERM)
	}

	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return os.NewSyscallError("capset", unix.Capset(&head, &none[0]))
}
