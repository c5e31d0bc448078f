package walk_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/snapshot/walk"
)

func TestLinkedSources(t *testing.T) {
	t.Run("are captured as the directory that they lead to", func(t *testing.T) {
		dir := tempDir(t)
		build(t, dir, "releases/7/sub/x", "releases/7/y")
		must(t, os.Symlink("7", dir+"/releases/newest"))
		must(t, os.Symlink("../"+dir[strings.LastIndexByte(dir, '/')+1:]+"/releases/newest", dir+"/current"))
		resolved := map[string]string{}
		opts := walk.Options{Sources: []walk.Source{{Path: dir + "/current/"}, {Path: dir + "/releases"}, {Path: dir + "/current/sub"}},
			Resolved: func(source, real string) { resolved[source] = real }}
		expect(t, collect(t, dir, opts), "current/", "current/sub/", "current/sub/x", "current/y",
			"releases/", "releases/7/", "releases/7/sub/", "releases/7/sub/x", "releases/7/y", "releases/newest")
		if len(resolved) != 2 || resolved[dir+"/current/"] != dir+"/releases/7" || resolved[dir+"/current/sub"] != dir+"/releases/7/sub" {
			t.Errorf("resolved: %v", resolved)
		}
	})

	t.Run("that lead to a file are captured themselves, and told", func(t *testing.T) {
		dir := tempDir(t)
		build(t, dir, "file")
		must(t, os.Symlink("file", dir+"/link"))
		var kept []string
		expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir + "/link"}}, Resolved: func(_, real string) { t.Errorf("it leads to %s", real) },
			KeptLink: func(source string) { kept = append(kept, source) }}), "link")
		if len(kept) != 1 || kept[0] != dir+"/link" {
			t.Errorf("told were %q", kept)
		}
	})

	if os.Geteuid() != 0 {
		t.Skip("the rest gives nodes to others, which takes root")
	}
	const other = 12345
	for name, test := range map[string]struct {
		spoil func(t *testing.T, dir string)
		place string // below dir; "-" where it is followed
	}{
		"in a directory that anybody can write":                {func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/links", 0o777)) }, "/links"},
		"in a directory that its group can write":              {func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/links", 0o770)) }, "/links"},
		"in a directory of another user":                       {func(t *testing.T, dir string) { must(t, os.Chown(dir+"/links", other, 0)) }, "/links"},
		"of another user":                                      {func(t *testing.T, dir string) { must(t, os.Lchown(dir+"/links/current", other, 0)) }, "/links/current"},
		"to a directory of another user":                       {func(t *testing.T, dir string) { must(t, os.Chown(dir+"/real/7", other, 0)) }, "/real/7"},
		"to a directory in one that anybody can write":         {func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/real", 0o777)) }, "/real"},
		"over another link, in a directory of others":          {func(t *testing.T, dir string) { must(t, os.Chown(dir+"/over", other, 0)) }, "/over"},
		"in a sticky directory where all are root's":           {func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/links", 0o777|os.ModeSticky)) }, "-"},
		"to a directory that many read, and only root changes": {func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/real/7", 0o755)) }, "-"},
	} {
		t.Run("are followed only where nobody else can make them lead elsewhere: "+name, func(t *testing.T) {
			dir := tempDir(t)
			build(t, dir, "links/", "over/", "real/7/sub/x")
			must(t, os.Symlink("../real/7", dir+"/over/next"))
			must(t, os.Symlink("../over/next", dir+"/links/current"))
			test.spoil(t, dir)
			for _, source := range []string{"/links/current", "/links/current/sub"} {
				err := walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir + source}}}, func(n *walk.Node) error { n.Dir.Release(); return nil })
				if test.place == "-" {
					must(t, err)
					continue
				}
				var unsafe *walk.UnsafeLinkError
				var se *walk.SourceError
				if !errors.As(err, &unsafe) || !errors.As(err, &se) || se.Path != dir+source {
					t.Fatalf("%s: %v", source, err)
				}
				if unsafe.Place != dir+test.place || unsafe.Link != dir+"/links/current" || !strings.HasPrefix(unsafe.Real, dir+"/real/7") || !strings.Contains(err.Error(), unsafe.Real) {
					t.Errorf("%s: %+v", source, *unsafe)
				}
			}
			must(t, walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir + "/real/7"}}}, func(n *walk.Node) error { n.Dir.Release(); return nil }))
		})
	}

	t.Run("are not needed to read a directory of others", func(t *testing.T) {
		dir := tempDir(t)
		build(t, dir, "home/x")
		must(t, os.Chown(dir+"/home", other, other))
		must(t, unix.Chmod(dir+"/home", 0o777))
		expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir + "/home"}}}), "home/", "home/x")
	})
}
