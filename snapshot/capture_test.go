package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func write(t testing.TB, path, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func random(seed uint64, n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return string(b)
}

// settle waits until files written just now are trusted by their time stamps.
func settle() { time.Sleep(60 * time.Millisecond) }

// held is a store that holds the first pack up until meanwhile has run: by
// then the walk has seen all of a small tree, and most of it is still to be
// read.
type held struct {
	storage.Store
	once      *sync.Once
	meanwhile func()
}

func (h held) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if strings.Contains(key, "/packs/") {
		h.once.Do(func() {
			time.Sleep(300 * time.Millisecond)
			h.meanwhile()
		})
	}
	return h.Store.Put(ctx, key, body, o)
}

// problems of a result, as path below src to reason.
func problems(res *snapshot.Result, src string) map[string]string {
	out := map[string]string{}
	for _, p := range res.Problems {
		out[strings.TrimPrefix(p.Path, enginetest.Under(src)+"/")] = p.Reason
	}
	return out
}

func entry(w *enginetest.World, ref, path string) *manifest.Entry {
	w.T.Helper()
	e, err := w.Tree(ref).Find(w.Ctx, enginetest.Under(path))
	w.Check(err)
	return e
}

func TestCapture(t *testing.T) {
	t.Run("what changes after the walk saw it is captured as it is read or named", whatChangesAfterTheWalkSawItIsCapturedAsItIsReadOrNamed)
	t.Run("a file that never holds still is flagged", aFileThatNeverHoldsStillIsFlagged)
	t.Run("what may not be read is named and the rest captured", whatMayNotBeReadIsNamedAndTheRestCaptured)
	t.Run("a sparse file costs what it holds", aSparseFileCostsWhatItHolds)
	t.Run("the output of a command is captured as a file", theOutputOfACommandIsCapturedAsAFile)
	t.Run("a command that fails fails the snapshot", aCommandThatFailsFailsTheSnapshot)
	t.Run("a command and a file cannot have one path", aCommandAndAFileCannotHaveOnePath)
	t.Run("two commands cannot have one path", twoCommandsCannotHaveOnePath)
	t.Run("a dry run writes nothing and says what a run would read", aDryRunWritesNothingAndSaysWhatARunWouldRead)
	t.Run("a damaged local manifest costs time only", aDamagedLocalManifestCostsTimeOnly)
	t.Run("content that two runs stored at once is found by both afterwards", contentThatTwoRunsStoredAtOnceIsFoundByBothAfterwards)
	t.Run("sources", testSources)
}

// Files that are read again may be found in the pack of another run. The segments
// of the last manifest then have other hints than the host's copy, of another length.
func contentThatTwoRunsStoredAtOnceIsFoundByBothAfterwards(t *testing.T) {
	t.Parallel()
	dir := treetest.TempDir(t)
	src, more := filepath.Join(dir, "src"), filepath.Join(dir, "more") // more is stored first: offsets differ
	w := enginetest.New(t, storagetest.NewMemory())
	for _, path := range []string{src, more} {
		w.Check(os.Mkdir(path, 0o755))
	}
	for i := range 300 {
		write(t, filepath.Join(src, fmt.Sprintf("%03d", i)), random(uint64(i), 100))
		write(t, filepath.Join(more, fmt.Sprintf("%03d", i)), random(uint64(1000+i), 1000))
	}
	settle()
	w.Over(held{w.Store, &sync.Once{}, func() { w.MustCapture("b", more, src) }}).MustCapture("a", src)

	for i := range 300 { // the ctime changes: it is read again
		path := filepath.Join(src, fmt.Sprintf("%03d", i))
		info, err := os.Stat(path)
		w.Check(err)
		w.Check(os.Chmod(path, info.Mode()))
	}
	settle()
	sources := map[string][]string{"a": {src}, "b": {more, src}}
	for env, paths := range sources {
		if res := w.MustCapture(env, paths...); res.Read < 300 || res.NewBytes > 0 {
			t.Errorf("%s: %d files are read, and %d bytes are stored", env, res.Read, res.NewBytes)
		}
	}
	write(t, filepath.Join(src, "000"), "changed")
	settle()
	want := treetest.Snapshot(t, src)
	for env, paths := range sources {
		w.Restores(w.MustCapture(env, paths...).Snapshot.Ref(), src, want)
	}
	w.Clean()
}

