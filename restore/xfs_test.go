package restore_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/storage/storagetest"
)

// mountXFS mounts an empty xfs for the test.
func mountXFS(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	if _, err := exec.LookPath("mkfs.xfs"); err != nil {
		t.Skip("there is no mkfs.xfs")
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 300<<20); err != nil { // the least that mkfs.xfs takes
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.xfs", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("no xfs can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// namedUser is an ACL with one named user, as an attribute holds it.
func namedUser(uid uint32) []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 7, ^uint32(0)}, {0x02, 5, uid}, {0x04, 5, ^uint32(0)}, {0x10, 7, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		b = append(b, byte(e.tag), 0, byte(e.perm), 0, byte(e.id), byte(e.id>>8), byte(e.id>>16), byte(e.id>>24))
	}
	return b
}

// On xfs root sees each ACL a second time, as an attribute of xfs's own.
func TestACLsOfXFS(t *testing.T) {
	xfs := mountXFS(t)
	src := filepath.Join(xfs, "src")
	w := enginetest.New(t, storagetest.NewMemory())
	acl := namedUser(12345)
	w.Check(os.MkdirAll(filepath.Join(src, "dir"), 0o755))
	w.Check(os.WriteFile(filepath.Join(src, "dir", "file"), []byte("content"), 0o644))
	w.Check(unix.Setxattr(filepath.Join(src, "dir", "file"), "system.posix_acl_access", acl, 0))
	w.Check(unix.Setxattr(filepath.Join(src, "dir"), "system.posix_acl_default", acl, 0))
	w.Check(unix.Setxattr(filepath.Join(src, "dir"), "trusted.own", []byte("x"), 0))
	w.MustCapture("e", src)

	t.Run("are captured once", func(t *testing.T) {
		names := map[string]int{}
		for e, err := range w.Tree("e").Entries(w.Ctx, enginetest.Under(src)) {
			w.Check(err)
			for _, x := range e.Xattrs {
				names[x.Name]++
			}
		}
		if len(names) != 3 || names["system.posix_acl_access"] != 1 || names["system.posix_acl_default"] != 1 || names["trusted.own"] != 1 {
			t.Errorf("captured attributes: %v", names)
		}
	})
	t.Run("are restored to another file system without problems", func(t *testing.T) {
		w := w.With(t, w.Store)
		out := treetest.TempDir(t)
		w.Restore("e", restore.Options{Under: enginetest.Under(src), Target: out})
		attributes(t, out, acl)
	})
	t.Run("are restored to xfs", func(t *testing.T) {
		w := w.With(t, w.Store)
		out := filepath.Join(xfs, "out")
		w.Restore("e", restore.Options{Under: enginetest.Under(src), Target: out})
		attributes(t, out, acl)
	})
	t.Run("stay when a file is restored in place", func(t *testing.T) {
		w := w.With(t, w.Store)
		file := filepath.Join(src, "dir", "file")
		w.Check(os.Chmod(file, 0o777))
		w.Check(os.Chtimes(filepath.Join(src, "dir"), time.Unix(1, 0), time.Unix(1, 0)))
		w.Check(unix.Setxattr(file, "user.surplus", []byte("x"), 0))
		o := restore.Options{Under: enginetest.Under(src), Target: src, InPlace: true}
		w.Restore("e", o)
		attributes(t, src, acl)
		if have := attributeNames(t, file); strings.Contains(have, "user.surplus") {
			t.Errorf("attributes of the file: %q", have)
		}
		if res := w.Restore("e", o); res.Changed+res.Created+res.Deleted > 0 {
			t.Errorf("restored again: %+v", res)
		}
	})
}

// attributes demands those that the test gave to dir and dir/file.
func attributes(t *testing.T, root string, acl []byte) {
	t.Helper()
	for _, want := range []struct {
		path, name string
		value      []byte
	}{{"dir/file", "system.posix_acl_access", acl}, {"dir", "system.posix_acl_default", acl}, {"dir", "trusted.own", []byte("x")}} {
		buf := make([]byte, 1024)
		n, err := unix.Getxattr(filepath.Join(root, want.path), want.name, buf)
		if err != nil || !bytes.Equal(buf[:n], want.value) {
			t.Errorf("%s of %s: %x, %v; want %x", want.name, want.path, buf[:max(n, 0)], err, want.value)
		}
	}
}

func attributeNames(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 1024)
	n, err := unix.Listxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}
