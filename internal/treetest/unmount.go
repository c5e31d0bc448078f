package treetest

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Unmount unmounts a file system in the mount namespace of the calling thread. It waits for
// processes that are just started: each holds the files of this one until it runs its program.
func Unmount(at string) (err error) {
	for range 100 {
		if err = unix.Unmount(at, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