func whatChangesAfterTheWalkSawItIsCapturedAsItIsReadOrNamed(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	for i := range 100 {
		write(t, filepath.Join(src, "a", string(rune('a'+i/26))+string(rune('a'+i%26))), random(uint64(i), 400<<10))
	}
	for _, name := range []string{"gone", "grown", "shrunk", "turned-to-directory", "turned-to-symlink", "folder/gone-with-it"} {
		write(t, filepath.Join(src, "z", name), "as it was at first")
	}
	settle()
	w := enginetest.New(t, storagetest.NewMemory())
	memory := w.Store
	do := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	z := filepath.Join(src, "z")
	w.Store = held{memory, new(sync.Once), func() {
		do(os.Remove(filepath.Join(z, "gone")))
		do(os.WriteFile(filepath.Join(z, "grown"), []byte("as it was at first, and more"), 0o644))
		do(os.WriteFile(filepath.Join(z, "shrunk"), []byte("less"), 0o644))
		do(os.Remove(filepath.Join(z, "turned-to-directory")))
		do(os.Mkdir(filepath.Join(z, "turned-to-directory"), 0o755))
		do(os.Remove(filepath.Join(z, "turned-to-symlink")))
		do(os.Symlink("/etc/passwd", filepath.Join(z, "turned-to-symlink")))
		do(os.RemoveAll(filepath.Join(z, "folder")))
	}}
	res, err := w.Capture("e", nil, src)
	w.Check(err)
	w.Store = memory
	named := problems(res, src)
	for _, path := range []string{"z/gone", "z/turned-to-directory", "z/turned-to-symlink", "z/folder/gone-with-it"} {
		if named[path] == "" {
			t.Errorf("%s is not named, but %v", path, named)
		}
	}
	if !res.Partial() || res.Snapshot.Body.Status != statement.Partial || res.Snapshot.Body.Problems != res.Count {
		t.Errorf("the snapshot says %+v", res.Snapshot.Body)
	}
	if table := w.Tree("e").Table; len(table.Problems) != len(res.Problems) {
		t.Errorf("the manifest has the problems %v", table.Problems)
	}
	out := treetest.TempDir(t)
	back, err := w.TryRestore("e", restore.Options{Under: enginetest.Under(z), Target: out})
	w.Check(err)
	var incomplete []string
	for _, p := range back.Problems {
		if !errors.Is(p.Err, restore.ErrIncomplete) {
			t.Errorf("restore: %q: %v", p.Path, p.Err)
		}
		incomplete = append(incomplete, filepath.Base(p.Path))
	}
	if !slices.Equal(incomplete, []string{"turned-to-directory", "turned-to-symlink"}) {
		t.Errorf("the restore names as incomplete %q", incomplete)
	}
	for name, want := range map[string]string{"grown": "as it was at first, and more", "shrunk": "less"} {
		if b, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"turned-to-symlink", "turned-to-directory"} {
		if _, err := os.Lstat(filepath.Join(out, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is restored, though it was not read: %v", name, err)
		}
	}
	w.Clean()
	settle()
	if again := w.MustCapture("e", src); again.Snapshot.Body.Status != statement.Complete {
		t.Errorf("the next snapshot: %+v", again)
	}
	w.Restores("e", src, treetest.Snapshot(t, src))
}

func aFileThatNeverHoldsStillIsFlagged(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	path := filepath.Join(src, "log")
	write(t, path, random(1, 24<<20))
	w := enginetest.New(t, storagetest.NewMemory())
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for {
			select {
			case <-stop:
				return
			default:
				f.WriteString("a line\n")
				time.Sleep(20 * time.Microsecond)
			}
		}
	})
	res, err := w.Capture("e", nil, src)
	close(stop)
	writer.Wait()
	w.Check(err)
	if reason := problems(res, src)["log"]; !strings.Contains(reason, "changed while it was read") {
		t.Errorf("problems: %v", res.Problems)
	}
	if e := entry(w, "e", path); e.Flags&manifest.Changed == 0 || e.Size < 24<<20 {
		t.Errorf("entry: flags %v, %d bytes", e.Flags, e.Size)
	}
	w.Clean()
	settle()
	if again := w.MustCapture("e", src); again.Read != 1 {
		t.Errorf("a flagged file is taken for unchanged: %d read", again.Read)
	}
	w.Restores("e", src, treetest.Snapshot(t, src))
}

