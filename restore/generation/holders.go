package generation

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
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
	for _, kind := range []string{"cwd", "root", "exe"} {
		if leadsInto(process+"/"+kind, top) {
			return kind
		}
	}
	open, _ := filepath.Glob(process + "/fd/*")
	for _, fd := range open {
		if leadsInto(fd, top) {
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
		addresses, rest, _ := strings.Cut(lines.Text(), " ")
		if at := strings.IndexByte(rest, '/'); at >= 0 && manifest.Within(rest[at:], top) && leadsInto(process+"/map_files/"+unpadded(addresses), top) {
			return "a mapped file"
		}
	}
	return ""
}

// unpadded is the name of a mapping in map_files.
func unpadded(addresses string) string {
	from, to, _ := strings.Cut(addresses, "-")
	return strings.TrimLeft(from, "0") + "-" + strings.TrimLeft(to, "0")
}

// leadsInto reports whether a link of /proc leads to what is in a directory. Its text shows
// nothing: in a mount namespace of his own anybody has any path.
func leadsInto(link, top string) bool {
	to, err := os.Readlink(link)
	if err != nil || !manifest.Within(to, top) {
		return false
	}
	is, err := os.Stat(link)
	if err != nil {
		return errors.Is(err, fs.ErrPermission)
	}
	at, err := os.Lstat(to)
	return err == nil && os.SameFile(is, at)
}
