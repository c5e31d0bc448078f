package isolate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stage is where the root of the cell is put together, in its own mount namespace.
// The mounts of the machine end with the old root.
const stage = "/dev/"

var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// build makes the root of the cell and enters it. No path below the tree is ever
// followed: what is mounted over is one component below a root that is ours, and
// is a directory, or is made one.
func build(o order, mounts map[string]int) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separating the mounts: %w", err)
	}
	dirs := lowers(o.Spec)
	for name, path := range dirs {
		if _, have := mounts[name]; have {
			continue
		}
		fd, err := clone(path, o.Spec.attributes(name))
		if err != nil {
			return err
		}
		mounts[name] = fd
	}
	nodes := map[string]int{}
	for _, d := range devices {
		// Read-only protects the node itself, which the machine uses too; devices are
		// written to all the same.
		fd, err := clone("/dev/"+d, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		if err != nil {
			return err
		}
		nodes[d] = fd
	}

	if err := unix.Mount("cell", stage, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=16m,mode=755"); err != nil {
		return fmt.Errorf("mounting memory: %w", err)
	}
	tree := mounts["tree"]
	if o.Spec.At != "" {
		delete(mounts, "tree") // it is mounted in the root, when that is there
	}
	for name, fd := range mounts {
		if err := attach(fd, stage+name); err != nil {
			return err
		}
	}
	if _, have := mounts["space"]; !have {
		// Where no file system can be made, what is written stays in memory: at
		// most as much as the cell may have of that, or the kernel's half of it.
		options := "mode=755"
		if size := least(o.Spec.Limits.Disk, o.Spec.Limits.Memory); size > 0 {
			options += fmt.Sprintf(",size=%d", max(size, 1<<20))
		}
		if err := mountAt("cell", stage+"space", "tmpfs", writableFlags, options); err != nil {
			return err
		}
	}
	var lower []string
	if o.Spec.At == "" {
		lower = []string{stage + "tree"}
	}
	if _, have := mounts["base"]; have {
		lower = append(lower, stage+"base")
	}
	if err := skeleton(stage+"skeleton", &o.Spec); err != nil {
		return fmt.Errorf("making the base: %w", err)
	}
	root := stage + "root"
	for _, d := range []string{"proc", "dev"} { // above whatever the tree has there
		if err := os.MkdirAll(stage+"space/root-upper/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := overlay(root, "root", o.User, append(lower, stage+"skeleton")...); err != nil {
		return err
	}
	if o.Spec.Base == "host" {
		for _, d := range hostDirs {
			if _, have := dirs[d]; !have || !isDir(filepath.Join(root, d)) {
				continue // the tree has something else there
			}
			over := []string{stage + d}
			if isDir(stage + "tree/" + d) {
				over = []string{stage + "tree/" + d, stage + d}
			}
			if err := overlay(filepath.Join(root, d), d, o.User, over...); err != nil {
				return err
			}
		}
	}
	if err := special(root, nodes); err != nil {
		return err
	}

	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("entering the root of the cell: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the machine's root: %w", err)
	}
	if err := os.Chdir("/"); err != nil || o.Spec.At == "" {
		return err
	}
	return attach(tree, o.Spec.At)
}

// clone returns a mount of a path of the machine, with attributes.
func clone(path string, attributes uint64) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("opening %s for the cell: %w", path, err)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attributes}); err != nil {
		return -1, fmt.Errorf("protecting %s in the cell: %w", path, err)
	}
	return fd, nil
}

// attach mounts what a descriptor stands for over a directory that is made.
func attach(fd int, at string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	return cover(fd, at)
}

// cover mounts what a descriptor stands for over what is at a path.
func cover(fd int, at string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting at %s: %w", inCell(at), err)
	}
	return unix.Close(fd)
}

// inCell is a path as the cell will have it.
func inCell(path string) string {
	return "/" + strings.TrimPrefix(strings.TrimPrefix(path, stage+"root"), "/")
}

// least returns the lower one of two limits, of which 0 is none.
func least(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

const writableFlags = unix.MS_NOSUID | unix.MS_NODEV

func mountAt(source, at, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, at, kind, flags, options); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", kind, inCell(at), err)
	}
	return nil
}

// overlay mounts lower directories, the first on top, below what is written to the
// directory of the space that is called name.
func overlay(at, name string, user bool, lower ...string) error {
	upper, work := stage+"space/"+name+"-upper", stage+"space/"+name+"-work"
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper, work)
	if user {
		options += ",userxattr"
	}
	return mountAt("cell", at, "overlay", writableFlags, options)
}