func whatMayNotBeReadIsNamedAndTheRestCaptured(t *testing.T) {
	if !enginetest.AsNobody(t) {
		return
	}
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "open"), "content")
	write(t, filepath.Join(src, "closed"), "secret")
	write(t, filepath.Join(src, "folder", "below"), "content")
	for _, name := range []string{"closed", "folder"} {
		if err := os.Chmod(filepath.Join(src, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	w := enginetest.New(t, storagetest.NewMemory())
	res, err := w.Capture("e", nil, src)
	w.Check(err)
	named := problems(res, src)
	if len(named) != 2 || !strings.Contains(named["closed"], "permission denied") || !strings.Contains(named["folder"], "permission denied") {
		t.Errorf("problems: %v", named)
	}
	for name, unreadable := range map[string]bool{"open": false, "closed": true, "folder": true} {
		if e := entry(w, "e", filepath.Join(src, name)); e == nil || e.Flags&manifest.Incomplete != 0 != unreadable {
			t.Errorf("%s: %+v", name, e)
		}
	}
	settle()
	for _, name := range []string{"closed", "folder"} {
		if err := os.Chmod(filepath.Join(src, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	w.MustCapture("e", src)
	w.Restores("e", src, treetest.Snapshot(t, src))
}

func aSparseFileCostsWhatItHolds(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	f, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 8 << 30
	for _, at := range []int64{1 << 20, 5 << 30, size - 4096} {
		if _, err := f.WriteAt([]byte(random(uint64(at), 4096)), at); err != nil {
			t.Fatal(err)
		}
	}
	w := enginetest.New(t, storagetest.NewMemory())
	res := w.MustCapture("e", src)
	if res.Bytes != size || res.NewBytes > 1<<20 {
		t.Errorf("%d bytes, %d of them new", res.Bytes, res.NewBytes)
	}
	out := treetest.TempDir(t)
	w.Restore("e", restore.Options{Under: enginetest.Under(src), Target: out})
	g, err := os.Open(filepath.Join(out, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(g.Fd()), &st); err != nil || st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("restored: %d bytes, %d on disk, %v", st.Size, st.Blocks*512, err)
	}
	for _, at := range []int64{1 << 20, 5 << 30, size - 4096} {
		b := make([]byte, 4096)
		if _, err := g.ReadAt(b, at); err != nil || string(b) != random(uint64(at), 4096) {
			t.Errorf("content at %d is another (%v)", at, err)
		}
	}
}

// output is a command source that writes text and ends with err.
func output(as, text string, err error) snapshot.Command {
	return snapshot.Command{Argv: []string{"dump", as}, As: as, Run: func(_ context.Context, _ []string, out io.Writer) error {
		for chunk := range slices.Chunk([]byte(text), 10_000) {
			if _, werr := out.Write(chunk); werr != nil {
				return werr
			}
		}
		return err
	}}
}

func theOutputOfACommandIsCapturedAsAFile(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "file"), "content")
	w := enginetest.New(t, storagetest.NewMemory())
	dump := random(3, 3<<20)
	with := func(o *snapshot.Options) {
		o.Commands = []snapshot.Command{output("db/web.dump", dump, nil), output("zz.dump", "", nil), output(enginetest.Under(src)+"/within", "output", nil), output("db/a", "small", nil)}
	}
	res, err := w.Capture("e", with, src)
	w.Check(err)
	if res.Partial() || res.Files != 5 {
		t.Errorf("result: %+v", res)
	}
	out := treetest.TempDir(t)
	w.Restore("e", restore.Options{Target: out})
	for path, want := range map[string]string{"db/web.dump": dump, "zz.dump": "", "db/a": "small", enginetest.Under(src) + "/within": "output", enginetest.Under(src) + "/file": "content"} {
		if b, err := os.ReadFile(filepath.Join(out, path)); err != nil || string(b) != want {
			t.Errorf("%s: %d bytes, %v", path, len(b), err)
		}
	}
	if e := entry(w, "e", "/db/web.dump"); e.Flags&manifest.Command == 0 || e.Mode != 0o600 {
		t.Errorf("entry: %+v", e)
	}
	w.Clean()
	again, err := w.Capture("e", with, src)
	w.Check(err)
	if again.NewBytes > 0 {
		t.Errorf("the same output again is %d new bytes", again.NewBytes)
	}
}

func aCommandThatFailsFailsTheSnapshot(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "file"), "content")
	w := enginetest.New(t, storagetest.NewMemory())
	dump := random(4, 3<<20)
	exit := errors.New("exit status 1: no such database")
	_, err := w.Capture("e", func(o *snapshot.Options) { o.Commands = []snapshot.Command{output("db.dump", dump, exit)} }, src)
	var failed *snapshot.CommandError
	if !errors.As(err, &failed) || !errors.Is(err, exit) || failed.As != "db.dump" {
		t.Errorf("error: %v", err)
	}
	if _, _, err := w.Snapshot("e"); !errors.Is(err, history.ErrNoSnapshot) {
		t.Errorf("there is a snapshot: %v", err)
	}
	res, err := w.Capture("e", func(o *snapshot.Options) { o.Commands = []snapshot.Command{output("db.dump", dump, nil)} }, src)
	w.Check(err)
	if res.Snapshot.Number != 1 {
		t.Errorf("the next is %s", res.Snapshot.Ref())
	}
	w.Clean()
}

func aCommandAndAFileCannotHaveOnePath(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "file"), "content")
	w := enginetest.New(t, storagetest.NewMemory())
	for _, as := range []string{"/file", "/file/below"} {
		_, err := w.Capture("e", func(o *snapshot.Options) {
			o.Commands = []snapshot.Command{output(enginetest.Under(src)+as, "output", nil)}
		}, src)
		if err == nil || !strings.Contains(err.Error(), "file") {
			t.Errorf("%s: %v", as, err)
		}
	}
}

