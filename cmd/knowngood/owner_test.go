package main

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func TestOwner(t *testing.T) {
	t.Parallel()
	t.Run("what root does by hand is not in the way of the owner", testWhatRootDoesByHandIsNotInTheWayOfTheOwner)
}

func testWhatRootDoesByHandIsNotInTheWayOfTheOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root does things for others")
	}
	dir := t.TempDir()
	m := &machine{repo: filepath.Join(dir, "repo"), identity: filepath.Join(dir, "identity"), state: filepath.Join(dir, "state")}
	elsewhere := filepath.Join(dir, "elsewhere")
	for _, err := range []error{
		os.Mkdir(m.state, 0o700), os.Chown(m.state, somebody, somebody), os.WriteFile(elsewhere, nil, 0o600),
		os.Link(elsewhere, filepath.Join(m.state, "planted")), os.Symlink(elsewhere, filepath.Join(m.state, "led-astray")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m.must(t, "init", "--identity-type", "x25519")
	files := 0
	for _, pattern := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} {
		found, err := filepath.Glob(filepath.Join(m.state, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			files++
			if uid := info.Sys().(*syscall.Stat_t).Uid; uid != somebody && !slices.Contains([]string{"planted", "led-astray"}, filepath.Base(path)) {
				t.Errorf("%s belongs to %d", path, uid)
			}
		}
	}
	if files < 6 {
		t.Errorf("init left %d files", files)
	}
	for _, path := range []string{elsewhere, m.identity} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
			t.Errorf("%s was root's, and now is that of %d", path, uid)
		}
	}
}
