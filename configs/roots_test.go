package configs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// placed is where a configuration lies.
type placed struct{ dir, file string }

func TestRunsAsRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a configuration of root's needs root")
	}
	const somebody = 54321
	for name, c := range map[string]struct {
		change func(p placed) error
		want   string // in the error, with the place; "" for none
	}{
		"as the package has it":         {func(placed) error { return nil }, ""},
		"a file that all may read":      {func(p placed) error { return os.Chmod(p.file, 0o644) }, ""},
		"a file of a group":             {func(p placed) error { return errors.Join(os.Chown(p.file, 0, somebody), os.Chmod(p.file, 0o640)) }, ""},
		"a file of the daemon's":        {func(p placed) error { return os.Chown(p.file, somebody, somebody) }, "config.yaml belongs to user 54321"},
		"a file that a group may write": {func(p placed) error { return errors.Join(os.Chown(p.file, 0, somebody), os.Chmod(p.file, 0o664)) }, "chmod g-w"},
		"a file that all may write":     {func(p placed) error { return os.Chmod(p.file, 0o666) }, "chmod o-w"},
		"a directory of the daemon's":   {func(p placed) error { return os.Chown(p.dir, somebody, somebody) }, "dir belongs to user 54321"},
		"a directory all may write":     {func(p placed) error { return os.Chmod(p.dir, 0o777) }, "chmod o-w"},
		"a sticky directory":            {func(p placed) error { return os.Chmod(p.dir, 0o777|os.ModeSticky) }, ""},
		"a link of root's":              {func(p placed) error { return move(p, 0) }, ""},
		"a link of the daemon's":        {func(p placed) error { return move(p, somebody) }, "config.yaml belongs to user 54321"},
		"a link out of the daemon's directory": {func(p placed) error {
			return errors.Join(os.Chown(p.dir, somebody, somebody), move(p, 0))
		}, "dir belongs to user 54321"},
		"a link to a directory of the daemon's": {func(p placed) error {
			theirs := filepath.Join(filepath.Dir(p.dir), "theirs")
			return errors.Join(os.Rename(p.dir, theirs), os.Chown(theirs, somebody, somebody), os.Symlink("theirs", p.dir))
		}, "theirs belongs to user 54321"},
		"a link to itself": {func(p placed) error { return errors.Join(os.Remove(p.file), os.Symlink("config.yaml", p.file)) }, "too many levels"},
		"a directory":      {func(p placed) error { return errors.Join(os.Remove(p.file), os.Mkdir(p.file, 0o700)) }, "is a directory"},
		"none":             {func(p placed) error { return os.Remove(p.file) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := placed{dir: filepath.Join(t.TempDir(), "dir")}
			p.file = filepath.Join(p.dir, "config.yaml")
			if err := errors.Join(os.Mkdir(p.dir, 0o755), os.WriteFile(p.file, []byte("host: web\n"), 0o600), c.change(p)); err != nil {
				t.Fatal(err)
			}
			got, err := LoadRoots(p.file)
			switch {
			case c.want == "" && (err != nil || got.Host != "web"):
				t.Errorf("%v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), filepath.Dir(p.dir))):
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
	if _, err := LoadRoots("config.yaml"); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("a relative path: %v", err)
	}
}

// move puts a link of a user in the place of the file, which stays beside the
// directory.
func move(p placed, uid int) error {
	real := filepath.Join(filepath.Dir(p.dir), "real.yaml")
	return errors.Join(os.Rename(p.file, real), os.Symlink(real, p.file), os.Lchown(p.file, uid, uid))
}