// isDir reports whether path is a directory itself, and no link to one.
func isDir(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

// skeleton fills the lowest directory: what every root has, and for the base host links to
// the machine's libraries and just enough of /etc for its programs.
func skeleton(dir string, spec *Spec) error {
	for d, mode := range map[string]os.FileMode{"etc": 0o755, "run": 0o755, "tmp": 0o777 | os.ModeSticky} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, d), mode); err != nil {
			return err
		}
	}
	if spec.Base != "host" {
		return nil
	}
	for _, d := range hostDirs {
		if to, err := os.Readlink("/" + d); err == nil {
			if err := os.Symlink(to, filepath.Join(dir, d)); err != nil {
				return err
			}
		} else if isDir("/" + d) {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
				return err
			}
		}
	}

	files := map[string]string{
		"passwd":        accounts("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"),
		"group":         accounts("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
		"hosts":         "127.0.0.1 localhost cell\n::1 localhost\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
	}
	if cache, err := os.ReadFile("/etc/ld.so.cache"); err == nil {
		files["ld.so.cache"] = string(cache)
	}
	if spec.Network {
		files["nsswitch.conf"] = strings.Replace(files["nsswitch.conf"], "hosts: files", "hosts: files dns", 1)
		for _, name := range []string{"hosts", "resolv.conf", "services", "ssl/certs/ca-certificates.crt", "pki/tls/certs/ca-bundle.crt"} {
			if text, err := os.ReadFile(filepath.Join("/etc", name)); err == nil {
				files[name] = string(text)
			}
		}
	}
	for name, text := range files {
		path := filepath.Join(dir, "etc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	links, _ := filepath.Glob("/etc/alternatives/*") // programs of /usr are links to these
	if err := os.Mkdir(filepath.Join(dir, "etc/alternatives"), 0o755); err != nil {
		return err
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			if err := os.Symlink(to, filepath.Join(dir, l)); err != nil {
				return err
			}
		}
	}
	return nil
}

// accounts returns the lines of a machine's file for its system accounts, which its programs
// know, without those of people.
func accounts(path, always string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(line, ":"); len(f) > 3 {
			if id, err := strconv.Atoi(f[2]); err == nil && id > 0 && id < 1000 {
				always += line
			}
		}
	}
	return always
}

// special mounts what is no file system of the tree's: /proc, of which the parts that
// concern the machine are read-only or hidden, and a small /dev. There is no /sys.
func special(root string, nodes map[string]int) error {
	if tmp := filepath.Join(root, "tmp"); isDir(tmp) {
		if err := os.Chmod(tmp, 0o777|os.ModeSticky); err != nil {
			return err
		}
	}

	dev := filepath.Join(root, "dev")
	if err := mountAt("cell", dev, "tmpfs", writableFlags|unix.MS_NOEXEC, "size=64k,nr_inodes=64,mode=755"); err != nil {
		return err
	}
	for _, d := range devices {
		if err := os.WriteFile(filepath.Join(dev, d), nil, 0o666); err != nil {
			return err
		}
		if err := cover(nodes[d], filepath.Join(dev, d)); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(to, filepath.Join(dev, from)); err != nil {
			return err
		}
	}
	if err := mountAt("cell", dev+"/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return err
	}
	proc := filepath.Join(root, "proc")
	if err := mountAt("proc", proc, "proc", writableFlags|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	for _, p := range []string{"sys", "bus", "fs", "irq", "acpi", "scsi", "sysrq-trigger", "kcore", "keys", "key-users", "kmsg", "timer_list", "kallsyms", "kpagecount", "kpageflags"} {
		path := filepath.Join(proc, p)
		from := path
		if !isDir(path) {
			from = filepath.Join(dev, "null")
		}
		if identify(path) == "" {
			continue
		}
		fd, err := clone(from, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		if err != nil {
			return err
		}
		if err := cover(fd, path); err != nil {
			return err
		}
	}

	if err := os.Mkdir(stage+"space/shm", 0o755); err != nil {
		return err
	}
	if err := os.Chmod(stage+"space/shm", 0o777|os.ModeSticky); err != nil {
		return err
	}
	fd, err := clone(stage+"space/shm", writable)
	if err != nil {
		return err
	}
	return attach(fd, dev+"/shm")
}
