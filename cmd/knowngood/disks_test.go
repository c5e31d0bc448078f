package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/treetest"
)

// image is an ext4 file system in a file, with a block device that stays its
// own. All images have the same geometry: the same steps give the same inode
// numbers.
type image struct {
	file, device string
}

// ownDisks lets a test mount file systems that no other process sees and that
// end with it; where that is not possible it skips the test. The programs that
// the test starts see them, goroutines do not.
func ownDisks(t *testing.T) {
	t.Helper()
	for _, program := range []string{"losetup", "mount", "mkfs.ext4", "debugfs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s on this machine", program)
		}
	}
	runtime.LockOSThread() // never unlocked: the thread, and its mounts, end with the test
	if err := ownMounts(); err != nil {
		t.Skipf("mounting takes rights that this process does not have: %v", err)
	}
}

func newImage(t *testing.T) *image {
	t.Helper()
	d := &image{file: filepath.Join(t.TempDir(), "image")}
	must(t, "truncate", "-s", "8M", d.file)
	must(t, "mkfs.ext4", "-q", "-F", "-O", "^has_journal,^metadata_csum", d.file)
	out, err := exec.Command("losetup", "--find", "--show", d.file).CombinedOutput()
	if err != nil {
		t.Skipf("there are no loop devices: %v: %s", err, out)
	}
	d.device = strings.TrimSpace(string(out))
	t.Cleanup(func() { must(t, "losetup", "--detach", d.device) })
	return d
}

func (d *image) mount(t treetest.T, dir string) {
	t.Helper()
	must(t, "mount", "-o", "noatime", d.device, dir)
}

func unmount(t treetest.T, dir string) {
	t.Helper()
	if err := treetest.Unmount(dir); err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
}

// exchange makes what lies on two images, neither of them mounted, change
// devices: as after a boot at which the disks were found in another order.
func exchange(t treetest.T, a, b *image) {
	t.Helper()
	var contents [2][]byte
	for i, d := range []*image{a, b} {
		content, err := os.ReadFile(d.file)
		if err != nil {
			t.Fatalf("%v", err)
		}
		contents[1-i] = content
	}
	for i, d := range []*image{a, b} {
		f, err := os.OpenFile(d.file, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(contents[i], 0)
			f.Close()
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// settle unmounts an image and makes what changed on it lately an hour older,
// so that the next capture goes by its time stamps.
func (d *image) settle(t treetest.T, dir string) {
	t.Helper()
	recent := time.Now().Add(-30 * time.Minute).Unix()
	var commands strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if err != nil {
			return err
		}
		for field, at := range map[string]unix.Timespec{"ctime": st.Ctim, "mtime": st.Mtim} {
			if at.Sec > recent {
				fmt.Fprintf(&commands, "set_inode_field <%d> %s @%d\n", st.Ino, field, at.Sec-3600)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	unmount(t, dir)
	cmd := exec.Command("debugfs", "-w", "-f", "/dev/stdin", d.file)
	cmd.Stdin = strings.NewReader(commands.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
}

// must runs a program of the machine.
func must(t treetest.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
}
