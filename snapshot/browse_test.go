package snapshot_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"knowngood/internal/enginetest"
	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/snapshot/diff"
	"knowngood/snapshot/manifest"
	"knowngood/storage/history"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// manifests writes manifests of entries that no files stand behind. Segments that
// it has written before it does not write again.
type manifests struct {
	ctx    context.Context
	repo   *repository.Repository
	host   *trust.Host
	stored map[[32]byte]storedSegment
}

type storedSegment struct {
	manifest.Segment
	in pack.Ref
}

func newManifests(w *enginetest.World) *manifests {
	w.T.Helper()
	r := w.Open(w.State)
	r.Unlock(w.ID)
	host, err := r.Host(w.Ctx)
	w.Check(err)
	return &manifests{w.Ctx, r, host, map[[32]byte]storedSegment{}}
}

// write stores a manifest, and returns its tree. cut reports whether a segment
// ends after an entry, when it holds so many.
func (m *manifests) write(entries iter.Seq[*manifest.Entry], problems []manifest.Problem, cut func(e *manifest.Entry, held int) bool) (*snapshot.Tree, error) {
	epoch, err := m.repo.CurrentEpoch(m.ctx)
	if err != nil {
		return nil, err
	}
	index, err := m.repo.OpenIndex(m.ctx, m.host, objects.Verification{})
	if err != nil {
		return nil, err
	}
	defer index.Close()
	writer, err := m.repo.NewWriter(m.ctx, m.host, epoch, index, objects.WriterOptions{})
	if err != nil {
		return nil, err
	}
	defer writer.Abort()

	var (
		enc      manifest.Encoder
		comp     = pack.NewCompressor(pack.LevelFastest)
		key      = m.host.Domain.SegmentKey()
		segments []manifest.Segment
		frames   = map[[32]byte]*objects.Frame{}
		held     []*manifest.Entry
	)
	end := func() error {
		content := enc.Append(nil, held, nil)
		id, err := manifest.SegmentID(key, content)
		if err != nil {
			return err
		}
		segments = append(segments, manifest.Segment{ContentLen: uint32(len(content)), ID: id, Entries: uint32(len(held)), First: held[0].Path})
		held = held[:0]
		if _, ok := m.stored[id]; !ok {
			frames[id], err = writer.AddSegment(id, comp.Frame(nil, content), len(content))
		}
		return err
	}
	for e := range entries {
		if held = append(held, e); cut(e, len(held)) {
			if err := end(); err != nil {
				return nil, err
			}
		}
	}
	if len(held) > 0 {
		if err := end(); err != nil {
			return nil, err
		}
	}

	table := &manifest.Table{Problems: problems}
	container := func(in pack.Ref) int {
		i := slices.Index(table.Containers, in)
		if i < 0 {
			i = len(table.Containers)
			table.Containers = append(table.Containers, in)
		}
		return i + 1
	}
	for _, s := range segments {
		if f := frames[s.ID]; f != nil {
			place := writer.SegmentPlace(f)
			s.Offset, s.SealedLen = place.Offset, place.SealedLen
			if place.Container != nil {
				s.Container = container(*place.Container)
			}
		} else {
			old := m.stored[s.ID]
			s.Offset, s.SealedLen, s.ContentLen, s.Container = old.Offset, old.SealedLen, old.ContentLen, container(old.in)
		}
		table.Segments = append(table.Segments, s)
	}
	at, err := writer.FinishManifest(table.Append(nil), pack.ObjectList{})
	if err != nil {
		return nil, err
	}
	for _, s := range table.Segments {
		in := *at.Container
		if s.Container > 0 {
			in = table.Containers[s.Container-1]
		}
		m.stored[s.ID] = storedSegment{s, in}
	}
	body := &statement.RootBody{Manifest: at.Manifest(), Content: table.Digest()}
	root := &statement.Root{Environment: "e"}
	return snapshot.OpenTree(m.ctx, m.repo, &history.Snapshot{Host: m.host.Name, Environment: "e", Root: root, Body: body, Domain: m.host.Domain})
}

// randomEntries are those of a random tree: names that sort close to the slash,
// and that have control characters.
func randomEntries(t *rapid.T) map[string]*manifest.Entry {
	name := rapid.SampledFrom([]string{"a", "a.b", "a\x01", "a\n", "a0", "b", "\x01", "\xff", "-"})
	out := map[string]*manifest.Entry{"": {Type: manifest.Dir}}
	for _, parts := range rapid.SliceOfN(rapid.SliceOfN(name, 1, 4), 0, 40).Draw(t, "paths") {
		for i := range parts {
			path := strings.Join(parts[:i+1], "/")
			if out[path] == nil || i < len(parts)-1 {
				out[path] = &manifest.Entry{Path: path, Type: manifest.Dir}
			}
		}
	}
	for path, e := range out {
		if !hasChildren(out, path) {
			change(t, e)
		}
	}
	return out
}

