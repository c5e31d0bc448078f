package walk_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("WALK_TEST_DENIED"); dir != "" {
		os.Exit(walkDenied(dir))
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tempDir is a temporary directory by its real path.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	return dir
}

// build makes files, and directories where the path ends with a slash.
func build(t testing.TB, dir string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		full := filepath.Join(dir, p)
		if strings.HasSuffix(p, "/") {
			must(t, os.MkdirAll(full, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		must(t, os.WriteFile(full, []byte(p), 0o644))
	}
}

func rules(t testing.TB, source string, exclude ...string) *filter.Rules {
	t.Helper()
	r, err := filter.Compile(source, nil, exclude)
	must(t, err)
	return r
}

// collect walks and describes each node below dir as a line: "i" before an
// implied one, "!" behind one with an error, "-" and the reason for what is
// left out.
func collect(t testing.TB, dir string, opts walk.Options) []string {
	t.Helper()
	var lines []string
	below := func(path string) (string, bool) {
		rel, ok := strings.CutPrefix("/"+path, dir)
		return strings.TrimPrefix(rel, "/"), ok && rel != ""
	}
	opts.Skipped = func(path string, why walk.Reason) {
		rel, _ := below(path)
		lines = append(lines, fmt.Sprintf("- %s (%v)", rel, why))
	}
	last := ""
	must(t, walk.Walk(t.Context(), opts, func(n *walk.Node) error {
		if n.Path != "" && manifest.Compare(last, n.Path) >= 0 {
			t.Errorf("%q comes after %q", n.Path, last)
		}
		last = n.Path
		if n.Dir != nil {
			fd, err := n.Dir.Open()
			must(t, err)
			if st, err := posix.StatAt(fd, n.Name); err != nil || st != n.Stat {
				t.Errorf("%q: through its directory: %+v, %v; not %+v", n.Path, st, err, n.Stat)
			}
			n.Dir.Release()
		}
		rel, ok := below(n.Path)
		if !ok {
			if !n.Implied && "/"+n.Path != dir {
				t.Errorf("%q is not implied", n.Path)
			}
			return nil
		}
		line := rel
		if n.Implied {
			line = "i " + line
		}
		if n.Stat.Type == manifest.Dir {
			line += "/"
		}
		if n.Err != nil {
			line += " !"
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

func expect(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestWalk(t *testing.T) {
	t.Run("every node is yielded once in path order whatever the names", everyNodeIsYieldedOnceInPathOrderWhateverTheNames)
	t.Run("a large directory is described in blocks in order", aLargeDirectoryIsDescribedInBlocksInOrder)
	t.Run("several sources are one tree with their parents implied", severalSourcesAreOneTreeWithTheirParentsImplied)
	t.Run("the root of the file system is a source", theRootOfTheFileSystemIsASource)
	t.Run("a source within another keeps its own rules", aSourceWithinAnotherKeepsItsOwnRules)
	t.Run("a source behind a link is recorded at the path given", aSourceBehindALinkIsRecordedAtThePathGiven)
	t.Run("sources that cannot be walked are errors that name them", sourcesThatCannotBeWalkedAreErrorsThatNameThem)
	t.Run("what is left out is reported with its reason", whatIsLeftOutIsToldWithItsReason)
	t.Run("the first error of yield and the end of the context end the walk", theFirstErrorOfYieldAndTheEndOfTheContextEndTheWalk)
}

func everyNodeIsYieldedOnceInPathOrderWhateverTheNames(t *testing.T) {
	dir := tempDir(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	dirs := []string{dir}
	for range 2000 {
		name := make([]byte, rnd.IntN(12)+1)
		for i := range name {
			name[i] = []byte("ab!\n\xff .-0~\x01")[rnd.IntN(11)]
		}
		if s := string(name); s == "." || s == ".." {
			continue
		}
		p := dirs[rnd.IntN(len(dirs))] + "/" + string(name)
		if rnd.IntN(4) == 0 {
			if os.Mkdir(p, 0o755) == nil {
				dirs = append(dirs, p)
			}
		} else if _, err := os.Lstat(p); err != nil {
			must(t, os.WriteFile(p, nil, 0o644))
		}
	}
	var want []string
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if p != dir {
			p = strings.TrimPrefix(p, dir+"/")
			if e.IsDir() {
				p += "/"
			}
			want = append(want, p)
		}
		return err
	}))
	slices.SortFunc(want, func(a, b string) int {
		return manifest.Compare(strings.TrimSuffix(a, "/"), strings.TrimSuffix(b, "/"))
	})
	for _, workers := range []int{0, 1, 16} {
		expect(t, collect(t, dir, walk.Options{Workers: workers, Sources: []walk.Source{{Path: dir}}}), want...)
	}
}

func aLargeDirectoryIsDescribedInBlocksInOrder(t *testing.T) {
	dir := tempDir(t)
	var want []string
	for i := range 1300 {
		name := fmt.Sprintf("f%d", i)
		if i%7 == 0 {
			name += "/"
			want = append(want, name, name+"x")
			build(t, dir, name+"x")
			continue
		}
		build(t, dir, name)
		want = append(want, name)
	}
	slices.SortFunc(want, func(a, b string) int {
		return manifest.Compare(strings.TrimSuffix(a, "/"), strings.TrimSuffix(b, "/"))
	})
	for range 2 {
		expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir}}}), want...)
	}
}

func severalSourcesAreOneTreeWithTheirParentsImplied(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "a/b/one", "a/b/two", "a/c", "z/file", "z/other", "y/")
	must(t, os.Symlink("a/c", dir+"/link"))
	got := collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir + "/z/file"}, {Path: dir + "/link"}, {Path: dir + "/a/b/"}, {Path: dir + "/a/b"}}})
	expect(t, got, "i a/", "a/b/", "a/b/one", "a/b/two", "link", "i z/", "z/file")

	var first []string
	must(t, walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir + "/y"}}}, func(n *walk.Node) error {
		first = append(first, n.Path)
		n.Dir.Release()
		return nil
	}))
	want := []string{""}
	for i, c := range dir[1:] + "/y/" {
		if c == '/' {
			want = append(want, (dir[1:] + "/y")[:i])
		}
	}
	expect(t, first, want...)
}

