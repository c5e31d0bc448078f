package posix_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
)

// dirFD opens a directory for the length of a test.
func dirFD(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// acl is an access or default ACL that gives user uid the rights perm beside
// rwx for the owner, r-x for the group, mask rwx, and nothing for others.
func acl(uid uint32, perm uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, ^uint32(0)}, {2, perm, uid}, {4, 5, ^uint32(0)}, {16, 7, ^uint32(0)}, {32, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// capNetBind is cap_net_bind_service=ep as security.capability holds it.
func capNetBind() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	for _, v := range []uint32{1 << unix.CAP_NET_BIND_SERVICE, 0, 0, 0} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestPosix(t *testing.T) {
	t.Run("stat describes every type of node", statDescribesEveryTypeOfNode)
	t.Run("open file opens only regular files and never waits", openFileOpensOnlyRegularFilesAndNeverWaits)
	t.Run("readlink reads targets of any length", readlinkReadsTargetsOfAnyLength)
	t.Run("xattrs are read sorted with large values and from nodes that cannot be opened", xattrsAreReadSortedWithLargeValuesAndFromNodesThatCannotBeOpened)
	t.Run("read dir lists every name once with a buffer of any size", readDirListsEveryNameOnceWithABufferOfAnySize)
	t.Run("holes are found at both ends and between", holesAreFoundAtBothEndsAndBetween)
	t.Run("holes of an extremely fragmented file are bounded", holesOfAnExtremelyFragmentedFileAreBounded)
	t.Run("users translate both ways and know what they do not know", usersTranslateBothWaysAndKnowWhatTheyDoNotKnow)
}

func statDescribesEveryTypeOfNode(t *testing.T) {
	dir := t.TempDir()
	fd := dirFD(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("hello"), 0o600))
	must(t, os.Chmod(filepath.Join(dir, "file"), 0o640|os.ModeSetuid|os.ModeSticky))
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o711))
	must(t, os.Symlink("file", filepath.Join(dir, "link")))
	must(t, posix.Mknod(fd, "fifo", inode.Fifo, 0))
	must(t, posix.Mknod(fd, "socket", inode.Socket, 0))
	want := map[string]inode.Type{"file": inode.File, "dir": inode.Dir, "link": inode.Symlink, "fifo": inode.Fifo, "socket": inode.Socket}
	if os.Geteuid() == 0 {
		must(t, posix.Mknod(fd, "char", inode.CharDevice, 4095<<32|1048575))
		must(t, posix.Mknod(fd, "block", inode.BlockDevice, 7<<32|3))
		want["char"], want["block"] = inode.CharDevice, inode.BlockDevice
	}
	when := time.Unix(-86400*365*10, 123456789)
	must(t, os.Chtimes(filepath.Join(dir, "file"), time.Time{}, when))

	for name, typ := range want {
		st, err := posix.StatAt(fd, name)
		must(t, err)
		if st.Type != typ {
			t.Errorf("%s is a %v, not a %v", name, st.Type, typ)
		}
		var raw unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &raw))
		if st.Ino != raw.Ino || uint64(st.Nlink) != uint64(raw.Nlink) || st.UID != raw.Uid || st.GID != raw.Gid || st.Mode != raw.Mode&0o7777 ||
			st.Dev != uint64(unix.Major(raw.Dev))<<32|uint64(unix.Minor(raw.Dev)) || st.Ctime.Sec != int64(raw.Ctim.Sec) {
			t.Errorf("%s: %+v differs from lstat %+v", name, st, raw)
		}
		switch name {
		case "file":
			if st.Mode != 0o5640 || st.Size != 5 || st.Mtime != (inode.Time{Sec: when.Unix(), Nsec: 123456789}) {
				t.Errorf("file: %+v", st)
			}
		case "char":
			if st.Rdev != 4095<<32|1048575 {
				t.Errorf("char: rdev %x", st.Rdev)
			}
		}
	}
	if _, err := posix.StatAt(fd, "nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing node: %v", err)
	}
}

