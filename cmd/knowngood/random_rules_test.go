package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
)

// source is a path with its rules, as a configuration has them.
type source struct {
	Path             string   `json:"path"`
	Include          []string `json:"include,omitempty"`
	Exclude          []string `json:"exclude,omitempty"`
	ExcludeCaches    bool     `json:"exclude_caches,omitempty"`
	ExcludeIfPresent []string `json:"exclude_if_present,omitempty"`
	OneFileSystem    bool     `json:"one_file_system,omitempty"`
	MaxFileSize      int      `json:"max_file_size,omitempty"`
}

func drawSource(t *rapid.T, path string) source {
	patterns := rapid.SampledFrom([]string{"*.tmp", "*.log", "up/", "d0/**", "/d1", "d0/d1", "**/cache", "!keep", "!*.log", "keep", "d1/*.tmp", "/d0/*"})
	s := source{Path: path, Exclude: rapid.SliceOfN(patterns, 0, 4).Draw(t, "exclude")}
	if rapid.IntRange(0, 3).Draw(t, "with include") == 0 {
		s.Include = rapid.SliceOfN(patterns.Filter(func(p string) bool { return p[0] != '!' }), 1, 3).Draw(t, "include")
	}
	s.ExcludeCaches = rapid.Bool().Draw(t, "caches")
	s.OneFileSystem = rapid.Bool().Draw(t, "one file system")
	if rapid.Bool().Draw(t, "if present") {
		s.ExcludeIfPresent = []string{".nobackup"}
	}
	if rapid.Bool().Draw(t, "size") {
		s.MaxFileSize = 1000
	}
	return s
}

func (s source) selective() bool {
	return len(s.Include) > 0 || slices.ContainsFunc(s.Exclude, func(p string) bool { return strings.HasPrefix(p, "!") })
}

// ruled is a tree under rules, and what becomes of it.
type ruled struct {
	*machine
	t       *rapid.T
	dir     string // that the sources lie in
	env     string
	sources []source
	mounted string // where another file system is; "" for none
	// selective means that rules take something back below what they leave out,
	// so that directories are in a snapshot which are not captured themselves.
	selective bool
}

func (r *ruled) config(name string, environments map[string][]source) string {
	r.t.Helper()
	type environment struct {
		Sources []source `json:"sources"`
	}
	all := map[string]environment{}
	for env, sources := range environments {
		all[env] = environment{sources}
	}
	text, err := json.Marshal(map[string]any{"environments": all})
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	file := filepath.Join(r.dir, name)
	writeFile(r.t, file, string(text))
	return file
}

// change does something to a random path of the sources. What cannot be done
// there is left.
func (r *ruled) change(label string) {
	draw := rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"d0", "d1", "up", "cache"}), 0, 2).Draw(t, "directories")
		last := rapid.SampledFrom([]string{"d0", "d1", "up", "cache", "f.tmp", "f.log", "keep", "plain", "CACHEDIR.TAG", ".nobackup"}).Draw(t, "name")
		top := rapid.SampledFrom(r.sources).Draw(t, "source").Path
		if r.mounted != "" && rapid.IntRange(0, 3).Draw(t, "mounted") == 0 {
			top = r.mounted
		}
		return filepath.Join(append(append([]string{top}, parts...), last)...)
	})
	path, what := draw.Draw(r.t, label), rapid.SampledFrom([]string{"write", "write", "write", "write large", "mkdir", "remove", "rename", "chmod"}).Draw(r.t, "what")
	_ = os.MkdirAll(filepath.Dir(path), 0o755) // a file may be in its way
	var err error
	switch what {
	case "write", "write large":
		content := path
		if filepath.Base(path) == "CACHEDIR.TAG" {
			content = "Signature: 8a477f597d28d172789f06886806bc55\n"
		} else if what == "write large" {
			content = strings.Repeat(path, 1+2000/len(path))
		}
		err = os.WriteFile(path, []byte(content), 0o644)
	case "mkdir":
		err = os.Mkdir(path, 0o755)
	case "remove":
		err = os.RemoveAll(path)
	case "rename":
		err = os.Rename(path, draw.Draw(r.t, "to"))
	case "chmod":
		err = os.Chmod(path, 0o700)
	}
	r.t.Logf("%s %s: %v", what, path, err)
}

