package live_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/snapshot/live"
)

// Whoever may write beside a path could hide files in a directory that no capture reads, have
// restores of the path refused, or have them read a state without end.
func TestLive(t *testing.T) {
	t.Run("what others make is no generation", func(t *testing.T) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		parent := t.TempDir()
		root, dir := filepath.Join(parent, "site"), filepath.Join(parent, ".site.generations")
		state := filepath.Join(dir, live.StateFile)
		must(os.Mkdir(root, 0o755))
		must(os.Mkdir(dir, 0o755))
		must(os.WriteFile(state, []byte(`{"generations": [{}]}`), 0o600))
		check := func(what string, ours bool) {
			t.Helper()
			if is, owner := live.IsDir(unix.AT_FDCWD, dir), live.Owner(root+"/file"); is != ours || (owner != "") != ours {
				t.Errorf("%s: it is one: %v, of %q", what, is, owner)
			}
		}
		check("ours", true)
		must(os.Chmod(dir, 0o775))
		check("others can write in it", false)
		must(os.Chmod(dir, 0o755))
		if os.Geteuid() != 0 {
			t.Skip("files of another user take root")
		}
		must(os.Chown(state, 65534, -1))
		check("the state is another user's", false)
		must(os.Truncate(state, 1<<42))
		must(os.Chown(dir, 65534, -1))
		check("all of it is another user's", false)
	})
}
