package restore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/restore"
	"knowngood/snapshot/check"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/chunk"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

// forge commits a snapshot of entries of the caller's choice, as whoever has
// taken a host can. Files in contents get chunks that hold them.
func forge(w *enginetest.World, entries []*manifest.Entry, contents map[string]string) {
	w.T.Helper()
	forgeRoot(w, entries, contents, func(*statement.RootBody) {})
}

// forgeRoot is forge with a root that was changed before it was signed.
func forgeRoot(w *enginetest.World, entries []*manifest.Entry, contents map[string]string, change func(*statement.RootBody)) {
	w.T.Helper()
	r := w.Open(w.State)
	host, err := r.Host(w.Ctx)
	w.Check(err)
	epoch, err := r.CurrentEpoch(w.Ctx)
	w.Check(err)
	ix, err := r.OpenIndex(w.Ctx, host, objects.Verification{})
	w.Check(err)
	defer ix.Close()
	writer, err := r.NewWriter(w.Ctx, host, epoch, ix, objects.WriterOptions{})
	w.Check(err)
	defer writer.Abort()
	framer, hasher := writer.NewFramer(), chunk.NewHasher(host.Domain.ChunkKey())
	refs := map[*manifest.Entry]objects.ChunkRef{}
	for _, e := range entries {
		if text, ok := contents[e.Path]; ok {
			id := hasher.ID([]byte(text))
			refs[e], _, err = framer.Add(id, []byte(text))
			w.Check(err)
			e.Size, e.Chunks = uint64(len(text)), []manifest.Chunk{{ID: id, Len: uint32(len(text))}}
		}
	}
	w.Check(writer.CloseChunks())
	for e, ref := range refs {
		in, frame, length, offset, err := writer.Place(ref, nil)
		w.Check(err)
		e.Chunks[0].Loc = manifest.Location{Pack: in, FrameOffset: frame, FrameLen: length, Offset: offset}
	}
	runs, err := ix.Publish(w.Ctx, writer)
	w.Check(err)
	counts := statement.Counts{}
	for _, e := range entries {
		counts.ContentBytes += e.ContentSize()
	}
	var enc manifest.Encoder
	content := enc.Append(nil, entries, nil)
	id, err := manifest.SegmentID(host.Domain.SegmentKey(), content)
	w.Check(err)
	frame, err := writer.AddSegment(id, pack.NewCompressor(pack.LevelDefault).Frame(nil, content), len(content))
	w.Check(err)
	p := writer.SegmentPlace(frame)
	table := &manifest.Table{Segments: []manifest.Segment{{Offset: p.Offset, SealedLen: p.SealedLen, ContentLen: uint32(len(content)), ID: id, Entries: uint32(len(entries))}}}
	at, err := writer.FinishManifest(table.Append(nil), pack.ObjectList{})
	w.Check(err)
	b := &statement.RootBody{Started: time.Now(), Status: statement.Complete, Manifest: at.Manifest(), Content: table.Digest(), Objects: pack.ObjectsDigest(nil), Counts: counts, Version: "forged"}
	change(b)
	commit, err := r.Begin(w.Ctx, host, "e")
	w.Check(err)
	_, err = commit.Next(w.Ctx)
	w.Check(err)
	_, _, err = commit.Put(w.Ctx, b, runs, time.Now())
	w.Check(err)
}

func folder(path string) *manifest.Entry {
	return &manifest.Entry{Path: path, Type: manifest.Dir, Mode: 0o755}
}
func file(path string) *manifest.Entry {
	return &manifest.Entry{Path: path, Type: manifest.File, Mode: 0o644}
}
func symlink(path, target string) *manifest.Entry {
	return &manifest.Entry{Path: path, Type: manifest.Symlink, Mode: 0o777, Target: target}
}
func linked(e *manifest.Entry, group uint64) *manifest.Entry { e.Link = group; return e }

// manyChunks is a file of n chunks, by its entry, of the greatest length.
func manyChunks(path string, n int) *manifest.Entry {
	e := file(path)
	ref := &pack.Ref{Kind: wire.KindPack, Size: 1 << 20}
	for range n {
		e.Chunks = append(e.Chunks, manifest.Chunk{Len: pack.MaxChunk, Loc: manifest.Location{Pack: ref, FrameOffset: pack.FirstOffset, FrameLen: 100}})
	}
	e.Size = uint64(n) * pack.MaxChunk
	return e
}

