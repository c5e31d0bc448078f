package manifest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// fifos are n entries that the change makes larger than they are stored.
func fifos(n int, change func(i int, e *Entry)) []*Entry {
	list := make([]*Entry, n)
	for i := range list {
		list[i] = &Entry{Path: fmt.Sprintf("%06d", i), Type: Fifo, Mode: 0o644}
		change(i, list[i])
	}
	return list
}

func longPaths(length, n int) []*Entry {
	prefix := strings.Repeat("a", length-6)
	return fifos(n, func(_ int, e *Entry) { e.Path = prefix + e.Path })
}

// attributed are entries that share one set of attributes of about size bytes.
func attributed(size, n int) []*Entry {
	var set []Xattr
	for i := 0; size > 0; i++ {
		value := make([]byte, min(size, MaxXattrValue))
		set, size = append(set, Xattr{Name: fmt.Sprintf("user.%03d", i), Value: value}), size-len(value)-xattrOverhead-8
	}
	return fifos(n, func(_ int, e *Entry) { e.Xattrs = set })
}

func sparse(holes, n int) []*Entry {
	return fifos(n, func(_ int, e *Entry) {
		e.Type, e.Size = File, uint64(2*holes)
		for i := range holes {
			e.Holes = append(e.Holes, Extent{Offset: uint64(2*i + 1), Length: 1})
		}
		e.Size, e.Chunks = uint64(2*holes), []Chunk{{Len: uint32(holes), Loc: Location{Pack: &pack.Ref{}}}}
	})
}

func owned(n int) []*Entry {
	return fifos(n, func(_ int, e *Entry) { e.User = strings.Repeat("u", MaxName) })
}

// allocated is how much a function allocates, in bytes.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestBudget(t *testing.T) {
	t.Run("a segment has a budget", aSegmentHasABudget)
	t.Run("a segment cut by weight keeps the budget", aSegmentCutByWeightKeepsTheBudget)
	t.Run("fits", testFits)
	t.Run("all sources of a table share a budget", allSourcesOfATableShareABudget)
}

func aSegmentHasABudget(t *testing.T) {
	for name, test := range map[string]struct {
		entries []*Entry
		refused string
	}{
		"paths that fit":                          {longPaths(MaxPath, 4), ""},
		"paths that share a megabyte":             {longPaths(MaxPath, 5), "the paths of the segment"},
		"many paths that share less":              {longPaths(4096, 1025), "the paths of the segment"},
		"attributes that fit":                     {attributed(maxEntryXattrs-1000, 2), ""},
		"attributes that many entries share":      {attributed(64<<10, 520), "the attributes of the segment"},
		"attributes too large for one entry":      {attributed(maxEntryXattrs+1000, 1), "more attributes than can be stored"},
		"names of owners that fit":                {owned(1024), ""},
		"names of owners that many entries share": {owned(1025), "the owners' names of the segment"},
		"a name that is too long":                 {fifos(1, func(_ int, e *Entry) { e.Group = strings.Repeat("g", MaxName+1) }), "the name of its owner"},
		"holes that fit":                          {sparse(maxEntryHoles, 4), ""},
		"too many holes":                          {sparse(maxEntryHoles, 5), "the holes of the segment"},
		"too many holes of one file":              {sparse(maxEntryHoles+1, 1), "more holes than can be stored"},
	} {
		t.Run("of "+name, func(t *testing.T) {
			var x Encoder
			content := x.Append(nil, test.entries, nil)
			var err error
			used := allocated(func() { _, err = ParseSegment(content, nil) })
			if test.refused == "" && err != nil || test.refused != "" && (!errors.Is(err, wire.ErrMalformed) || !strings.Contains(err.Error(), test.refused)) {
				t.Errorf("the parser returns %v, want %q", err, test.refused)
			}
			if limit := uint64(len(content))*8 + 64<<20; used > limit {
				t.Errorf("%d bytes of content took %d bytes of memory, more than %d", len(content), used, limit)
			}
		})
	}

	t.Run("that counts which take a byte or two each cannot exceed", func(t *testing.T) {
		const n = 20 << 20
		uv := binary.AppendUvarint
		for name, content := range map[string][]byte{
			"attributes of a set": segment(append(uv(uv(uv(nil, 0), 1), n), make([]byte, 2*n)...), nil),
			"holes of a file":     segment(append(append(oneFile(), uv(nil, n)...), make([]byte, 2*n)...), nil),
			"packs":               segment(oneEntry(), append(uv(nil, n/80), make([]byte, n+1)...)),
			"frames":              segment(oneEntry(), append(uv(uv(nil, 0), n), make([]byte, 3*n)...)),
		} {
			var err error
			used := allocated(func() { _, err = ParseSegment(content, nil) })
			if !errors.Is(err, wire.ErrMalformed) || used > 1<<20 {
				t.Errorf("%s: %v, with %d bytes of memory", name, err, used)
			}
		}
	})
}

