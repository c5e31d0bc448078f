package index

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

var update = flag.Bool("update", false, "write the vectors anew")

func packOf(n byte) pack.Ref {
	return pack.Ref{Kind: wire.KindPack, Hash: [32]byte{n}, Size: 1 << 20, Session: seal.SessionID{n, 1}, Salt: seal.Salt{n, 2}}
}

func idOf(n uint64) (id [32]byte) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

func bodyOf(packs []pack.Ref, frames []Frame, entries ...Entry) *Body {
	gone := 0
	for _, e := range entries {
		if e.Gone {
			gone++
		}
	}
	return &Body{Packs: packs, Frames: frames, Len: len(entries), Gone: gone, Entries: slices.Values(entries)}
}

func sampleBody() *Body {
	return bodyOf([]pack.Ref{packOf(2), packOf(1)},
		[]Frame{{0, 8, 100, 300}, {0, 108, 50, 60}, {1, 500, 200, 1 << 20}},
		Entry{ID: idOf(1), Frame: 2, Offset: 70000, Len: 1000},
		Entry{ID: idOf(5), Gone: true},
		Entry{ID: idOf(1 << 60), Frame: 0, Offset: 0, Len: 300},
		Entry{ID: idOf(1<<64 - 1), Frame: 1, Offset: 20, Len: 40})
}

func sameBody(a, b *Body) bool {
	return slices.Equal(a.Packs, b.Packs) && slices.Equal(a.Frames, b.Frames) && a.Len == b.Len && a.Gone == b.Gone &&
		slices.Equal(slices.Collect(a.Entries), slices.Collect(b.Entries))
}

func TestBody(t *testing.T) {
	t.Run("a body is the vector and reads back", aBodyIsTheVectorAndReadsBack)
	t.Run("append refuses a body with", appendRefusesABodyWith)
	t.Run("parse refuses a body with", parseRefusesABodyWith)
}

func aBodyIsTheVectorAndReadsBack(t *testing.T) {
	got, err := sampleBody().Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "body.hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := hex.DecodeString(strings.TrimSpace(string(text))); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the body is no longer what it was: the format changed (%v)", err)
	}
	x, err := Parse(got)
	if err != nil {
		t.Fatal(err)
	}
	if !sameBody(x, sampleBody()) || !slices.Equal(slices.Collect(x.Entries), slices.Collect(x.Entries)) {
		t.Fatal("the body reads back as something else")
	}
}

func appendRefusesABodyWith(t *testing.T) {
	p, f := []pack.Ref{packOf(1)}, []Frame{{0, 8, 100, 300}}
	huge := packOf(1)
	huge.Size = pack.MaxObject + 1
	for name, x := range map[string]*Body{
		"chunks out of order":               bodyOf(p, f, Entry{ID: idOf(2), Len: 1}, Entry{ID: idOf(1), Len: 1}),
		"a chunk twice":                     bodyOf(p, f, Entry{ID: idOf(2), Len: 1}, Entry{ID: idOf(2), Len: 1}),
		"an empty chunk":                    bodyOf(p, f, Entry{ID: idOf(2)}),
		"a chunk over the limit":            bodyOf(p, []Frame{{0, 8, 100, 16 << 20}}, Entry{ID: idOf(2), Len: pack.MaxChunk + 1}),
		"a chunk that ends after its frame": bodyOf(p, f, Entry{ID: idOf(2), Offset: 1, Len: 300}),
		"a chunk in no frame":               bodyOf(p, f, Entry{ID: idOf(2), Frame: 1, Len: 1}),
		"a frame within the prelude":        bodyOf(p, []Frame{{0, 7, 100, 300}}),
		"frames that overlap":               bodyOf(p, []Frame{{0, 8, 100, 300}, {0, 107, 100, 300}}),
		"a frame that ends after its pack":  bodyOf(p, []Frame{{0, 8, 1 << 20, 300}}),
		"a frame with too much content":     bodyOf(p, []Frame{{0, 8, 100, 16<<20 + 1}}),
		"a frame in no pack":                bodyOf(p, []Frame{{1, 8, 100, 300}}),
		"frames out of order":               bodyOf([]pack.Ref{packOf(1), packOf(2)}, []Frame{{1, 8, 100, 300}, {0, 8, 100, 300}}),
		"a pack over the limit":             bodyOf([]pack.Ref{huge}, f),
		"another number of chunks":          {Packs: p, Frames: f, Len: 2, Entries: slices.Values([]Entry{{ID: idOf(2), Len: 1}})},
		"another number of gone chunks":     {Packs: p, Frames: f, Len: 1, Entries: slices.Values([]Entry{{ID: idOf(2), Gone: true}})},
		"too many chunks":                   {Packs: p, Frames: f, Len: MaxEntries + 1, Entries: slices.Values([]Entry{})},
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := x.Append(nil); err == nil {
				t.Fatalf("it became %x", b)
			}
		})
	}
}

func parseRefusesABodyWith(t *testing.T) {
	whole, err := sampleBody().Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string][]byte{
		"nothing":                nil,
		"bytes after its end":    append(bytes.Clone(whole), 0),
		"more packs than bytes":  wire.AppendUvarint(nil, 1<<62),
		"more chunks than bytes": append([]byte{0}, wire.AppendUvarint(nil, 1<<62)...),
		"too many chunks":        append(wire.AppendUvarint([]byte{0}, MaxEntries+1), make([]byte, (MaxEntries+1)*33)...),
		"too many packs":         append(wire.AppendUvarint(nil, MaxEntries+1), make([]byte, (MaxEntries+1)*82)...),
		"too many frames":        append(append(wire.AppendUvarint(append(append([]byte{1}, make([]byte, 80)...), 1), MaxEntries+1), make([]byte, 3*(MaxEntries+1))...), 0),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(in); !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("error %v", err)
			}
		})
	}
	for n := range whole {
		if _, err := Parse(whole[:n]); !errors.Is(err, wire.ErrMalformed) {
			t.Fatalf("cut to %d bytes: error %v", n, err)
		}
	}
}

func FuzzBody(f *testing.F) {
	whole, err := sampleBody().Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		x, err := Parse(in)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		out, err := x.Append(nil)
		if err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%x became %x, %v", in, out, err)
		}
	})
}