func theRootOfTheFileSystemIsASource(t *testing.T) {
	r, err := filter.Compile("/", nil, []string{"/*"})
	must(t, err)
	var got []string
	must(t, walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: "/", Rules: r}}}, func(n *walk.Node) error {
		got = append(got, fmt.Sprint(n.Path, n.Name, n.Implied, n.Stat.Type))
		n.Dir.Release()
		return nil
	}))
	expect(t, got, fmt.Sprint("", ".", false, manifest.Dir))
}

func aSourceWithinAnotherKeepsItsOwnRules(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "s/a", "s/cache/x", "s/cache/deep/in/y", "s/cache/deep/in/z.tmp", "s/cache/deep/other", "s/q.tmp", "s/r/b.tmp", "s/r/c")
	s := dir + "/s"
	outer := walk.Source{Path: s, Rules: rules(t, s, "cache", "*.tmp")}
	got := collect(t, dir, walk.Options{Sources: []walk.Source{outer, {Path: s + "/cache/deep/in"}, {Path: s + "/r"}}})
	expect(t, got,
		"s/", "s/a", "i s/cache/", "i s/cache/deep/", "s/cache/deep/in/", "s/cache/deep/in/y", "s/cache/deep/in/z.tmp",
		"- s/q.tmp (excluded by a pattern)", "s/r/", "s/r/b.tmp", "s/r/c")
	got = collect(t, dir, walk.Options{Sources: []walk.Source{{Path: s}, {Path: s + "/cache", Rules: rules(t, s+"/cache", "deep")}}})
	expect(t, got, "s/", "s/a", "s/cache/", "- s/cache/deep (excluded by a pattern)", "s/cache/x", "s/q.tmp", "s/r/", "s/r/b.tmp", "s/r/c")
}

func aSourceBehindALinkIsRecordedAtThePathGiven(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "releases/7/data/x")
	must(t, os.Symlink("releases/7", dir+"/current"))
	expect(t, collect(t, dir, walk.Options{Sources: []walk.Source{{Path: dir + "/current/data"}}}), "i current/", "current/data/", "current/data/x")
}

