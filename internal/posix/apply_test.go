package posix_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("POSIX_TEST_UNPRIVILEGED"); dir != "" {
		os.Exit(applyUnprivileged(dir))
	}
	os.Exit(m.Run())
}

// describe reads all metadata of a node.
func describe(t *testing.T, dirfd int, name string) *inode.Metadata {
	t.Helper()
	st, err := posix.StatAt(dirfd, name)
	must(t, err)
	e := &inode.Metadata{Type: st.Type, Mode: st.Mode, UID: st.UID, GID: st.GID, Mtime: st.Mtime}
	e.Xattrs, err = xattrsAt(dirfd, name)
	must(t, err)
	return e
}

// differences returns how the metadata of two nodes differs.
func differences(a, b *inode.Metadata) (out []string) {
	add := func(what string, x, y any) {
		if x, y := fmt.Sprint(x), fmt.Sprint(y); x != y {
			out = append(out, fmt.Sprintf("%s: %s, not %s", what, x, y))
		}
	}
	add("type", a.Type, b.Type)
	if a.Type != inode.Symlink {
		add("mode", fmt.Sprintf("%o", a.Mode), fmt.Sprintf("%o", b.Mode))
	}
	add("owner", []uint32{a.UID, a.GID}, []uint32{b.UID, b.GID})
	add("mtime", a.Mtime, b.Mtime)
	add("xattrs", a.Xattrs, b.Xattrs)
	return out
}

func TestApply(t *testing.T) {
	t.Run("apply gives every type of node all its metadata", applyGivesEveryTypeOfNodeAllItsMetadata)
	t.Run("exact removes what the directory gave its new nodes", exactRemovesWhatTheDirectoryGaveItsNewNodes)
	t.Run("owners are numbers or left as they are", ownersAreNumbersOrLeftAsTheyAre)
	t.Run("problems name the attribute and do not stop the rest", problemsNameTheAttributeAndDoNotStopTheRest)
	t.Run("a time that the file system cannot hold is a problem", aTimeThatTheFileSystemCannotHoldIsAProblem)
	t.Run("without the right to give files away that is reported once and setuid is not given", withoutTheRightToGiveFilesAwayThatIsSaidOnceAndSetuidIsNotGiven)
}

func applyGivesEveryTypeOfNodeAllItsMetadata(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	fd := dirFD(t, dir)
	access, def := acl(1234, 6), acl(1234, 5)
	user := []inode.Xattr{{Name: "trusted.a", Value: []byte{1}}, {Name: "user.b", Value: []byte("x")}}
	times := []inode.Time{{Sec: -1_000_000_000, Nsec: 1}, {Sec: 3_000_000_000, Nsec: 999_999_999}, {Sec: 0, Nsec: 0}}
	entries := map[string]*inode.Metadata{
		"file":    {Type: inode.File, Mode: 0o6755, Xattrs: append([]inode.Xattr{{Name: "security.capability", Value: capNetBind()}}, user...)},
		"acl":     {Type: inode.File, Mode: 0o770, Xattrs: []inode.Xattr{{Name: "system.posix_acl_access", Value: access}}},
		"none":    {Type: inode.File, Mode: 0},
		"dir":     {Type: inode.Dir, Mode: 0o3770, Xattrs: append([]inode.Xattr{{Name: "system.posix_acl_access", Value: access}, {Name: "system.posix_acl_default", Value: def}}, user...)},
		"symlink": {Type: inode.Symlink, Mode: 0o777, Xattrs: user[:1]},
		"fifo":    {Type: inode.Fifo, Mode: 0o620, Xattrs: user[:1]},
		"socket":  {Type: inode.Socket, Mode: 0o751},
		"char":    {Type: inode.CharDevice, Mode: 0o604, Xattrs: user[:1]},
		"block":   {Type: inode.BlockDevice, Mode: 0o640},
	}
	devices := map[string]uint64{"char": 1<<32 | 3, "block": 259<<32 | 70000}
	a := posix.NewApplier(posix.ApplyOptions{Exact: true})
	i := 0
	for name, e := range entries {
		e.UID, e.GID, e.Mtime = 12345, 54321, times[i%len(times)]
		i++
		path := filepath.Join(dir, name)
		var problems []*posix.Problem
		switch e.Type {
		case inode.File:
			f, err := os.Create(path)
			must(t, err)
			must(t, unix.Setxattr(path, "user.surplus", []byte("x"), 0))
			problems = a.Apply(int(f.Fd()), *e)
			f.Close()
		case inode.Dir:
			must(t, os.Mkdir(path, 0o700))
			problems = a.Apply(dirFD(t, path), *e)
		case inode.Symlink:
			must(t, os.Symlink("file", path))
			problems = a.ApplyAt(fd, name, *e)
		default:
			must(t, posix.Mknod(fd, name, e.Type, devices[name]))
			problems = a.ApplyAt(fd, name, *e)
		}
		if len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
		}
	}
	for name, e := range entries {
		for _, d := range differences(describe(t, fd, name), e) {
			t.Errorf("%s: %s", name, d)
		}
		if st, err := posix.StatAt(fd, name); err != nil || st.Rdev != devices[name] {
			t.Errorf("%s: device %x (%v)", name, st.Rdev, err)
		}
	}
	// Applying once more, by name, over what is there changes nothing.
	for name, e := range entries {
		if problems := a.ApplyAt(fd, name, *e); len(problems) > 0 {
			t.Errorf("%s again: %v", name, problems)
		}
		for _, d := range differences(describe(t, fd, name), e) {
			t.Errorf("%s again: %s", name, d)
		}
	}
}

