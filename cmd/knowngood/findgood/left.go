package findgood

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long what a probe left behind may take to end once it is killed.
const patience = 10 * time.Second

// endingLeft runs a program, and then ends all processes that it left behind, those in
// sessions of their own too: a server that goes on would answer for the next snapshot.
func endingLeft(run func() error) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("taking over what a probe leaves behind: %w", err)
	}
	before := children()
	err := run()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		left := slices.DeleteFunc(children(), func(pid int) bool { return slices.Contains(before, pid) })
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

// children are those of this process; none where the kernel does not list them.
func children() (pids []int) {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, l := range lists {
		text, _ := os.ReadFile(l)
		for _, f := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
