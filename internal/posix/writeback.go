package posix

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// KernelSettings is where the kernel has its settings of memory.
const KernelSettings = "/proc/sys/vm"

// maxWriteback bounds the write-back window, where the kernel is set to keep
// what was written for longer.
const maxWriteback = 5 * time.Minute

// WritebackWindow is how long the kernel may leave a page that was written
// through a mapping as it is, and so miss further writes to it: until it is
// old enough, found, and written. The settings lie in settings, which is
// KernelSettings except in tests.
func WritebackWindow(settings string) time.Duration {
	setting := func(name string, or time.Duration) time.Duration {
		b, err := os.ReadFile(settings + "/" + name)
		if err != nil {
			return or
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 31)
		if err != nil {
			return or
		}
		return time.Duration(n) * 10 * time.Millisecond
	}
	expire := setting("dirty_expire_centisecs", 30*time.Second)
	wake := setting("dirty_writeback_centisecs", 5*time.Second)
	if wake == 0 { // nothing is written for its age
		return maxWriteback
	}
	return min(expire+2*wake, maxWriteback)
}
