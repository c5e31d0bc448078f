package posix_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
)

func TestKernelAttributes(t *testing.T) {
	needRoot(t)
	t.Parallel()
	made := []inode.Xattr{
		{Name: "security.evm", Value: []byte{2, 1, 1, 1}},
		{Name: "trusted.SGI_ACL_DEFAULT", Value: []byte{0, 0, 0, 0}},
		{Name: "trusted.SGI_ACL_FILE", Value: []byte{0, 0, 0, 0}},
	}
	own := []inode.Xattr{{Name: "trusted.own", Value: []byte("x")}}
	signed := inode.Xattr{Name: "security.evm", Value: []byte{3, 1, 1, 1}}

	file := func(t *testing.T, attributes ...inode.Xattr) (int, string) {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		must(t, os.WriteFile(path, nil, 0o600))
		for _, x := range attributes {
			if err := unix.Setxattr(path, x.Name, x.Value, 0); err != nil {
				t.Skipf("%s cannot be set here: %v", x.Name, err)
			}
		}
		return dirFD(t, dir), path
	}
	has := func(path, name string) bool {
		_, err := unix.Getxattr(path, name, nil)
		return err == nil
	}

	t.Run("are not read", func(t *testing.T) {
		t.Parallel()
		fd, _ := file(t, append(made, own...)...)
		if got, err := xattrsAt(fd, "file"); err != nil || len(got) != 1 || got[0].Name != "trusted.own" {
			t.Errorf("read %v, %v", got, err)
		}
	})
	t.Run("are read when they are somebody's signature", func(t *testing.T) {
		t.Parallel()
		fd, _ := file(t, signed)
		if got, err := xattrsAt(fd, "file"); err != nil || len(got) != 1 || got[0].Name != "security.evm" {
			t.Errorf("read %v, %v", got, err)
		}
	})
	t.Run("are not set", func(t *testing.T) {
		t.Parallel()
		fd, path := file(t)
		e := describe(t, fd, "file")
		e.Xattrs = append(made, own...)
		if problems := posix.NewApplier(posix.ApplyOptions{}).ApplyAt(fd, "file", *e); len(problems) > 0 {
			t.Errorf("problems: %v", problems)
		}
		for _, x := range made {
			if has(path, x.Name) {
				t.Errorf("%s was set", x.Name)
			}
		}
		if !has(path, "trusted.own") {
			t.Error("trusted.own was not set")
		}
	})
	t.Run("are not removed", func(t *testing.T) {
		t.Parallel()
		fd, path := file(t, append(made, own...)...)
		e := describe(t, fd, "file")
		e.Xattrs = nil
		if problems := posix.NewApplier(posix.ApplyOptions{Exact: true}).ApplyAt(fd, "file", *e); len(problems) > 0 {
			t.Errorf("problems: %v", problems)
		}
		for _, x := range made {
			if !has(path, x.Name) {
				t.Errorf("%s was removed", x.Name)
			}
		}
		if has(path, "trusted.own") {
			t.Error("trusted.own was not removed")
		}
	})
}
