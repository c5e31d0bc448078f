package generation

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Holders are processes that still use a generation that is not live; see HeldBy.
func (s *Set) Holders(name string) []string { return HeldBy(s.path(name)) }

// HeldBy are processes that use what is in a directory: by their working directory, root,
// program, open files or maps. Those of other users are seen only by root.
func HeldBy(top string) (held []string) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, p := range processes {
		if how := holds(p, top); how != "" {
			comm, _ := os.ReadFile(p + "/comm")
			held = append(held, fmt.Sprintf("process %s (%s: %s)", filepath.Base(p), strings.TrimSpace(string(comm)), how))
		}
	}
	return held
}

// holds is by what a process uses what is in a directory; empty where it does not.
func holds(process, top string) string {
	within := func(path string) bool { return path == top || strings.HasPrefix(path, top+"/") }
	for _, kind := range []string{"cwd", "root", "exe"} {
		if to, err := os.Readlink(process + "/" + kind); err == nil && within(to) {
			return kind
		}
	}
	open, _ := filepath.Glob(process + "/fd/*")
	for _, fd := range open {
		if to, err := os.Readlink(fd); err == nil && within(to) {
			return "an open file"
		}
	}
	f, err := os.Open(process + "/maps")
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if at := strings.IndexByte(lines.Text(), '/'); at >= 0 && within(lines.Text()[at:]) {
			return "a mapped file"
		}
	}
	return ""
}