func openFileOpensOnlyRegularFilesAndNeverWaits(t *testing.T) {
	dir := t.TempDir()
	fd := dirFD(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("hello"), 0o600))
	must(t, os.Symlink("file", filepath.Join(dir, "link")))
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o700))
	must(t, posix.Mknod(fd, "fifo", inode.Fifo, 0))
	must(t, posix.Mknod(fd, "socket", inode.Socket, 0))

	f, st, err := posix.OpenFile(fd, "file")
	must(t, err)
	unix.Close(f)
	if st.Size != 5 {
		t.Errorf("size %d", st.Size)
	}
	for _, name := range []string{"link", "dir", "fifo", "socket"} {
		if f, _, err := posix.OpenFile(fd, name); !errors.Is(err, posix.ErrNotRegular) {
			t.Errorf("%s: descriptor %d, error %v", name, f, err)
		}
	}
}

func readlinkReadsTargetsOfAnyLength(t *testing.T) {
	dir := t.TempDir()
	fd := dirFD(t, dir)
	for _, n := range []int{1, 255, 256, 257, 1024, 4000} {
		target := strings.Repeat("\xff/", n)[:n]
		name := filepath.Join(dir, "l"+string(rune('a'+n%26))+strings.Repeat("x", n%7))
		must(t, os.Symlink(target, name))
		got, err := posix.Readlink(fd, filepath.Base(name))
		must(t, err)
		if got != target {
			t.Errorf("target of %d bytes came back with %d", n, len(got))
		}
	}
}

func xattrsAreReadSortedWithLargeValuesAndFromNodesThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	fd := dirFD(t, dir)
	path := filepath.Join(dir, "file")
	must(t, os.WriteFile(path, nil, 0o600))
	if err := unix.Setxattr(path, "user.z", nil, 0); err != nil {
		t.Skipf("no user attributes here: %v", err)
	}
	large := bytes.Repeat([]byte{7}, 3000)
	must(t, unix.Setxattr(path, "user.large", large, 0))
	must(t, unix.Setxattr(path, "user.a", []byte{0, 1}, 0))
	want := []inode.Xattr{{Name: "user.a", Value: []byte{0, 1}}, {Name: "user.large", Value: large}, {Name: "user.z", Value: []byte{}}}
	same := func(a, b inode.Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }

	f, _, err := posix.OpenFile(fd, "file")
	must(t, err)
	defer unix.Close(f)
	for what, read := range map[string]func() ([]inode.Xattr, error){
		"open": func() ([]inode.Xattr, error) { return posix.Xattrs(f) },
		"at":   func() ([]inode.Xattr, error) { return xattrsAt(fd, "file") },
	} {
		got, err := read()
		must(t, err)
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("%s: %v", what, got)
		}
	}
	must(t, unix.Setxattr(dir, "user.dir", []byte("x"), 0))
	if got, err := xattrsAt(fd, "."); err != nil || len(got) != 1 || got[0].Name != "user.dir" {
		t.Errorf("directory itself: %v, %v", got, err)
	}
	must(t, os.Symlink("file", filepath.Join(dir, "link")))
	if got, err := xattrsAt(fd, "link"); err != nil || slices.ContainsFunc(got, func(x inode.Xattr) bool { return strings.HasPrefix(x.Name, "user.") }) {
		t.Errorf("attributes of a link are those of its target: %v, %v", got, err)
	}
	if os.Geteuid() == 0 {
		must(t, unix.Lsetxattr(filepath.Join(dir, "link"), "trusted.link", []byte("y"), 0))
		if got, err := xattrsAt(fd, "link"); err != nil || len(got) != 1 || got[0].Name != "trusted.link" {
			t.Errorf("link: %v, %v", got, err)
		}
	}
}