func hasChildren(entries map[string]*manifest.Entry, dir string) bool {
	for path := range entries {
		if path != dir && manifest.Within(path, dir) {
			return true
		}
	}
	return false
}

// change makes something else of an entry that nothing lies below.
func change(t *rapid.T, e *manifest.Entry) {
	*e = manifest.Entry{Path: e.Path, Type: manifest.File}
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		e.Type = manifest.Dir
	case 1:
		e.Flags = manifest.ContentUnread
	case 2:
		e.Type, e.Target = manifest.Symlink, "t"
	case 3:
		e.Mode = 0o600
	default:
		e.Size = 1
		e.Chunks = []manifest.Chunk{{ID: manifest.ChunkID{rapid.Byte().Draw(t, "content")}, Len: 1, Loc: manifest.Location{Pack: &pack.Ref{Kind: wire.KindPack, Hash: [32]byte{rapid.Byte().Draw(t, "place")}}}}}
	}
}

func sorted(entries map[string]*manifest.Entry) []*manifest.Entry {
	out := make([]*manifest.Entry, 0, len(entries))
	for _, e := range entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *manifest.Entry) int { return manifest.Compare(a.Path, b.Path) })
	return out
}

// writeRandom stores entries with some of the boundaries that every manifest has,
// and some of its own.
func (m *manifests) writeRandom(t *rapid.T, entries map[string]*manifest.Entry) *snapshot.Tree {
	var problems []manifest.Problem
	own := rapid.Uint64().Draw(t, "boundaries")
	list := sorted(entries)
	for _, e := range list {
		if e.Flags != 0 {
			problems = append(problems, manifest.Problem{Path: e.Path, Reason: "unread"})
		}
	}
	at := 0
	tree, err := m.write(slices.Values(list), problems, func(e *manifest.Entry, _ int) bool {
		at++
		return len(e.Path)%3 == 0 || own>>(at%64)&3 == 3
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// plainDiff compares entries one by one.
func plainDiff(a, b map[string]*manifest.Entry, under string) []string {
	both := map[string]*manifest.Entry{}
	for path, e := range a {
		both[path] = e
	}
	for path, e := range b {
		both[path] = e
	}
	var out []string
	for _, e := range sorted(both) {
		x, y := a[e.Path], b[e.Path]
		change := diff.Change("")
		switch {
		case !manifest.Within(e.Path, under):
		case x == nil:
			change = diff.Added
		case y == nil:
			change = diff.Removed
		case x.Flags != 0 || y.Flags != 0:
			change = diff.Unread
		case x.Type != y.Type || x.Size != y.Size || x.Target != y.Target || x.Size > 0 && x.Chunks[0].ID != y.Chunks[0].ID:
			change = diff.Modified
		case x.Mode != y.Mode:
			change = diff.Metadata
		}
		if change != "" {
			out = append(out, fmt.Sprintf("%s %q", change, e.Path))
		}
	}
	return out
}

// paths gathers the paths of a tree's entries.
func paths(t *rapid.T, entries iter.Seq2[*manifest.Entry, error]) (out []string) {
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Path)
	}
	return out
}

func TestBrowse(t *testing.T) {
	t.Run("a listing has what the whole list has there, wherever segments end", testListings)
	t.Run("a diff has what a comparison of all entries has, wherever segments end", testDiffs)
	t.Run("a diff reads no segment that both snapshots have", testDiffReads)
}

func testListings(t *testing.T) {
	t.Parallel()
	m := newManifests(enginetest.New(t, storagetest.NewMemory()))
	rapid.Check(t, func(t *rapid.T) {
		entries := randomEntries(t)
		tree := m.writeRandom(t, entries)
		for _, dir := range append(sorted(entries), &manifest.Entry{Path: "a.b/missing"}, &manifest.Entry{Path: "zzz"}) {
			var children, below []string
			for _, e := range sorted(entries) {
				parent, _, nested := cutLast(e.Path)
				if e.Path == dir.Path || e.Path != "" && parent == dir.Path && (nested || dir.Path == "") {
					children = append(children, e.Path)
				}
				if manifest.Within(e.Path, dir.Path) {
					below = append(below, e.Path)
				}
			}
			if got := paths(t, tree.Children(m.ctx, dir.Path)); !slices.Equal(got, children) {
				t.Fatalf("children of %q: %q, want %q", dir.Path, got, children)
			}
			if got := paths(t, tree.Entries(m.ctx, dir.Path)); !slices.Equal(got, below) {
				t.Fatalf("below %q: %q, want %q", dir.Path, got, below)
			}
		}
	})
}

// cutLast cuts a path before its last name.
func cutLast(path string) (parent, name string, nested bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

func testDiffs(t *testing.T) {
	t.Parallel()
	m := newManifests(enginetest.New(t, storagetest.NewMemory()))
	rapid.Check(t, func(t *rapid.T) {
		a := randomEntries(t)
		b := map[string]*manifest.Entry{}
		for path, e := range a {
			c := *e
			b[path] = &c
		}
		for _, e := range sorted(a) {
			switch rapid.IntRange(0, 9).Draw(t, "what becomes of it") {
			case 0:
				if e.Path != "" && !hasChildren(b, e.Path) {
					delete(b, e.Path)
				}
			case 1:
				if !hasChildren(b, e.Path) {
					change(t, b[e.Path])
				}
			case 2:
				if e.Type == manifest.Dir && b[e.Path] != nil {
					path := strings.TrimPrefix(e.Path+"/new", "/")
					b[path] = &manifest.Entry{Path: path, Type: manifest.File}
					b[e.Path].Type = manifest.Dir
				}
			}
		}
		for path, e := range b { // what was changed may have got children
			if hasChildren(b, path) {
				*e = manifest.Entry{Path: path, Type: manifest.Dir, Mode: e.Mode}
			}
		}
		x, y := m.writeRandom(t, a), m.writeRandom(t, b)
		for _, under := range []string{"", "a", "a.b", "b/a"} {
			var got []string
			for d, err := range diff.Between(m.ctx, x, y, under) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%s %q", d.Change, d.Path))
			}
			if want := plainDiff(a, b, under); !slices.Equal(got, want) {
				t.Fatalf("below %q: %q, want %q", under, got, want)
			}
		}
	})
}

// largeTree yields dirs directories of n files each.
func largeTree(dirs, n int, changed string) iter.Seq[*manifest.Entry] {
	return func(yield func(*manifest.Entry) bool) {
		place := manifest.Location{Pack: &pack.Ref{Kind: wire.KindPack, Hash: [32]byte{1}}}
		for d := range dirs {
			dir := fmt.Sprintf("d%05d", d)
			if !yield(&manifest.Entry{Path: dir, Type: manifest.Dir, Mode: 0o755}) {
				return
			}
			for i := range n {
				e := &manifest.Entry{Path: fmt.Sprintf("%s/f%06d", dir, i), Type: manifest.File, Mode: 0o644, Size: 100,
					Chunks: []manifest.Chunk{{ID: manifest.ChunkID{byte(d), byte(d >> 8), byte(i), byte(i >> 8), byte(i >> 16)}, Len: 100, Loc: place}}}
				if e.Path == changed {
					e.Mode = 0o600
				}
				if !yield(e) {
					return
				}
			}
		}
	}
}

// cutAsWritersDo returns where a writer ends the segments of one manifest.
func cutAsWritersDo() func(e *manifest.Entry, held int) bool {
	entries := 0
	return func(e *manifest.Entry, held int) bool {
		entries++
		return manifest.CutAfter(e.Path, uint64(entries-held), held, 100*held)
	}
}

func testDiffReads(t *testing.T) {
	t.Parallel()
	store := storagetest.NewFaulty(storagetest.NewMemory())
	w := enginetest.New(t, store)
	m := newManifests(w)
	a, err := m.write(largeTree(3, 20_000, ""), nil, cutAsWritersDo())
	w.Check(err)
	b, err := m.write(largeTree(3, 20_000, "d00001/f010000"), nil, cutAsWritersDo())
	w.Check(err)

	inA, inB := manifest.Different(a.Table, b.Table, "")
	if len(a.Table.Segments) < 30 || len(inA) != 1 || len(inB) != 1 {
		t.Errorf("of %d segments %d and %d are read", len(a.Table.Segments), len(inA), len(inB))
	}
	store.Clear()
	var got []string
	for d, err := range diff.Between(w.Ctx, a, b, "") {
		w.Check(err)
		got = append(got, fmt.Sprintf("%s %s", d.Change, d.Path))
	}
	if want := []string{"metadata d00001/f010000"}; !slices.Equal(got, want) {
		t.Errorf("the diff is %q", got)
	}
	// Tables lie in containers that were read whole; so do the segments that differ.
	if n := len(store.Log()); n != 0 {
		t.Errorf("%d requests: %v", n, store.Log())
	}

	if n := len(a.Table.Children("")); n > 4 {
		t.Errorf("to list three directories %d segments are read", n)
	}
}