// pathBomb is n fifos whose paths of a megabyte are each a byte longer than the
// one before: a few bytes each in the store.
func pathBomb(n int) []*manifest.Entry {
	path := strings.Repeat("a", manifest.MaxPath)
	entries := []*manifest.Entry{folder("")}
	for i := range n {
		entries = append(entries, &manifest.Entry{Path: path[:len(path)-n+i], Type: manifest.Fifo, Mode: 0o644})
	}
	return entries
}

// hostile manifests; OUT stands for a directory outside the target.
var hostile = []struct {
	name    string
	entries func(out string) []*manifest.Entry
	refused string // what the error or a problem contains; "" when the tree can be made as listed
}{
	{"a path that climbs", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), file("../x")} }, "malformed"},
	{"a path that climbs further down", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), folder("a"), file("a/../../x")} }, "malformed"},
	{"a path that ends in dots", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), symlink("a/..", "x")} }, "malformed"},
	{"an absolute path", func(out string) []*manifest.Entry { return []*manifest.Entry{folder(""), file(out + "/x")} }, "malformed"},
	{"a path with NUL", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), file("a\x00b")} }, "malformed"},
	{"an empty component", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), file("a//x")} }, "malformed"},
	{"one path twice", func(out string) []*manifest.Entry { return []*manifest.Entry{folder(""), symlink("a", out), file("a")} }, "malformed"},
	{"paths out of order", func(out string) []*manifest.Entry { return []*manifest.Entry{folder(""), file("b"), symlink("a", out)} }, "malformed"},
	{"a file below a symlink", func(out string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), symlink("a", out), file("a/x")}
	}, "a/x"},
	{"a directory below a symlink", func(out string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), symlink("a", out), folder("a/d"), file("a/d/x")}
	}, "a/d"},
	{"a symlink below a symlink", func(out string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), symlink("a", out), symlink("a/x", "/")}
	}, "a/x"},
	{"a relative symlink that climbs", func(string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), symlink("a", "../outside"), file("a/x")}
	}, "a/x"},
	{"a file below a file", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), file("a"), file("a/x")} }, "a/x"},
	{"a link group of a symlink and a file", func(out string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), linked(symlink("a", out+"/kept"), 7), linked(file("x"), 7)}
	}, "x"},
	{"a link group of a file and a symlink", func(out string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), linked(file("a"), 7), linked(symlink("b", out+"/kept"), 7), linked(file("x"), 7)}
	}, "b"},
	{"a link below a symlink", func(out string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), linked(file("a"), 7), symlink("b", out), linked(file("b/x"), 7)}
	}, "b/x"},
	{"the marker of a restore as a symlink", func(out string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), symlink(".knowngood-restore", out+"/kept")}
	}, ".knowngood-restore"},
	{"a name too long", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), file(strings.Repeat("n", 300))} }, "name too long"},
	{"a target too long", func(string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), symlink("a", strings.Repeat("t", 9000))}
	}, "name too long"},
	{"a path of a megabyte whose directories are missing", func(string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), file(strings.Repeat("a/", 500_000) + "x")}
	}, "no such file"},
	{"more content than there is room", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), manyChunks("a", 100_000)} }, "not enough free space"},
	{"a file in a pack that does not exist", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), manyChunks("a", 1)} }, "missing in the store"},
	{"paths that are large together", func(string) []*manifest.Entry { return pathBomb(100) }, "malformed"},
	{"attributes that are large together", func(string) []*manifest.Entry {
		set := []manifest.Xattr{{Name: "user.a", Value: make([]byte, manifest.MaxXattrValue)}}
		entries := []*manifest.Entry{folder("")}
		for i := range 5000 {
			entries = append(entries, &manifest.Entry{Path: fmt.Sprintf("%06d", i), Type: manifest.Fifo, Mode: 0o644, Xattrs: set})
		}
		return entries
	}, "malformed"},
	{"an unknown type", func(string) []*manifest.Entry { return []*manifest.Entry{folder(""), {Path: "a", Type: 9}} }, "malformed"},
	{"a mode with the bits of a type", func(string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), {Path: "a", Type: manifest.Dir, Mode: unix.S_IFBLK | 0o644}}
	}, "malformed"},
	{"a size beyond what a file can have", func(string) []*manifest.Entry {
		e := file("a")
		e.Size, e.Holes = 1<<63, []manifest.Extent{{Offset: 0, Length: 1 << 63}}
		return []*manifest.Entry{folder(""), e}
	}, "malformed"},
	{"holes that overflow", func(string) []*manifest.Entry {
		e := file("a")
		e.Size, e.Holes = 1<<20, []manifest.Extent{{Offset: 1 << 19, Length: 1<<63 - 1}, {Offset: 1 << 18, Length: 1}}
		return []*manifest.Entry{folder(""), e}
	}, "malformed"},
	{"a symlink that leads outside, alone", func(out string) []*manifest.Entry {
		return []*manifest.Entry{folder(""), symlink("a", out), symlink("b", "a/kept")}
	}, ""},
}

