package manifest

import (
	"fmt"
	"testing"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// benchEntries are a segment's worth of small files in a few directories.
func benchEntries(n int) []*Entry {
	packs := make([]*pack.Ref, 4)
	for i := range packs {
		packs[i] = &pack.Ref{Kind: wire.KindPack, Hash: [32]byte{byte(i)}}
	}
	out := make([]*Entry, n)
	for i := range out {
		e := &Entry{Path: fmt.Sprintf("usr/share/doc/package-%03d/file-%05d.txt", i/50, i), Type: File, Mode: 0o644, User: "root", Group: "root",
			Mtime: Time{Sec: 1700000000 + int64(i%977)}, Size: 9000, Stat: &Stat{Ctime: Time{Sec: 1700000000}, Inode: uint64(i), Dev: 1}}
		e.Chunks = []Chunk{{ID: [32]byte{byte(i), byte(i >> 8), 3}, Len: 9000, Loc: Location{packs[i*4/n], uint32(8 + i/200*300000), 300000, uint32(i % 200 * 9000)}}}
		out[i] = e
	}
	return out
}

func BenchmarkEncode(b *testing.B) {
	entries := benchEntries(2048)
	var x Encoder
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = x.Append(dst[:0], entries, nil)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(entries)), "ns/entry")
}

func BenchmarkParse(b *testing.B) {
	entries := benchEntries(2048)
	content := new(Encoder).Append(nil, entries, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseSegment(content, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(entries)), "ns/entry")
}