// xattrsAt reads the attributes of a node without opening it for reading.
func xattrsAt(dirfd int, name string) ([]inode.Xattr, error) {
	fd, _, err := posix.OpenNode(dirfd, name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return posix.NodeXattrs(fd)
}

func readDirListsEveryNameOnceWithABufferOfAnySize(t *testing.T) {
	dir := t.TempDir()
	want := []string{" ", "\xff\xfe", "a\nb", strings.Repeat("l", 255), "-rf"}
	for i := range 300 {
		want = append(want, strings.Repeat("n", i%200+1)+string(rune('A'+i%26))+string(rune('0'+i%10)))
	}
	slices.Sort(want)
	want = slices.Compact(want)
	for _, name := range want {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	fd := dirFD(t, dir)
	for _, size := range []int{512, posix.DirBuffer} {
		var got []string
		must(t, posix.ReadDir(fd, make([]byte, size), func(name []byte, typ inode.Type) error {
			if typ != inode.Dir && typ != 0 {
				t.Errorf("%q has type %v", name, typ)
			}
			got = append(got, string(name))
			return nil
		}))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("buffer of %d: %d names, not %d", size, len(got), len(want))
		}
	}
	stop := errors.New("stop")
	if err := posix.ReadDir(fd, make([]byte, 512), func([]byte, inode.Type) error { return stop }); err != stop {
		t.Errorf("error of the callback is lost: %v", err)
	}
}

func holesAreFoundAtBothEndsAndBetween(t *testing.T) {
	const mib = 1 << 20
	tests := map[string]struct {
		size int64
		data []int64
		want []inode.Extent
	}{
		"no bytes":           {0, nil, nil},
		"no data":            {3 * mib, nil, []inode.Extent{{Offset: 0, Length: 3 * mib}}},
		"no hole":            {mib, []int64{0}, nil},
		"begin, middle, end": {5 * mib, []int64{1 * mib, 3 * mib}, []inode.Extent{{Offset: 0, Length: mib}, {Offset: 2 * mib, Length: mib}, {Offset: 4 * mib, Length: mib}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
			must(t, err)
			defer f.Close()
			must(t, f.Truncate(test.size))
			for _, at := range test.data {
				_, err := f.WriteAt(bytes.Repeat([]byte{1}, mib), at)
				must(t, err)
			}
			st, err := posix.StatFd(int(f.Fd()))
			must(t, err)
			if test.size == 3*mib && !st.Sparse() {
				t.Skip("no sparse files here")
			}
			got, err := posix.Holes(int(f.Fd()), st.Size)
			must(t, err)
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func holesOfAnExtremelyFragmentedFileAreBounded(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	must(t, err)
	defer f.Close()
	const n = 17000
	for i := range int64(n) {
		_, err := f.WriteAt([]byte{1}, i*8192)
		must(t, err)
	}
	must(t, f.Truncate(n*8192+1<<20))
	got, err := posix.Holes(int(f.Fd()), n*8192+1<<20)
	must(t, err)
	if len(got) == 0 || len(got) > 1<<14 {
		t.Fatalf("%d holes", len(got))
	}
	if last := got[len(got)-1]; last.Length < 1<<20 {
		t.Errorf("the largest hole is lost; last is %v", last)
	}
}

func usersTranslateBothWaysAndKnowWhatTheyDoNotKnow(t *testing.T) {
	var u posix.Users
	for range 2 {
		if name := u.User(0); name != "root" {
			t.Errorf("user 0 is %q", name)
		}
		if id, ok := u.UID("root"); !ok || id != 0 {
			t.Errorf("root is %d, %v", id, ok)
		}
		if id, ok := u.GID(u.Group(0)); !ok || id != 0 {
			t.Errorf("group of 0 is %d, %v", id, ok)
		}
		if name := u.User(4_000_000_000); name != "" {
			t.Errorf("unknown user is %q", name)
		}
		if _, ok := u.GID("no such group"); ok {
			t.Error("unknown group has a number")
		}
	}
}