// live is what the sources hold now, by absolute path.
func (r *ruled) live() treetest.Tree {
	r.t.Helper()
	tree := treetest.Tree{}
	for _, s := range r.sources {
		for path, n := range treetest.Snapshot(r.t, s.Path) {
			tree[filepath.Join(s.Path, path)] = n
		}
	}
	return tree
}

// captured takes a snapshot and returns the paths that it has. The only problem
// that it may have is a source of which the patterns select nothing.
func (r *ruled) captured(config, env string) (ref string, paths map[string]bool) {
	r.t.Helper()
	o := r.machine.run(r.t, "snapshot", "--config", config, env)
	code := exit.Done
	for line := range strings.Lines(o.stderr.String()) {
		switch {
		case strings.Contains(line, ": its include patterns match nothing"):
			code = exit.Incomplete
		case strings.HasPrefix(line, "knowngood: /"):
			r.t.Errorf("%s", line)
		}
	}
	ref = strings.TrimSpace(o.exits(r.t, code))
	paths = map[string]bool{}
	for line := range strings.Lines(r.must(r.t, "ls", "-R", ref)) {
		paths[strings.TrimSuffix(line, "\n")] = true
	}
	return ref, paths
}

func without(tree treetest.Tree, paths map[string]bool) treetest.Tree {
	tree = maps.Clone(tree)
	maps.DeleteFunc(tree, func(path string, _ *treetest.Node) bool { return paths[path] })
	return tree
}

func TestRandomRules(t *testing.T) {
	t.Parallel()
	t.Run("restore in place under random rules", testRestoreInPlaceUnderRandomRules)
}

// Whatever the rules of the sources are and whatever happened since: a restore
// in place brings back what was captured, deletes what has come since, and
// does not touch what the rules leave out, those of the snapshot or today's.
func testRestoreInPlaceUnderRandomRules(t *testing.T) {
	t.Parallel()
	mounts := os.Geteuid() == 0
	if mounts {
		ownDisks(t)
	}
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		r := &ruled{machine: m, t: rt, dir: treetest.TempDir(rt), env: fmt.Sprint("e", runs)}
		for i := range rapid.IntRange(1, 2).Draw(rt, "sources") {
			path := filepath.Join(r.dir, fmt.Sprint("s", i))
			makeDir(rt, path)
			r.sources = append(r.sources, drawSource(rt, path))
		}
		if mounts && rapid.Bool().Draw(rt, "mount") {
			r.mount()
		}
		r.run()
	})
}

func (r *ruled) mount() {
	r.t.Helper()
	dir := filepath.Join(r.sources[0].Path, "mnt")
	makeDir(r.t, dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		r.t.Fatalf("mount: %v", err)
	}
	r.mounted = dir
	r.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // it may be unmounted
}

func (r *ruled) run() {
	t := r.t
	for range rapid.IntRange(0, 25).Draw(t, "steps before") {
		r.change("before")
	}
	then := r.live()
	config := r.config("config", map[string][]source{r.env: r.sources})
	ref, paths := r.captured(config, r.env)
	want := r.restoredTo(ref)
	leftOutThen := without(then, paths)

	for range rapid.IntRange(0, 15).Draw(t, "steps after") {
		r.change("after")
	}
	spared := map[string]bool{}
	if r.mounted != "" && rapid.IntRange(0, 3).Draw(t, "unmount") == 0 {
		unmount(t, r.mounted)
		if r.sources[0].OneFileSystem {
			spared[r.mounted] = true
		}
		for range rapid.IntRange(0, 3).Draw(t, "steps below") {
			r.change("below")
		}
	}
	now := r.live()
	today := r.sources
	if rapid.Bool().Draw(t, "other rules today") {
		today = nil
		for _, s := range r.sources {
			today = append(today, drawSource(t, s.Path))
		}
	}
	r.selective = slices.ContainsFunc(slices.Concat(r.sources, today), source.selective)
	probes := r.config("probes", map[string][]source{"then": r.sources, "today": today})
	_, underThose := r.captured(probes, "then")
	_, underToday := r.captured(probes, "today")
	leftOut := without(now, paths)
	for path, n := range leftOut {
		old := leftOutThen[path]
		unchanged := old != nil && old.Linked(n) && sameNode(old, n)
		if underThose[path] && underToday[path] && !unchanged && !below(path, spared) {
			delete(leftOut, path)
		}
	}

	o := r.restoreInPlace(r.config("today", map[string][]source{r.env: today}), ref)
	r.check(o, paths, want, now, leftOut)
}

