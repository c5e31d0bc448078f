package manifest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

var update = flag.Bool("update", false, "write the vectors anew")

func genEntries(t *rapid.T) []*Entry {
	paths := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c.\x01\xff ]{1,6}(/[a-c\n]{1,3}){0,3}`), 1, 40, rapid.ID).Draw(t, "paths")
	paths = slices.DeleteFunc(paths, func(p string) bool { return !ValidPath(p) })
	if rapid.Bool().Draw(t, "root") {
		paths = append(paths, "")
	}
	if len(paths) == 0 {
		paths = []string{"a"}
	}
	slices.SortFunc(paths, Compare)
	packs := make([]*pack.Ref, 3)
	for i := range packs {
		packs[i] = &pack.Ref{Kind: wire.KindPack, Hash: [32]byte{byte(i + 1)}, Size: uint64(i)}
		if i%2 == 1 {
			packs[i] = &pack.Ref{Kind: wire.KindPack, Hash: [32]byte{byte(i + 1)}, Size: pack.SmallObject + uint64(i), Session: seal.SessionID{byte(i)}, Salt: seal.Salt{byte(i)}}
		}
	}
	var out []*Entry
	for _, p := range paths {
		e := &Entry{Path: p, Type: Type(rapid.IntRange(1, 7).Draw(t, "type")), Flags: Flags(rapid.IntRange(0, 63).Draw(t, "flags")), InodeFlags: uint32(rapid.SampledFrom([]int{0, 0, 16, 0x30}).Draw(t, "inode flags")),
			Mode: uint32(rapid.IntRange(0, 0o7777).Draw(t, "mode")), UID: rapid.Uint32().Draw(t, "uid"), GID: uint32(rapid.IntRange(0, 2).Draw(t, "gid")),
			User: rapid.SampledFrom([]string{"", "root", "www"}).Draw(t, "user"), Group: "g",
			Mtime: Time{Sec: rapid.Int64().Draw(t, "sec"), Nsec: uint32(rapid.IntRange(0, 999_999_999).Draw(t, "nsec"))},
			Link:  rapid.SampledFrom([]uint64{0, 1, 1 << 63}).Draw(t, "link")}
		if rapid.Bool().Draw(t, "xattr") {
			e.Xattrs = []Xattr{{Name: "user.a", Value: []byte("v")}, {Name: "user.b", Value: []byte{}}}
		}
		if rapid.IntRange(0, 5).Draw(t, "ext") == 0 {
			e.Ext = []byte{1, 1, 7}
		}
		if e.Type == Dir {
			e.Flags &^= ContentUnread
		} else {
			e.Flags &^= ListingUnread
		}
		switch e.Type {
		case Symlink:
			e.Target = "../x\n"
			if e.Flags&ContentUnread != 0 && rapid.Bool().Draw(t, "no target") {
				e.Target = ""
			}
		case CharDevice, BlockDevice:
			e.Rdev = rapid.Uint64().Draw(t, "rdev")
		case File:
			for range rapid.IntRange(0, 3).Draw(t, "chunks") {
				c := Chunk{Len: uint32(rapid.IntRange(1, pack.MaxChunk).Draw(t, "len"))}
				copy(c.ID[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
				c.Loc = Location{packs[rapid.IntRange(0, 2).Draw(t, "pack")], uint32(rapid.IntRange(8, 20).Draw(t, "frame")), 7, uint32(rapid.IntRange(0, 99).Draw(t, "offset"))}
				e.Chunks = append(e.Chunks, c)
				e.Size += uint64(c.Len)
			}
			if rapid.Bool().Draw(t, "holes") {
				e.Holes = []Extent{{Offset: 0, Length: 4096}}
				e.Size += 4096
				if e.Size > 4096 {
					e.Holes = append(e.Holes, Extent{Offset: 4097, Length: 5})
					e.Size += 5
				}
			}
		}
		e.Stat = &Stat{Time{Sec: rapid.Int64().Draw(t, "csec"), Nsec: 5}, rapid.Uint64().Draw(t, "ino"), 9, rapid.Uint64().Draw(t, "mark")}
		out = append(out, e)
	}
	return out
}

func TestManifest(t *testing.T) {
	t.Run("segments and stats read back as written", segmentsAndStatsReadBackAsWritten)
	t.Run("check", check)
	t.Run("the digest of a table", theDigestOfATable)
	t.Run("tables", tables)
	t.Run("the segment ID ignores locations", theSegmentIDIgnoresLocations)
	t.Run("compare orders by component", compareOrdersByComponent)
	t.Run("paths that could escape are invalid", pathsThatCouldEscapeAreInvalid)
	t.Run("entries out of order are refused", entriesOutOfOrderAreRefused)
	t.Run("vectors of the format hold", vectorsOfTheFormatHold)
}

func segmentsAndStatsReadBackAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := genEntries(t)
		var own *pack.Ref // some pack, or none
		for _, e := range entries {
			for _, c := range e.Chunks {
				if own == nil && rapid.Bool().Draw(t, "own") {
					own = c.Loc.Pack
				}
			}
		}
		var x Encoder
		content := x.Append(nil, entries, own)
		got, err := ParseSegment(content, own)
		if err != nil {
			t.Fatal(err)
		}
		if err := ParseStats(AppendStats(nil, entries), got); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if !reflect.DeepEqual(normal(got[i]), normal(*entries[i])) {
				t.Fatalf("entry %d\n got %+v\nwant %+v", i, got[i], *entries[i])
			}
		}
		if again := x.Append(nil, pointers(got), own); !bytes.Equal(again, content) {
			t.Fatal("encodes to other bytes")
		}
	})
}

func normal(e Entry) Entry {
	if len(e.Chunks) == 0 {
		e.Chunks = nil
	}
	return e
}

func pointers(e []Entry) []*Entry {
	out := make([]*Entry, len(e))
	for i := range e {
		out[i] = &e[i]
	}
	return out
}

func check(t *testing.T) {
	t.Run("accepts what a parser reads, and refuses what it refuses", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			e := rapid.SampledFrom(genEntries(t)).Draw(t, "entry")
			rapid.SampledFrom([]func(){
				func() {},
				func() { e.Path = rapid.SampledFrom([]string{"a/", "/a", "a//b", "..", "a\x00"}).Draw(t, "path") },
				func() { e.Type = Type(rapid.IntRange(0, 9).Draw(t, "other type")) },
				func() { e.Flags ^= ContentUnread | ListingUnread },
				func() { e.Mode = 1 << 12 },
				func() { e.Mtime.Nsec = 1_000_000_000 },
				func() { e.Target = rapid.SampledFrom([]string{"", "a\x00b", "x"}).Draw(t, "target") },
				func() { e.Size = rapid.SampledFrom([]uint64{0, 1, 4096, 1 << 63}).Draw(t, "size") },
				func() {
					e.Holes = append(e.Holes, Extent{Offset: uint64(rapid.IntRange(0, 9000).Draw(t, "hole")), Length: 7})
				},
				func() {
					e.Chunks = append(e.Chunks, Chunk{Len: uint32(rapid.SampledFrom([]int{0, 5, pack.MaxChunk + 1}).Draw(t, "chunk")), Loc: Location{Pack: &pack.Ref{}}})
				},
				func() { e.Xattrs = []Xattr{{Name: "user.b", Value: nil}, {Name: "user.a", Value: nil}} },
				func() { e.Xattrs = []Xattr{{Name: "user.\x00", Value: nil}} },
				func() { e.Xattrs = []Xattr{{Name: "user.a", Value: make([]byte, MaxXattrValue+1)}} },
			}).Draw(t, "change")()
			if e.Type != Symlink {
				e.Target = ""
			}
			if e.Type != File { // of others the encoder writes neither
				e.Size, e.Holes = 0, nil
			}
			if len(e.Chunks) == 1 && len(e.Holes) == 0 { // whose length is the size, and not written
				e.Chunks = []Chunk{{ID: e.Chunks[0].ID, Len: uint32(min(e.Size, pack.MaxChunk+1)), Loc: e.Chunks[0].Loc}}
			}
			var x Encoder
			_, perr := ParseSegment(x.Append(nil, []*Entry{e}, nil), nil)
			if err := Check(e); (err == nil) != (perr == nil) {
				t.Fatalf("%+v: Check returns %v, the parser %v", e, err, perr)
			}
		})
	})
}

func theDigestOfATable(t *testing.T) {
	digest := func(change func(*Table)) [32]byte {
		x := vectorTable()
		change(x)
		return x.Digest()
	}
	same := digest(func(*Table) {})
	t.Run("ignores where segments lie and what opens them", func(t *testing.T) {
		got := digest(func(x *Table) {
			x.Containers = nil
			for i := range x.Segments {
				s := &x.Segments[i]
				s.Container, s.Offset, s.SealedLen, s.ContentLen = 0, 99, 98, 97
			}
		})
		if got != same {
			t.Error("it changes with the location")
		}
	})
	for name, change := range map[string]func(*Table){
		"a segment's ID":         func(x *Table) { x.Segments[1].ID[31]++ },
		"a segment's entries":    func(x *Table) { x.Segments[1].Entries++ },
		"a segment's first path": func(x *Table) { x.Segments[1].First += "x" },
		"a segment less":         func(x *Table) { x.Segments = x.Segments[:1] },
		"the order of segments":  func(x *Table) { x.Segments[0], x.Segments[1] = x.Segments[1], x.Segments[0] },
		"a rule":                 func(x *Table) { x.Sources[0].Exclude[0] = "*.bak" },
		"a mount point":          func(x *Table) { x.Sources[0].Mounts = nil },
		"a count":                func(x *Table) { x.Sources[0].Bytes-- },
		"a problem":              func(x *Table) { x.Problems = nil },
	} {
		t.Run("changes with "+name, func(t *testing.T) {
			if digest(change) == same {
				t.Error("it does not")
			}
		})
	}
}

func tables(t *testing.T) {
	refused := map[string]struct {
		change func(*Table)
		want   error
	}{
		"problems out of order":     {func(x *Table) { x.Problems = []Problem{{"b", ""}, {"a", ""}} }, wire.ErrMalformed},
		"mount points out of order": {func(x *Table) { x.Sources[0].Mounts = []string{"b", "a"} }, wire.ErrMalformed},
		"a source without a path":   {func(x *Table) { x.Sources[0].Path = "" }, wire.ErrMalformed},
		"more sources than allowed": {func(x *Table) { x.Sources = slices.Repeat(x.Sources[:1], MaxSources+1) }, wire.ErrMalformed},
		"a field of a newer source": {func(x *Table) { x.Sources[0].Unknown = []wire.Field{{Tag: 900, Value: []byte("x")}} }, wire.ErrVersion},
	}
	for name, test := range refused {
		t.Run("are refused with "+name, func(t *testing.T) {
			x := vectorTable()
			test.change(x)
			if _, err := ParseTable(x.Append(nil)); !errors.Is(err, test.want) {
				t.Errorf("%v", err)
			}
		})
	}

	t.Run("keep fields of a source that may be skipped", func(t *testing.T) {
		x := vectorTable()
		x.Sources[0].Unknown = []wire.Field{{Tag: 901, Value: []byte("x")}}
		got, err := ParseTable(x.Append(nil))
		if err != nil || !reflect.DeepEqual(got, x) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func theSegmentIDIgnoresLocations(t *testing.T) {
	chunk := func(p byte) Chunk {
		return Chunk{ID: ChunkID{1}, Len: 5, Loc: Location{Pack: &pack.Ref{Kind: wire.KindPack, Hash: [32]byte{p}}, FrameOffset: uint32(p), FrameLen: 9}}
	}
	id := func(p byte, path string) [32]byte {
		var x Encoder
		id, err := SegmentID([32]byte{3}, x.Append(nil, []*Entry{{Path: path, Type: File, Size: 5, Chunks: []Chunk{chunk(p)}}}, nil))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if id(1, "a") != id(2, "a") {
		t.Error("the location changes the ID")
	}
	if id(1, "a") == id(1, "b") {
		t.Error("the path does not change the ID")
	}
}

func compareOrdersByComponent(t *testing.T) {
	want := []string{"", "a", "a/b", "a/b/c", "a/c", "a b", "a-", "a.", "ab", "b"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, Compare)
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func pathsThatCouldEscapeAreInvalid(t *testing.T) {
	for _, p := range []string{"/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\x00b", strings.Repeat("a/", MaxPath/2) + "a"} {
		if ValidPath(p) {
			t.Errorf("%.20q is valid", p)
		}
		var x Encoder
		if _, err := ParseSegment(x.Append(nil, []*Entry{{Path: p, Type: Dir}}, nil), nil); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("segment with %.20q: %v", p, err)
		}
	}
	for _, p := range []string{"", "a", "...", "a/..b", "\xff\n", "a/ "} {
		if !ValidPath(p) {
			t.Errorf("%q is not valid", p)
		}
	}
}

func entriesOutOfOrderAreRefused(t *testing.T) {
	for _, paths := range [][]string{{"b", "a"}, {"a", "a"}, {"a b", "a/b"}} {
		var x Encoder
		if _, err := ParseSegment(x.Append(nil, []*Entry{{Path: paths[0], Type: Dir}, {Path: paths[1], Type: Dir}}, nil), nil); err == nil {
			t.Errorf("%q is read", paths)
		}
	}
}

func vectorTable() *Table {
	return &Table{
		Sources: []Source{
			{Path: "/etc", Resolved: "/private/etc", Include: []string{"*.conf"}, Exclude: []string{"*.tmp", "!keep.tmp"}, ExcludeIfPresent: []string{".nobackup"},
				OneFileSystem: true, CachedAttributes: true, Frozen: true, MaxFileSize: 1 << 20, Mounts: []string{"etc/m"}, Entered: []string{"etc/n"}, Counts: Counts{3, 2, 5000}},
			{Path: "db/web.dump", Command: []string{"pg_dump", "web"}, Restore: []string{"pg_restore"}, Counts: Counts{Files: 1}},
		},
		Containers: []pack.Ref{{Kind: wire.KindManifest, Hash: [32]byte{1}, Size: 1 << 20, Session: seal.SessionID{2}, Salt: seal.Salt{3}}, {Kind: wire.KindPack, Hash: [32]byte{4}, Size: pack.SmallObject}},
		Segments: []Segment{{Container: 1, Offset: 8, SealedLen: 100, ContentLen: 200, ID: [32]byte{4}, Entries: 3, First: ""},
			{Container: 0, Offset: 8, SealedLen: 50, ContentLen: 60, ID: [32]byte{5}, Entries: 1, First: "etc/b"}},
		Problems: []Problem{{"etc/shadow", "permission denied"}},
		Unknown:  []wire.Field{{Tag: 99, Value: []byte("kept")}},
	}
}

func vectorEntries() []*Entry {
	p := &pack.Ref{Kind: wire.KindPack, Hash: [32]byte{1}, Size: 1 << 20, Session: seal.SessionID{2}, Salt: seal.Salt{3}}
	return []*Entry{
		{Path: "", Type: Dir, Flags: Implied, Mode: 0o755, User: "root", Group: "root", Mtime: Time{Sec: -1, Nsec: 5}},
		{Path: "etc", Type: Dir, Mode: 0o755, User: "root", Group: "root", Mtime: Time{Sec: 1700000000, Nsec: 0}},
		{Path: "etc/a", Type: File, Mode: 0o4755, UID: 7, GID: 8, Mtime: Time{Sec: 1700000001, Nsec: 999999999}, Size: 5000,
			Holes: []Extent{{Offset: 100, Length: 4096}}, Xattrs: []Xattr{{Name: "user.k", Value: []byte("v")}},
			Chunks: []Chunk{{ChunkID{9}, 800, Location{p, 8, 500, 0}}, {ChunkID{10}, 104, Location{p, 8, 500, 800}}}},
		{Path: "etc/b", Type: Symlink, Mode: 0o777, Target: "../a", Ext: []byte{1, 1, 7}},
		{Path: "etc/c", Type: Symlink, Mode: 0o777, Flags: ContentUnread | MetadataIncomplete},
		{Path: "etc/d", Type: Dir, Mode: 0o700, Flags: ListingUnread, InodeFlags: 0x30},
		{Path: "etc/null", Type: CharDevice, Mode: 0o666, Rdev: 1<<32 | 3, Link: 77},
	}
}

func vectorsOfTheFormatHold(t *testing.T) {
	var x Encoder
	segment := x.Append(nil, vectorEntries(), nil)
	id, err := SegmentID([32]byte{1, 2, 3}, segment)
	if err != nil {
		t.Fatal(err)
	}
	digest := vectorTable().Digest()
	for name, got := range map[string][]byte{"segment": segment, "segment-id": id[:], "table": vectorTable().Append(nil), "content-digest": digest[:]} {
		file := filepath.Join("testdata", name+".hex")
		if *update {
			os.MkdirAll("testdata", 0o755)
			os.WriteFile(file, []byte(hex.EncodeToString(got)+"\n"), 0o644)
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(got) != strings.TrimSpace(string(want)) {
			t.Errorf("%s is\n%x, the vector\n%s", name, got, want)
		}
	}
	table, err := ParseTable(vectorTable().Append(nil))
	if err != nil || !reflect.DeepEqual(table, vectorTable()) {
		t.Errorf("table reads back as %+v, %v", table, err)
	}
}

func FuzzSegment(f *testing.F) {
	var x Encoder
	f.Add(x.Append(nil, vectorEntries(), nil))
	for _, b := range bombs() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := ParseSegment(b, nil)
		if err != nil {
			return
		}
		var x Encoder
		if again := x.Append(nil, pointers(entries), nil); !bytes.Equal(again, b) {
			t.Errorf("parses, but encodes to\n%x, not\n%x", again, b)
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add(vectorTable().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := ParseTable(b)
		if err != nil {
			return
		}
		if again := table.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("parses, but encodes to\n%x, not\n%x", again, b)
		}
	})
}