func twoCommandsCannotHaveOnePath(t *testing.T) {
	t.Parallel()
	w := enginetest.New(t, storagetest.NewMemory())
	src := treetest.TempDir(t)
	for _, as := range [][2]string{{"a", "a"}, {"a", "a/b"}, {"a", "../b"}, {"a", ""}, {"/a", "b"}} {
		_, err := w.Capture("e", func(o *snapshot.Options) {
			o.Commands = []snapshot.Command{output(as[0], "x", nil), output(as[1], "y", nil)}
		}, src)
		if err == nil || !strings.Contains(err.Error(), "command source") {
			t.Errorf("%q: %v", as, err)
		}
	}
}

func aDryRunWritesNothingAndSaysWhatARunWouldRead(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	treetest.Generate(t, src, treetest.Seed(11), treetest.Shape{Nodes: 30, MaxFile: 100 << 10, LargeDir: 10})
	settle()
	store := storagetest.NewFaulty(storagetest.NewMemory())
	w := enginetest.New(t, store)
	first := w.MustCapture("e", src)
	write(t, filepath.Join(src, "one"), "new")
	settle()
	state := treetest.Snapshot(t, w.State)
	store.Clear()
	res, err := w.Capture("e", func(o *snapshot.Options) { o.DryRun = true }, src)
	w.Check(err)
	for _, op := range store.Log() {
		if op.Op == storagetest.Put || op.Op == storagetest.Delete {
			t.Errorf("%s %s", op.Op, op.Key)
		}
	}
	state.Equal(t, w.State, treetest.Options{IgnoreRoot: true})
	if res.Snapshot != nil || res.Read != 1 || res.Files != first.Files+1 {
		t.Errorf("the dry run says %+v", res)
	}
	if next := w.MustCapture("e", src); next.Read != 1 || next.Totals != res.Totals {
		t.Errorf("the run reads %d files: %+v, the dry run said %+v", next.Read, next.Totals, res.Totals)
	}
}

