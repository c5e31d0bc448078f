package restore_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot/manifest"
	"knowngood/storage/storagetest"
)

func TestUnprivileged(t *testing.T) {
	t.Run("devices are named and the rest is restored", testWithoutRootDevicesAreNamedAndTheRestIsRestored)
}

func testWithoutRootDevicesAreNamedAndTheRestIsRestored(t *testing.T) {
	if !enginetest.AsNobody(t) {
		return
	}
	w := enginetest.New(t, storagetest.NewMemory())
	forge(w, []*manifest.Entry{folder(""),
		{Path: "block", Type: manifest.BlockDevice, Mode: 0o600, Rdev: 8 << 32},
		{Path: "char", Type: manifest.CharDevice, Mode: 0o600, Rdev: 1<<32 | 3},
		{Path: "file", Type: manifest.File, Mode: 0o4755, UID: 1, GID: 1},
	}, map[string]string{"file": "content"})
	target := treetest.TempDir(t)
	res, err := w.TryRestore("e", restore.Options{Target: target})
	w.Check(err)
	for _, device := range []string{"block", "char"} {
		if !slices.ContainsFunc(res.Problems, func(p restore.Problem) bool { return p.Path == device }) {
			t.Errorf("%s is not named, but %v", device, res.Problems)
		}
		if _, err := os.Lstat(filepath.Join(target, device)); err == nil {
			t.Errorf("%s is there", device)
		}
	}
	if res.Damaged {
		t.Error("that is taken for damage")
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(target, "file"), &st); err != nil || st.Size != 7 || int(st.Uid) != os.Geteuid() || st.Mode&unix.S_ISUID != 0 {
		t.Errorf("file: %v, %+v", err, st)
	}
}