func exactRemovesWhatTheDirectoryGaveItsNewNodes(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Setxattr(dir, "system.posix_acl_default", acl(1234, 7), 0); err != nil {
		t.Skipf("no ACLs here: %v", err)
	}
	fd := dirFD(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	if x, err := xattrsAt(fd, "file"); err != nil || len(x) == 0 {
		t.Fatalf("the ACL was not inherited: %v, %v", x, err)
	}
	e := describe(t, fd, "file")
	e.Mode, e.Xattrs = 0o640, nil
	if problems := posix.NewApplier(posix.ApplyOptions{Exact: true}).ApplyAt(fd, "file", *e); len(problems) > 0 {
		t.Error(problems)
	}
	for _, d := range differences(describe(t, fd, "file"), e) {
		t.Error(d)
	}
}

func ownersAreNumbersOrLeftAsTheyAre(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	fd := dirFD(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	e := &inode.Metadata{Type: inode.File, Mode: 0o600, UID: 777, GID: 778}
	for name, test := range map[string]struct {
		opts     posix.ApplyOptions
		uid, gid uint32
	}{
		"numbers":          {posix.ApplyOptions{}, 777, 778},
		"left as they are": {posix.ApplyOptions{KeepOwner: true}, 5, 6},
	} {
		must(t, os.Chown(filepath.Join(dir, "file"), 5, 6))
		if problems := posix.NewApplier(test.opts).ApplyAt(fd, "file", *e); len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
		}
		if st, err := posix.StatAt(fd, "file"); err != nil || st.UID != test.uid || st.GID != test.gid {
			t.Errorf("%s: %d:%d, %v", name, st.UID, st.GID, err)
		}
	}
}

func problemsNameTheAttributeAndDoNotStopTheRest(t *testing.T) {
	dir := t.TempDir()
	fd := dirFD(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	e := &inode.Metadata{Type: inode.File, Mode: 0o604, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Mtime: inode.Time{Sec: 7},
		Xattrs: []inode.Xattr{{Name: "nonsense.x", Value: []byte("1")}, {Name: "user.y", Value: []byte("2")}}}
	problems := posix.NewApplier(posix.ApplyOptions{}).ApplyAt(fd, "file", *e)
	if len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), `xattr "nonsense.x": `) {
		t.Errorf("problems: %v", problems)
	}
	got := describe(t, fd, "file")
	e.Xattrs = e.Xattrs[1:]
	for _, d := range differences(got, e) {
		t.Error(d)
	}
	e.Type = inode.Fifo
	if problems := posix.NewApplier(posix.ApplyOptions{}).ApplyAt(fd, "file", *e); len(problems) != 1 {
		t.Errorf("a file takes the metadata of a fifo: %v", problems)
	}
	if problems := posix.NewApplier(posix.ApplyOptions{}).ApplyAt(fd, "nothing", *e); len(problems) != 1 {
		t.Errorf("nothing takes metadata: %v", problems)
	}
}

func aTimeThatTheFileSystemCannotHoldIsAProblem(t *testing.T) {
	dir := t.TempDir()
	fd := dirFD(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	e := describe(t, fd, "file")
	e.Mtime = inode.Time{Sec: 1 << 40}
	problems := posix.NewApplier(posix.ApplyOptions{}).ApplyAt(fd, "file", *e)
	stored := describe(t, fd, "file").Mtime == e.Mtime
	if stored == (len(problems) > 0) {
		t.Errorf("stored %v, problems %v", stored, problems)
	}
}

// applyUnprivileged runs in a child that is not root and prints what fails.
func applyUnprivileged(dir string) int {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	a := posix.NewApplier(posix.ApplyOptions{Exact: true})
	for _, name := range []string{"1", "2", "3"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o400); err != nil {
			fmt.Println(err)
			return 1
		}
		e := &inode.Metadata{Type: inode.File, Mode: 0o4755, UID: 0, GID: 0, Mtime: inode.Time{Sec: 5},
			Xattrs: []inode.Xattr{{Name: "security.capability", Value: capNetBind()}, {Name: "user.x", Value: []byte("1")}}}
		if name == "3" {
			e.UID, e.GID, e.Xattrs = uint32(os.Geteuid()), uint32(os.Getegid()), e.Xattrs[1:]
		}
		for _, p := range a.ApplyAt(fd, name, *e) {
			fmt.Println(name, p.Attr)
		}
		st, _ := posix.StatAt(fd, name)
		x, _ := xattrsAt(fd, name)
		fmt.Printf("%s %o %d %v\n", name, st.Mode, st.Mtime.Sec, x)
	}
	return 0
}

func withoutTheRightToGiveFilesAwayThatIsSaidOnceAndSetuidIsNotGiven(t *testing.T) {
	dir, err := os.MkdirTemp("", "posix")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := unix.Setxattr(dir, "user.x", nil, 0); err != nil {
		t.Skipf("no user attributes here: %v", err)
	}
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe)
	if os.Geteuid() == 0 {
		bin := filepath.Join(dir, "posix.test") // where others than root can reach it
		data, err := os.ReadFile(exe)
		must(t, err)
		must(t, os.WriteFile(bin, data, 0o755))
		must(t, os.Chmod(dir, 0o777))
		cmd = exec.Command(bin)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "POSIX_TEST_UNPRIVILEGED="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := "1 owner\n1 755 5 [{user.x [49]}]\n2 755 5 [{user.x [49]}]\n3 4755 5 [{user.x [49]}]\n"
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}