func segment(a, c []byte) []byte {
	return wire.AppendBytes(wire.AppendBytes(wire.AppendBytes(nil, a), ""), c)
}

// oneEntry is part A of a segment of one fifo.
func oneEntry() []byte {
	var x Encoder
	d := wire.NewDecoder(x.Append(nil, []*Entry{{Path: "a", Type: Fifo}}, nil))
	return d.Bytes()
}

// oneFile is part A of a segment of one file, up to its holes.
func oneFile() []byte {
	var x Encoder
	d := wire.NewDecoder(x.Append(nil, []*Entry{{Path: "a", Type: File}}, nil))
	a := d.Bytes()
	return slices.Clone(a[:len(a)-2])
}

func aSegmentCutByWeightKeepsTheBudget(t *testing.T) {
	for name, entries := range map[string][]*Entry{
		"paths of a megabyte": longPaths(MaxPath, 40),
		"long paths":          longPaths(4000, 3000),
		"paths of all sizes":  fifos(300, func(i int, e *Entry) { e.Path = "x" + strings.Repeat("p", i*3000) }),
		"attributes":          attributed(maxEntryXattrs-1000, 5),
		"small attributes":    attributed(100, 9000),
		"names of owners":     owned(2000),
		"holes":               sparse(maxEntryHoles, 5),
	} {
		t.Run("with "+name, func(t *testing.T) {
			var x Encoder
			var content []byte
			cut, start, weight, segments := 0, 0, 0, 0
			for i, e := range entries {
				if err := Check(e); err != nil {
					t.Fatal(err)
				}
				weight += Weight(e)
				if CutAfter(e.Path, uint64(start), i+1-start, weight) || i == len(entries)-1 {
					content = x.Append(content[:0], entries[start:i+1], nil)
					got, err := ParseSegment(content, nil)
					if err != nil {
						t.Fatalf("entries %d to %d: %v", start, i, err)
					}
					cut, start, weight, segments = cut+len(got), i+1, 0, segments+1
				}
			}
			if cut != len(entries) || segments < 2 {
				t.Errorf("%d of %d entries, in %d segments", cut, len(entries), segments)
			}
		})
	}
}

func testFits(t *testing.T) {
	chunked := func(n int) *Entry {
		e := &Entry{Path: "a", Type: File}
		ref := &pack.Ref{}
		e.Chunks = slices.Repeat([]Chunk{{Len: 1 << 20, Loc: Location{Pack: ref, FrameLen: 9}}}, n)
		for i := range e.Chunks {
			e.Chunks[i].Loc.FrameOffset = uint32(i / 2)
		}
		e.Size = uint64(n) << 20
		return e
	}
	var x Encoder
	if !x.Fits(chunked(1_400_000)) {
		t.Error("a file of 1.4 million chunks does not fit")
	}
	if x.Fits(chunked(1_900_000)) {
		t.Error("a file of 1.9 million chunks fits")
	}
}

func allSourcesOfATableShareABudget(t *testing.T) {
	table := &Table{}
	for i := range 5 {
		table.Sources = append(table.Sources, Source{Path: fmt.Sprint("/", i), Exclude: make([]string, maxSourceLists/4)})
	}
	if _, err := ParseTable((&Table{Sources: table.Sources[:4]}).Append(nil)); err != nil {
		t.Error(err)
	}
	content := table.Append(nil)
	if _, err := ParseTable(content); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("%d empty patterns: %v", 5*maxSourceLists/4, err)
	}
}

// bombs are seeds for the fuzzers: small, and large when they are read.
func bombs() [][]byte {
	var x Encoder
	return [][]byte{x.Append(nil, longPaths(2000, 40), nil), x.Append(nil, attributed(500, 40), nil), bytes.Clone(x.Append(nil, sparse(50, 2), nil))}
}
