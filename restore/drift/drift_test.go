package drift_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore/drift"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/walk"
	"knowngood/storage/storagetest"
)

func TestDrift(t *testing.T) {
	t.Run("each kind of change is named, and by stat what a stat shows", eachChangeIsNamed)
	t.Run("what is left out is counted, but never a privileged file", whatIsLeftOutIsCounted)
	t.Run("packages of a real dpkg explain what they changed", packagesExplainWhatTheyChanged)
	t.Run("what dpkg diverts is explained where it is", divertedFilesAreExplained)
	t.Run("what was removed is purged, or comes back, and triggers may be pending", removedPackages)
	t.Run("a removed source is removed files", aRemovedSource)
	t.Run("a file beyond the limit of size has changed", aFileBeyondTheLimit)
}

// world is a tree of which there is a snapshot, m@1.
type world struct {
	*enginetest.World
	top   string
	t     *testing.T
	built int // packages
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{World: enginetest.New(t, storagetest.NewMemory()), top: treetest.TempDir(t), t: t}
}

func (w *world) write(path, text string, mode os.FileMode) {
	w.t.Helper()
	name := filepath.Join(w.top, path)
	for _, err := range []error{os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), mode), os.Chmod(name, mode)} {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) do(errs ...error) {
	w.t.Helper()
	for _, err := range errs {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) at(path string) string { return filepath.Join(w.top, path) }

// live compares the tree with the snapshot.
func (w *world) live(ref string, content bool, set *drift.Set) []string {
	w.t.Helper()
	tree := w.Tree(ref)
	set.Problem = func(path string, err error) { w.t.Errorf("%s: %v", path, err) }
	w.do((&drift.Live{Tree: tree, Content: content, Sources: []walk.Source{{Path: w.top}}}).Compare(w.Ctx, set))
	_, err := set.ExplainPackages(w.Ctx, tree, nil, treetest.TempDir(w.t))
	w.do(err)
	return w.rows(set)
}

// between compares two snapshots.
func (w *world) between(from, to string) (*drift.Set, []string) {
	w.t.Helper()
	was, is, set := w.Tree(from), w.Tree(to), &drift.Set{}
	w.do(drift.Between(w.Ctx, was, is, set))
	_, err := set.ExplainPackages(w.Ctx, was, is, treetest.TempDir(w.t))
	w.do(err)
	return set, w.rows(set)
}

// rows are the differences, with paths below the top.
func (w *world) rows(set *drift.Set) (out []string) {
	rows, more := set.Rows()
	if more > 0 {
		w.t.Errorf("%d more", more)
	}
	for _, r := range rows {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Change, strings.TrimPrefix("/"+r.Path, w.top+"/"), r.Why)))
	}
	return out
}