func hostileByName(t *testing.T, name string) []*manifest.Entry {
	t.Helper()
	for _, h := range hostile {
		if h.name == name {
			return h.entries("")
		}
	}
	t.Fatalf("no hostile manifest is called %q", name)
	return nil
}

// arena is a directory with a target and what lies outside it.
type arena struct {
	target, outside string
	before          treetest.Tree
}

func newArena(t *testing.T) *arena {
	base := treetest.TempDir(t)
	a := &arena{filepath.Join(base, "target"), filepath.Join(base, "outside"), nil}
	write(t, filepath.Join(a.outside, "kept"), "what was there")
	write(t, filepath.Join(a.outside, "d", "kept"), "what was there")
	if err := os.Mkdir(a.target, 0o755); err != nil {
		t.Fatal(err)
	}
	a.before = treetest.Snapshot(t, a.outside)
	return a
}

// intact asserts that nothing outside the target was touched.
func (a *arena) intact(t *testing.T) {
	t.Helper()
	a.before.Equal(t, a.outside, treetest.Options{})
	names, err := os.ReadDir(filepath.Dir(a.target))
	if err != nil || len(names) != 2 {
		t.Errorf("beside the target there is %v, %v", names, err)
	}
}

func TestHostile(t *testing.T) {
	t.Parallel()
	t.Run("a hostile manifest writes nothing outside the target", testAHostileManifestWritesNothingOutsideTheTarget)
	t.Run("a table that the root was not signed for is refused", testATableThatTheRootWasNotSignedForIsRefused)
	t.Run("a huge sparse file takes no room", testAHugeSparseFileTakesNoRoom)
	t.Run("symlinks in the target are replaced and not followed", testSymlinksInTheTargetAreReplacedAndNotFollowed)
	t.Run("directories that turn into symlinks meanwhile are not followed", testDirectoriesThatTurnIntoSymlinksMeanwhileAreNotFollowed)
}

func TestHostileSequentially(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("a large list in a few bytes is damage", testALargeListInAFewBytesIsDamage)
}

func testAHostileManifestWritesNothingOutsideTheTarget(t *testing.T) {
	t.Parallel()
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			a := newArena(t)
			w := enginetest.New(t, storagetest.NewMemory())
			entries := h.entries(a.outside)
			contents := map[string]string{}
			for _, e := range entries {
				if e.Type == manifest.File && e.Size == 0 {
					contents[e.Path] = "hostile content"
				}
			}
			forge(w, entries, contents)
			for _, o := range []restore.Options{{}, {DryRun: true}, {InPlace: true}, {InPlace: true, Delete: true}} {
				if o.InPlace && h.refused == "not enough free space" {
					continue // in place, room is not counted
				}
				o.Target = a.target
				res, err := w.TryRestore("e", o)
				a.intact(t)
				var said []string
				if err != nil {
					said = append(said, err.Error())
				} else {
					for _, p := range res.Problems {
						said = append(said, p.Path+": "+p.Err.Error())
					}
				}
				refused := slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, h.refused) })
				// A dry run makes nothing that could fail; in place there is no marker.
				certain := !o.DryRun && !(o.InPlace && strings.HasPrefix(h.refused, ".knowngood"))
				switch {
				case h.refused == "" && len(said) > 0:
					t.Errorf("%+v: %q", o, said)
				case h.refused != "" && certain && !refused:
					t.Errorf("%+v: nothing says %q, but %q", o, h.refused, said)
				}
				if err := treetest.Empty(a.target); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// testALargeListInAFewBytesIsDamage: 60,000 paths of a megabyte take 60 GiB, and