func sourcesThatCannotBeWalkedAreErrorsThatNameThem(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "a/x", "b")
	must(t, os.Symlink("a", dir+"/link"))
	must(t, os.Symlink("nothing", dir+"/nowhere"))
	must(t, os.Symlink("b/x", dir+"/below-file"))
	must(t, os.Symlink("circle", dir+"/circle"))
	for name, test := range map[string]struct {
		sources []walk.Source
		named   string
		is      error
	}{
		"missing":                    {[]walk.Source{{Path: dir + "/a"}, {Path: dir + "/nothing"}}, dir + "/nothing", os.ErrNotExist},
		"missing within another":     {[]walk.Source{{Path: dir}, {Path: dir + "/a/no/thing"}}, dir + "/a/no/thing", os.ErrNotExist},
		"below a file":               {[]walk.Source{{Path: dir + "/b/x"}}, dir + "/b/x", unix.ENOTDIR},
		"relative":                   {[]walk.Source{{Path: "a"}}, "a", nil},
		"behind a link of another":   {[]walk.Source{{Path: dir}, {Path: dir + "/link/x"}}, dir + "/link/x", nil},
		"twice, with other settings": {[]walk.Source{{Path: dir}, {Path: dir + "/", OneFileSystem: true}}, dir + "/", nil},
		"a link to nothing":          {[]walk.Source{{Path: dir + "/nowhere"}}, dir + "/nowhere", unix.ENOENT},
		"a link to below a file":     {[]walk.Source{{Path: dir + "/below-file"}}, dir + "/below-file", unix.ENOTDIR},
		"a link to itself":           {[]walk.Source{{Path: dir + "/circle"}}, dir + "/circle", unix.ELOOP},
		"below a link to nothing":    {[]walk.Source{{Path: dir + "/nowhere/x"}}, dir + "/nowhere/x", unix.ENOENT},
	} {
		t.Run(name, func(t *testing.T) {
			err := walk.Walk(t.Context(), walk.Options{Sources: test.sources}, func(n *walk.Node) error { n.Dir.Release(); return nil })
			var se *walk.SourceError
			if !errors.As(err, &se) || se.Path != test.named || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func whatIsLeftOutIsToldWithItsReason(t *testing.T) {
	dir := tempDir(t)
	build(t, dir, "a.tmp", "big", "cache/CACHEDIR.TAG", "cache/x/y", "fake/CACHEDIR.TAG", "fake/x", "mark/.nobackup", "mark/x", "mark/sub/y", "own/x", "out/in/keep", "out/x", "small")
	must(t, os.WriteFile(dir+"/cache/CACHEDIR.TAG", []byte("Signature: 8a477f597d28d172789f06886806bc55\n# more"), 0o644))
	must(t, os.Truncate(dir+"/big", 1001))
	must(t, os.Truncate(dir+"/small", 1000))
	own, err := posix.StatAt(unix.AT_FDCWD, dir+"/own")
	must(t, err)
	got := collect(t, dir, walk.Options{Omit: []posix.DevIno{own.ID()}, Sources: []walk.Source{{
		Path: dir, Rules: rules(t, dir, "*.tmp", "/out", "!/out/in"), ExcludeCaches: true, ExcludeIfPresent: []string{".nobackup"}, MaxFileSize: 1000}}})
	expect(t, got,
		"- a.tmp (excluded by a pattern)", "- big (larger than the limit)",
		"cache/", "- cache (marked as a cache)", "cache/CACHEDIR.TAG", "fake/", "fake/CACHEDIR.TAG", "fake/x",
		"mark/", "- mark (marked to be left out)", "mark/.nobackup", "i out/", "out/in/", "out/in/keep", "- out/x (excluded by a pattern)",
		"- own (belongs to knowngood)", "small")
}

func theFirstErrorOfYieldAndTheEndOfTheContextEndTheWalk(t *testing.T) {
	dir := tempDir(t)
	for i := range 200 {
		build(t, dir, fmt.Sprintf("%d/x/y", i))
	}
	stop := errors.New("stop")
	n := 0
	err := walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: dir}}}, func(node *walk.Node) error {
		node.Dir.Release()
		if n++; n == 50 {
			return stop
		}
		return nil
	})
	if err != stop || n != 50 {
		t.Errorf("%v after %d nodes", err, n)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	err = walk.Walk(ctx, walk.Options{Sources: []walk.Source{{Path: dir}}}, func(node *walk.Node) error {
		node.Dir.Release()
		cancel(stop)
		return nil
	})
	if err != stop {
		t.Errorf("cancelled: %v", err)
	}
}

// TestSealed: what was made immutable because of where it lies is captured as it was before.
func TestSealed(t *testing.T) {
	top := t.TempDir()
	names := []string{"d/file", "d", ""} // the last before what it lies in
	if err := errors.Join(os.Mkdir(filepath.Join(top, "d"), 0o755), os.WriteFile(filepath.Join(top, "d/file"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	const immutable = 0x10
	flag := func(name string, flags uint32) error {
		f, err := os.Open(filepath.Join(top, name))
		if err != nil {
			return err
		}
		return errors.Join(posix.SetInodeFlags(int(f.Fd()), flags), f.Close())
	}
	for _, name := range names {
		t.Cleanup(func() { _ = flag(name, 0) })
		if err := flag(name, immutable); err != nil {
			t.Skipf("it takes root, and a file system with inode flags: %v", err)
		}
	}
	for _, sealed := range []bool{false, true} {
		seen := 0
		err := walk.Walk(t.Context(), walk.Options{Sources: []walk.Source{{Path: top, Sealed: sealed}}}, func(n *walk.Node) error {
			defer n.Dir.Release()
			if n.Implied {
				return nil
			}
			f, err := os.Open("/" + n.Path)
			if err != nil {
				return err
			}
			defer f.Close()
			flags, err := n.Volume.InodeFlags(int(f.Fd()))
			if seen++; flags&immutable == 0 != sealed {
				t.Errorf("%s has flags %#x, and sealed is %v", n.Path, flags, sealed)
			}
			return err
		})
		if err != nil || seen != len(names) {
			t.Errorf("%d nodes, %v", seen, err)
		}
	}
}
