package generation

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"knowngood/internal/posix"
)

// Holders are processes that still use a generation that is not live; see HeldBy.
func (s *Set) Holders(name string) []string { return HeldBy(s.path(name)) }

// HeldBy are processes that use what is in a directory: by their working directory, root,
// program, open files or maps, or because it is mounted for them at another place, as in a
// container. Those of other users are seen only by root.
func HeldBy(top string) (held []string) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	place := placeOf(top)
	asked := map[string]bool{} // namespaces of mounts
	for _, p := range processes {
		how := holds(p, top)
		if namespace, err := os.Readlink(p + "/ns/mnt"); err == nil && how == "" && place != nil && !asked[namespace] {
			asked[namespace] = true
			how = mounts(p, place)
		}
		if how != "" {
			comm, _ := os.ReadFile(p + "/comm")
			held = append(held, fmt.Sprintf("process %s (%s: %s)", filepath.Base(p), strings.TrimSpace(string(comm)), how))
		}
	}
	return held
}

// placeOf is where a directory lies in its file system; nil where that is not known, or one is
// mounted there.
func placeOf(top string) *posix.Mount {
	all, err := posix.Mounts("/")
	if err != nil {
		return nil
	}
	var at posix.Mount // the longest, and of these the last, which lies over the others
	for _, m := range all {
		if len(m.Path) >= len(at.Path) && (top == m.Path || strings.HasPrefix(top, strings.TrimSuffix(m.Path, "/")+"/")) {
			at = m
		}
	}
	if at.Path == "" || at.Path == top {
		return nil
	}
	at.Root = filepath.Join(at.Root, strings.TrimPrefix(top, at.Path))
	return &at
}

// mounts is where a process has what lies at a place mounted; empty where it has not.
func mounts(process string, place *posix.Mount) string {
	all, err := posix.MountsOf(process, "/")
	if err != nil {
		return ""
	}
	for _, m := range all {
		if m.Device == place.Device && (m.Root == place.Root || strings.HasPrefix(m.Root, place.Root+"/")) {
			return "mounted at " + m.Path
		}
	}
	return ""
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