// The host's copy of the last manifest is a help: when it is damaged, more is
// read, and the snapshot is as good.
func aDamagedLocalManifestCostsTimeOnly(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	treetest.Generate(t, src, treetest.Seed(12), treetest.Shape{Nodes: 60, MaxFile: 100 << 10, LargeDir: 400, Without: []treetest.Part{treetest.DeepPaths}})
	settle()
	memory := storagetest.NewMemory()
	base := enginetest.New(t, memory)
	base.MustCapture("e", src)
	want := treetest.Snapshot(t, src)
	file := base.Open(base.State).State.Dir().Path("env", "e", "manifest")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func([]byte) []byte{
		"empty":                  func([]byte) []byte { return nil },
		"first byte":             func(b []byte) []byte { b[0] ^= 1; return b },
		"a byte of a block":      func(b []byte) []byte { b[100] ^= 1; return b },
		"length of a block":      func(b []byte) []byte { b[24] ^= 0x80; return b },
		"a byte in the middle":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"a byte of the trailer":  func(b []byte) []byte { b[len(b)-100] ^= 1; return b },
		"offset of the trailer":  func(b []byte) []byte { b[len(b)-12] ^= 1; return b },
		"last byte":              func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"half of it":             func(b []byte) []byte { return b[:len(b)/2] },
		"twice":                  func(b []byte) []byte { return append(b, b...) },
		"without its first page": func(b []byte) []byte { return b[4096:] },
	} {
		t.Run(name, func(t *testing.T) {
			w := base.With(t, memory)
			file := w.Open(w.State).State.Dir().Path("env", "e", "manifest")
			if err := os.WriteFile(file, damage(bytes.Clone(whole)), 0o600); err != nil {
				t.Fatal(err)
			}
			res := w.MustCapture("e", src)
			if res.NewBytes > 0 {
				t.Errorf("%d bytes are stored again", res.NewBytes)
			}
			w.Restores(res.Snapshot.Ref(), src, want)
			w.Clean()
			settle()
			if next := w.MustCapture("e", src); next.Read > 0 {
				t.Errorf("the run after that reads %d files", next.Read)
			}
		})
	}
}

func testSources(t *testing.T) {
	t.Parallel()
	src := treetest.TempDir(t)
	write(t, filepath.Join(src, "a"), "12345")
	write(t, filepath.Join(src, "in", "b"), "123")
	write(t, filepath.Join(src, "in", "deep", "c"), "1")
	write(t, filepath.Join(src, "z"), "12")
	w := enginetest.New(t, storagetest.NewMemory())
	res := w.MustCapture("e", src, filepath.Join(src, "in"))

	t.Run("are recorded with what each contributed, an entry counting for the innermost", func(t *testing.T) {
		got := w.Tree("e").Table.Sources
		want := []manifest.Counts{{Files: 2, Directories: 1, Bytes: 7}, {Files: 2, Directories: 2, Bytes: 4}}
		if len(got) != 2 || got[0].Path != src || got[0].Counts != want[0] || got[1].Counts != want[1] {
			t.Errorf("%+v", got)
		}
	})

	t.Run("are counted in the root under a tag that does not show the path", func(t *testing.T) {
		got := res.Snapshot.Body.Sources
		if len(got) != 2 || got[0].Files != 2 || got[1].Bytes != 4 || got[0].Tag == got[1].Tag || got[0].Tag != res.Snapshot.Domain.SourceTag(src) {
			t.Errorf("%+v", got)
		}
	})
}