// a hundred kilobytes in the store.
func testALargeListInAFewBytesIsDamage(t *testing.T) {
	w := enginetest.New(t, storagetest.NewMemory())
	forge(w, pathBomb(3000), nil)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	report, err := check.Run(w.Ctx, w.Bare(), check.Options{})
	w.Check(err)
	if len(report.Damage) != 1 || !strings.Contains(report.Damage[0].Err.Error(), "the paths of the segment add up to more than allowed") {
		t.Errorf("check finds %+v", report.Damage)
	}
	res, err := w.TryRestore("e", restore.Options{Target: t.TempDir()})
	if err != nil || len(res.Problems) != 1 || !authentic.Damaged(res.Problems[0].Err) {
		t.Errorf("restore: %v, %+v", err, res)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<30 {
		t.Errorf("reading took %d MiB of memory", used>>20)
	}
}

func testATableThatTheRootWasNotSignedForIsRefused(t *testing.T) {
	t.Parallel()
	w := enginetest.New(t, storagetest.NewMemory())
	forgeRoot(w, []*manifest.Entry{folder(""), file("a")}, map[string]string{"a": "content"}, func(b *statement.RootBody) { b.Content[0]++ })

	_, err := w.TryRestore("e", restore.Options{Target: t.TempDir()})
	if !authentic.Damaged(err) || !strings.Contains(err.Error(), "not the one that the root was signed for") {
		t.Errorf("restore: %v", err)
	}
	report, err := check.Run(w.Ctx, w.Bare(), check.Options{})
	w.Check(err)
	if len(report.Damage) != 1 {
		t.Errorf("check finds %+v", report.Damage)
	}
}

func testAHugeSparseFileTakesNoRoom(t *testing.T) {
	t.Parallel()
	w := enginetest.New(t, storagetest.NewMemory())
	e := file("a")
	e.Size, e.Holes = 1<<40, []manifest.Extent{{Offset: 0, Length: 1 << 40}}
	forge(w, []*manifest.Entry{folder(""), e}, nil)
	target := filepath.Join(treetest.TempDir(t), "target")
	if _, err := w.TryRestore("e", restore.Options{Target: target}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(target, "a"), &st); err != nil {
		t.Skip("the file system does not have files of that size")
	}
	if st.Size != 1<<40 || st.Blocks > 64 {
		t.Errorf("%d bytes, %d blocks", st.Size, st.Blocks)
	}
}

func testSymlinksInTheTargetAreReplacedAndNotFollowed(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	w := enginetest.New(t, storagetest.NewMemory())
	forge(w, []*manifest.Entry{folder(""), folder("d"), file("d/kept"), file("kept")}, map[string]string{"d/kept": "new", "kept": "new"})
	for _, name := range []string{"d", "kept"} {
		if err := os.Symlink(filepath.Join(a.outside, name), filepath.Join(a.target, name)); err != nil {
			t.Fatal(err)
		}
	}
	w.Restore("e", restore.Options{Target: a.target, InPlace: true})
	a.intact(t)
	for _, name := range []string{"d/kept", "kept"} {
		if b, err := os.ReadFile(filepath.Join(a.target, name)); err != nil || string(b) != "new" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func testDirectoriesThatTurnIntoSymlinksMeanwhileAreNotFollowed(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	w := enginetest.New(t, storagetest.NewMemory())
	entries, contents := []*manifest.Entry{folder("")}, map[string]string{}
	for d := range 5 {
		entries = append(entries, folder(fmt.Sprint(d)))
		for f := range 20 {
			path := fmt.Sprintf("%d/%02d", d, f)
			entries = append(entries, file(path))
			contents[path] = "content of " + path
		}
	}
	forge(w, entries, contents)
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(a.target, fmt.Sprint(i%5))
			aside := name + ".aside"
			if os.Rename(name, aside) == nil {
				os.Symlink(a.outside, name)
				time.Sleep(50 * time.Microsecond)
				os.Remove(name)
				os.Rename(aside, name)
			}
		}
	})
	for range 20 {
		if _, err := w.TryRestore("e", restore.Options{Target: a.target, InPlace: true}); err != nil && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOENT) {
			t.Log(err) // the attacker may well make a restore fail
		}
	}
	close(stop)
	attacker.Wait()
	a.intact(t)
}