// restoreInPlace restores in place, as one of several people would.
func (r *ruled) restoreInPlace(today, ref string) *outcome {
	args := []string{"restore", ref, "--in-place", "--delete", "-v", "--config", today}
	if len(r.sources) == 1 && rapid.Bool().Draw(r.t, "by target") {
		args = append([]string{"restore", ref + ":" + r.sources[0].Path, "--target", r.sources[0].Path}, args[2:]...)
	}
	r.t.Logf("%q", args)
	return r.machine.run(r.t, args...)
}

// isMark reports whether a name may mark what its directory holds to be left
// out: that such a name has come since is no reason to delete it.
func isMark(path string) bool {
	name := filepath.Base(path)
	return name == ".nobackup" || name == "CACHEDIR.TAG"
}

func below(path string, dirs map[string]bool) bool {
	for dir := range dirs {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// restoredTo is what a snapshot has of the sources, by absolute path.
func (r *ruled) restoredTo(ref string) treetest.Tree {
	r.t.Helper()
	out := filepath.Join(treetest.TempDir(r.t), "out")
	r.must(r.t, "restore", ref, "--target", out)
	tree := treetest.Tree{}
	for _, s := range r.sources {
		for path, n := range treetest.Snapshot(r.t, filepath.Join(out, s.Path)) {
			tree[filepath.Join(s.Path, path)] = n
		}
	}
	return tree
}

// check looks at what a restore in place has made of the sources. Where the
// snapshot has something else than a directory that holds what is left out,
// both cannot be: that is named.
func (r *ruled) check(o *outcome, paths map[string]bool, want, before, leftOut treetest.Tree) {
	t := r.t
	t.Logf("exit code %d\n%s%s", o.code, &o.stdout, &o.stderr)
	after := r.live()
	blocked := map[string]bool{} // by what is left out below them
	for path := range leftOut {
		for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
			if w := want[dir]; w != nil && w.Type != before[dir].Type {
				blocked[dir] = true
			}
		}
	}
	if len(blocked) == 0 {
		o.exits(t, exit.Done)
	} else {
		o.exits(t, exit.Incomplete)
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		// Directories on the way to what was captured may not have been captured themselves.
		if w, is := want[path], after[path]; !below(path, blocked) && !(sameNode(w, is) || is != nil && is.Type == w.Type && w.Type == unix.S_IFDIR) {
			t.Errorf("%s was captured and is not restored: %v", path, treetest.Tree{path: w}.Compare(treetest.Tree{path: is}, compareOptions()))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(leftOut)) {
		if was, is := leftOut[path], after[path]; is == nil || !was.Linked(is) || was.Type != unix.S_IFDIR && !sameNode(was, is) {
			t.Errorf("%s is left out and was touched", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if want[path] != nil || leftOut[path] != nil || below(path, blocked) {
			continue
		}
		// A directory may lead to what is left out, or may be captured, or marks itself.
		stays := func(p string) bool { return leftOut[p] != nil || isMark(p) }
		leads := func(p string) bool { return strings.HasPrefix(p, path+"/") && stays(p) }
		if isMark(path) || after[path].Type == unix.S_IFDIR && (r.selective || slices.ContainsFunc(slices.Collect(maps.Keys(after)), leads)) {
			continue
		}
		t.Errorf("%s has come since and was not deleted", path)
	}
}
