package walk_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/snapshot/walk"
)

func TestUnfinished(t *testing.T) {
	marker := strings.Repeat("0123456789abcdef", 4) + "\nsrv/web\n"
	part := walk.PartName("file")
	const left = " (left by a restore that did not finish)"

	t.Run("is left out", func(t *testing.T) {
		dir := tempDir(t)
		build(t, dir, "file", part, "sub/"+walk.PartName("x"))
		must(t, os.WriteFile(filepath.Join(dir, walk.RestoreMarker), []byte(marker), 0o600))
		expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir}}}),
			"- "+part+left, "- .knowngood-restore"+left, "file", "sub/", "- sub/"+walk.PartName("x")+left)
	})

	t.Run("is told from what only has such a name", func(t *testing.T) {
		dir := tempDir(t)
		build(t, dir, ".knowngood-0123456789abcdef.part/", ".knowngood-0123456789abcdef.parts", ".knowngood-0123456789ABCDEF.part", ".knowngood-123.part", "a.knowngood-0123456789abcdef.part")
		must(t, os.WriteFile(filepath.Join(dir, walk.RestoreMarker), []byte("my notes on restoring"), 0o600))
		must(t, os.Symlink("x", filepath.Join(dir, ".knowngood-1123456789abcdef.part")))
		must(t, unix.Mkfifo(filepath.Join(dir, ".knowngood-2123456789abcdef.part"), 0o600))
		expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir}}}),
			".knowngood-0123456789ABCDEF.part", ".knowngood-0123456789abcdef.part/", ".knowngood-0123456789abcdef.parts", ".knowngood-1123456789abcdef.part",
			".knowngood-123.part", ".knowngood-2123456789abcdef.part", ".knowngood-restore", "a.knowngood-0123456789abcdef.part")
	})

	t.Run("has a name that depends on the final one alone", func(t *testing.T) {
		for _, name := range []string{"a", strings.Repeat("n", 255), "\xff\n"} {
			if p := walk.PartName(name); p != walk.PartName(name) || len(p) != len(".knowngood-0123456789abcdef.part") {
				t.Errorf("%q: %q", name, p)
			}
		}
		if walk.PartName("a") == walk.PartName("b") {
			t.Error("two names have one")
		}
	})
}