func groups(set *drift.Set) (out []string) {
	for _, g := range set.Groups() {
		out = append(out, fmt.Sprintf("%s %s %s %s %d", g.What, filepath.Base(g.Name), g.From, g.To, g.Paths))
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func eachChangeIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners and capabilities are root's")
	}
	w := newWorld(t)
	for _, f := range []string{"changed", "shorter", "mode", "owner", "touched", "quiet", "gone", "became-dir", "etc/systemd/system/a.service", "lib/systemd/system/b.service", "dir/gone"} {
		w.write(f, "content of "+f, 0o644)
	}
	for _, f := range []string{"bin/tool", "bin/suid", "bin/capable", "bin/was-suid", "bin/touched-suid"} {
		w.write(f, "#!"+f, 0o755)
	}
	w.do(os.Chmod(w.at("bin/was-suid"), 0o755|os.ModeSetuid), os.Chmod(w.at("bin/touched-suid"), 0o755|os.ModeSetuid), os.Symlink("changed", w.at("link")), os.Symlink("changed", w.at("same-link")), unix.Mkfifo(w.at("fifo"), 0o600))
	w.MustCapture("m", w.top)
	same(t, "nothing was changed", w.live("m@1", true, &drift.Set{}), nil)

	later := time.Now().Add(time.Hour)
	var quiet unix.Stat_t
	w.do(unix.Stat(w.at("quiet"), &quiet))
	w.write("changed", "CONTENT of changed", 0o644)
	w.write("shorter", "s", 0o644)
	w.write("quiet", "CONTENT of quiet", 0o644)
	w.write("new/deep/file", "new", 0o644)
	w.write("new/deep/suid", "new", 0o644)
	w.write("bin/new", "#!", 0o755)
	w.write("etc/systemd/system/a.service", "CONTENT", 0o644)
	w.write("usr/lib/systemd/system/new.service", "new", 0o644)
	w.do(os.Chtimes(w.at("quiet"), time.Time{}, time.Unix(quiet.Mtim.Unix())),
		os.Chmod(w.at("mode"), 0o600), os.Chown(w.at("owner"), 12, 34), os.Chtimes(w.at("touched"), later, later), os.Chtimes(w.at("lib/systemd/system/b.service"), later, later),
		os.Chtimes(w.at("bin/touched-suid"), later, later), os.Chtimes(w.at("dir"), later, later),
		os.Chmod(w.at("new/deep/suid"), 0o755|os.ModeSetuid), os.Chmod(w.at("bin/suid"), 0o755|os.ModeSetuid), os.Chmod(w.at("bin/was-suid"), 0o755),
		os.Remove(w.at("gone")), os.RemoveAll(w.at("dir")), os.Remove(w.at("became-dir")), os.Mkdir(w.at("became-dir"), 0o755),
		os.Remove(w.at("link")), os.Symlink("/etc/shadow", w.at("link")), os.Remove(w.at("fifo")), unix.Mkfifo(w.at("fifo2"), 0o600))
	// What setcap writes for cap_setuid+ep; ctime is all that a stat shows of it.
	w.do(unix.Setxattr(w.at("bin/capable"), "security.capability", []byte("\x01\x00\x00\x02\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))

	want := []string{
		"changed became-dir", "metadata bin/capable set-uid", "added bin/new new program", "metadata bin/suid set-uid", "metadata bin/touched-suid", "metadata bin/was-suid set-uid",
		"changed changed", "removed dir", "removed dir/gone", "changed etc/systemd/system/a.service systemd unit", "removed fifo", "added fifo2", "removed gone", "metadata lib/systemd/system/b.service",
		"changed link", "metadata mode", "added new", "added new/deep", "added new/deep/file", "added new/deep/suid set-uid", "metadata owner", "changed quiet", "changed shorter", "metadata touched",
		"added usr", "added usr/lib", "added usr/lib/systemd", "added usr/lib/systemd/system", "added usr/lib/systemd/system/new.service systemd unit",
	}
	same(t, "by stat", w.live("m@1", false, &drift.Set{}), want)
	same(t, "by content", w.live("m@1", true, &drift.Set{}), want)
	// With a clock that was set back, a stat does not show that it was touched.
	for content, quiet := range map[bool]bool{false: false, true: true} {
		tree, set := w.Tree("m@1"), &drift.Set{}
		tree.Snapshot.Body.Started = time.Now().Add(time.Hour)
		w.do((&drift.Live{Tree: tree, Content: content}).Compare(w.Ctx, set))
		if slices.Contains(w.rows(set), "changed quiet") != quiet {
			t.Errorf("content %v finds it: %v", content, !quiet)
		}
	}
	w.MustCapture("m", w.top)
	same(t, "the new snapshot", w.live("m@2", true, &drift.Set{}), nil)
	_, got := w.between("m@1", "m@2")
	same(t, "between snapshots", got, want)
}

func whatIsLeftOutIsCounted(t *testing.T) {
	w := newWorld(t)
	w.write("data/db", "1", 0o644)
	w.write("log/a", "1", 0o644)
	w.MustCapture("m", w.top)
	w.write("data/db", "22", 0o644)
	w.write("data/more", "1", 0o644)
	w.write("log/b", "1", 0o644)
	w.write("log/run", "1", 0o755)
	w.write("data/run", "1", 0o644)
	w.do(os.Chmod(w.at("data/run"), 0o4711|os.ModeSetuid))
	rules, err := filter.Compile("/", nil, []string{w.top + "/log/**"})
	w.do(err)
	set := &drift.Set{Ignore: rules, Data: []string{enginetest.Under(w.at("data"))}}
	same(t, "privileged", w.live("m@1", false, set), []string{"added data/run set-uid", "added log/run new program"})
	same(t, "counted", groups(set), []string{"data data   2", "ignored .   1"})
}

func aRemovedSource(t *testing.T) {
	w := newWorld(t)
	w.write("a/file", "1", 0o644)
	w.MustCapture("m", w.at("a"))
	w.do(os.RemoveAll(w.at("a")))
	same(t, "rows", w.live("m@1", false, &drift.Set{}), []string{"removed a", "removed a/file"})
}

func aFileBeyondTheLimit(t *testing.T) {
	w := newWorld(t)
	w.write("file", "1", 0o644)
	w.write("other", "1", 0o644)
	_, err := w.Capture("m", func(o *snapshot.Options) { o.Sources[0].MaxFileSize = 10 }, w.top)
	w.do(err)
	w.write("file", strings.Repeat("1", 11), 0o644)
	w.write("new", strings.Repeat("1", 11), 0o644)
	w.write(".knowngood-0123456789abcdef.part", "1", 0o644)
	same(t, "rows", w.live("m@1", false, &drift.Set{}), []string{"added .knowngood-0123456789abcdef.part", "changed file"})
}

// build builds a package from files below a directory.
func (w *world) build(name, version string, files map[string]string, links map[string]string, edit func(dir string)) string {
	w.t.Helper()
	dir := treetest.TempDir(w.t)
	in := &world{World: w.World, top: dir, t: w.t}
	in.write("DEBIAN/control", "Package: "+name+"\nVersion: "+version+"\nArchitecture: all\nMaintainer: nobody <n@example.com>\nDescription: test\n", 0o644)
	in.write("DEBIAN/conffiles", "/etc/"+name+".conf\n", 0o644)
	files["etc/"+name+".conf"] = "setting of " + version + "\n"
	for path, text := range files {
		mode := os.FileMode(0o644)
		if strings.Contains(path, "bin/") {
			mode = 0o755
		}
		in.write(path, text, mode)
	}
	for path, to := range links {
		w.do(os.MkdirAll(filepath.Dir(in.at(path)), 0o755), os.Symlink(to, in.at(path)))
	}
	if edit != nil {
		edit(dir)
	}
	sums, err := exec.Command("sh", "-c", "cd "+dir+" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\\0' | xargs -0 md5sum").Output()
	w.do(err)
	in.write("DEBIAN/md5sums", string(sums), 0o644)
	deb := dir + ".deb"
	w.t.Cleanup(func() { os.Remove(deb) })
	w.built++
	cmd := exec.Command("dpkg-deb", "--root-owner-group", "-Znone", "-b", dir, deb)
	cmd.Env = append(os.Environ(), fmt.Sprint("SOURCE_DATE_EPOCH=", 1_700_000_000+w.built)) // of all files
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	return deb
}

func (w *world) dpkg(args ...string) {
	w.t.Helper()
	cmd := exec.Command("dpkg", append([]string{"--root=" + w.top, "--log=/dev/null", "--force-script-chrootless,unsafe-io,confnew"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("dpkg %v: %v: %s", args, err, out)
	}
}

func packagesExplainWhatTheyChanged(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil || os.Geteuid() != 0 {
		t.Skip("packages are installed by dpkg, as root")
	}
	w := newWorld(t)
	for _, d := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "usr/bin", "usr/lib"} {
		w.do(os.MkdirAll(w.at(d), 0o755))
	}
	w.write("var/lib/dpkg/status", "", 0o644)
	w.do(os.Symlink("usr/lib", w.at("lib")))
	suid := func(dir string) { w.do(os.Chmod(filepath.Join(dir, "usr/bin/app-su"), 0o755|os.ModeSetuid)) }
	first := w.build("app", "1.9-1", map[string]string{"usr/bin/app": "one", "usr/bin/app-su": "one", "lib/libapp.so.1.9": "one", "lib/systemd/system/app.service": "unit", "usr/share/app/text": "one", "usr/share/app/kept": "kept"},
		map[string]string{"lib/libapp.so.1": "libapp.so.1.9", "usr/bin/app-link": "app"}, suid)
	second := w.build("app", "1.10-1", map[string]string{"usr/bin/app": "two", "usr/bin/app-su": "two", "usr/bin/app-new": "new", "lib/libapp.so.1.10": "two", "lib/systemd/system/app.service": "unit", "usr/share/app/text": "two", "usr/share/app/more/text": "two", "usr/share/app/kept": "kept"},
		map[string]string{"lib/libapp.so.1": "libapp.so.1.10", "usr/bin/app-link": "../../tmp/evil"}, suid)
	other := w.build("other", "2:1~rc1", map[string]string{"usr/share/other/text": "one"}, nil, nil)
	w.dpkg("-i", first)
	w.dpkg("-i", other)
	w.write("etc/app.conf", "edited", 0o644)
	w.MustCapture("m", w.top)
	same(t, "nothing was changed", w.live("m@1", true, &drift.Set{}), nil)

	// What is as the snapshot's own packages have it, and an upgrade.
	w.write("etc/app.conf", "setting of 1.9-1\n", 0o644)
	set := &drift.Set{}
	same(t, "put back to what the package has", w.live("m@1", false, set), nil)
	same(t, "explained", groups(set), []string{"package app 1.9-1 1.9-1 1"})
	w.dpkg("-i", second)
	w.dpkg("-r", "other")
	upgraded := []string{"changed usr/bin/app-link", "added usr/bin/app-new new program", "changed usr/bin/app-su set-uid"}
	explained := func(set *drift.Set, app int) {
		t.Helper()
		got := groups(set)
		want := []string{fmt.Sprintf("package app 1.9-1 1.10-1 %d", app), "package other 2:1~rc1  2"}
		if len(got) != 3 || !slices.Equal(got[:2], want) || !strings.HasPrefix(got[2], "database ") {
			t.Errorf("explained: %q, want %q and the database", got, want)
		}
	}
	// Changed: the program, both names of the library, its link, the configuration, the
	// unit and the kept file (their times), the text; added: a directory with a text.
	const app = 10
	set = &drift.Set{}
	same(t, "an upgrade", w.live("m@1", false, set), upgraded)
	explained(set, app)
	w.MustCapture("m", w.top)
	set, rows := w.between("m@1", "m@2")
	same(t, "an upgrade between snapshots", rows, upgraded)
	explained(set, app)

	// What the databases do not explain.
	w.write("usr/share/app/text", "evil", 0o644)
	w.do(os.Remove(w.at("usr/share/app/kept")), os.Chmod(w.at("usr/bin/app"), 0o777))
	w.write("var/lib/dpkg/info/app.payload/file", "x", 0o644)
	bad := []string{"metadata usr/bin/app", "removed usr/share/app/kept", "changed usr/share/app/text", "added var/lib/dpkg/info/app.payload/file"}
	same(t, "changed besides", w.live("m@2", false, &drift.Set{}), bad)
	// Older packages explain nothing, although their database fits.
	w.do(os.RemoveAll(w.at("var/lib/dpkg/info/app.payload")))
	w.dpkg("--force-downgrade", "-i", first)
	got := w.live("m@2", false, &drift.Set{})
	for _, row := range []string{"changed usr/bin/app", "changed usr/bin/app-su set-uid", "added usr/lib/libapp.so.1.9", "removed usr/lib/libapp.so.1.10", "changed usr/share/app/text"} {
		if !slices.Contains(got, row) {
			t.Errorf("a downgrade lacks %q: %q", row, got)
		}
	}
}

// Of a package that was removed, dpkg has the configuration, until it is purged.
func removedPackages(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil || os.Geteuid() != 0 {
		t.Skip("packages are installed by dpkg, as root")
	}
	w := newWorld(t)
	for _, d := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"} {
		w.do(os.MkdirAll(w.at(d), 0o755))
	}
	w.write("var/lib/dpkg/status", "", 0o644)
	deb := w.build("app", "1", map[string]string{"usr/share/text": "one"}, nil, nil)
	w.dpkg("-i", deb, w.build("other", "1", map[string]string{"usr/share/other": "one"}, nil, nil))
	w.dpkg("-r", "app")
	w.MustCapture("m", w.top)
	drifts := func(name string, rows []string, group string) {
		t.Helper()
		set := &drift.Set{}
		same(t, name, w.live("m@1", false, set), rows)
		if got := groups(set); group == "" && len(got) > 0 || group != "" && !slices.Contains(got, group) {
			t.Errorf("%s: explained %q, not %q", name, got, group)
		}
	}
	w.do(os.Rename(w.at("etc/app.conf"), w.at("kept")))
	drifts("its configuration is removed without dpkg", []string{"removed etc/app.conf", "added kept"}, "")
	w.do(os.Rename(w.at("kept"), w.at("etc/app.conf")))
	w.dpkg("-i", deb)
	drifts("it is installed again", nil, "package app  1 1")
	w.dpkg("-P", "app")
	drifts("it is purged", nil, "package app 1  1")

	w.dpkg("-i", w.build("other", "2", map[string]string{"usr/share/other": "two"}, nil, nil))
	status, err := os.ReadFile(w.at("var/lib/dpkg/status"))
	w.do(err)
	for state, rows := range map[string][]string{"triggers-awaited": nil, "triggers-pending": nil, "half-configured": {"changed etc/other.conf", "changed usr/share/other"}} {
		w.write("var/lib/dpkg/status", strings.Replace(string(status), "install ok installed", "install ok "+state, 1), 0o644)
		same(t, state, w.live("m@1", false, &drift.Set{}), rows)
	}
}

// What dpkg keeps elsewhere is explained there.
func divertedFilesAreExplained(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil || os.Geteuid() != 0 {
		t.Skip("packages are installed by dpkg, as root")
	}
	w := newWorld(t)
	for _, d := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates"} {
		w.do(os.MkdirAll(w.at(d), 0o755))
	}
	w.write("var/lib/dpkg/status", "", 0o644)
	divert := func(args ...string) {
		args = append([]string{"--root=" + w.top, "--rename", "--quiet"}, args...)
		if out, err := exec.Command("dpkg-divert", args...).CombinedOutput(); err != nil {
			t.Fatalf("dpkg-divert: %v: %s", err, out)
		}
	}
	first := w.build("app", "1", map[string]string{"usr/share/app/text": "one", "usr/share/app/late": "late", "usr/share/app/own": "one"}, nil, nil)
	second := w.build("app", "2", map[string]string{"usr/share/app/text": "two", "usr/share/app/late": "late", "usr/share/app/own": "two"}, nil, nil)
	w.dpkg("-i", first)
	divert("--local", "--divert", "/usr/share/app/text.real", "--add", "/usr/share/app/text")
	divert("--package", "app", "--divert", "/usr/share/app/own.other", "--add", "/usr/share/app/own")
	w.write("usr/share/app/text", "mine", 0o644)
	w.MustCapture("m", w.top)
	w.dpkg("-i", second)
	divert("--local", "--divert", "/usr/share/app/late.real", "--add", "/usr/share/app/late")
	w.write("usr/share/app/late", "mine", 0o644)
	changed := []string{"changed usr/share/app/late"}
	same(t, "an upgrade of what is diverted", w.live("m@1", false, &drift.Set{}), changed)
	w.MustCapture("m", w.top)
	set, rows := w.between("m@1", "m@2")
	same(t, "between snapshots", rows, changed)
	if got := groups(set); len(got) != 2 || got[0] != "package app 1 2 4" { // with the configuration
		t.Errorf("explained: %q", got)
	}
	w.write("usr/share/app/text", "two", 0o644)
	w.write("usr/share/app/own.other", "two", 0o644)
	same(t, "what the package does not have there", w.live("m@2", false, &drift.Set{}), []string{"added usr/share/app/own.other", "changed usr/share/app/text"})
}
