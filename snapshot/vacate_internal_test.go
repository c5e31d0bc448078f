package snapshot

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage/pack"
)

func packOf(name string, size, live uint64) pack.Object {
	o := pack.Object{Kind: wire.KindPack, Size: size, Live: live}
	copy(o.Hash[:], name)
	return o
}

func TestVacating(t *testing.T) {
	const mib = 1 << 20
	var tiny []pack.Object
	for i := range tinyPacks {
		tiny = append(tiny, packOf(fmt.Sprintf("tiny%02d", i), 1000, 900))
	}
	for _, c := range []struct {
		name     string
		needed   []pack.Object
		contents uint64
		before   string
		budget   uint64
		want     string
	}{
		{"chooses a pack of which less than half is needed", []pack.Object{packOf("a", 16*mib, 7*mib), packOf("b", 16*mib, 9*mib)}, 16 * mib, "", 99 * mib, "a"},
		{"leaves a pack whose size is that of the names of small files", []pack.Object{packOf("a", 16*mib, 7*mib)}, 7 * mib, "", 99 * mib, ""},
		{"chooses those first of which the least is needed, as far as the budget goes", []pack.Object{packOf("a", 16*mib, 3*mib), packOf("b", 16*mib, mib), packOf("c", 16*mib, 2*mib)}, 16 * mib, "", 3 * mib, "b c"},
		{"does not choose a pack twice", []pack.Object{packOf("a", 16*mib, mib)}, 16 * mib, "a", 99 * mib, ""},
		{"leaves a few tiny packs", tiny[1:], 900, "", 99 * mib, ""},
		{"chooses many tiny packs", tiny[:tinyPacks], 900, "", 99 * mib, "tiny00 tiny01 tiny02 tiny03 tiny04 tiny05 tiny06 tiny07 tiny08 tiny09 tiny10 tiny11 tiny12 tiny13 tiny14 tiny15"},
		{"leaves containers", []pack.Object{{Kind: wire.KindManifest, Size: 16 * mib}}, 16 * mib, "", 99 * mib, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &vacating{chosen: map[string]bool{}}
			if c.before != "" {
				o := packOf(c.before, 0, 0)
				v.chosen[hex.EncodeToString(o.Hash[:])] = true
			}
			v.choose(c.needed, func(packs map[[32]byte]bool) map[[32]byte]uint64 {
				out := map[[32]byte]uint64{}
				for h := range packs {
					out[h] = c.contents
				}
				return out
			}, c.budget)
			var got []string
			for h := range v.packs {
				got = append(got, strings.TrimRight(string(h[:]), "\x00"))
			}
			slices.Sort(got)
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}

	inPack := func(name string, length uint32) manifest.Chunk {
		return manifest.Chunk{Len: length, Loc: manifest.Location{Pack: &pack.Ref{Hash: packOf(name, 0, 0).Hash}}}
	}
	for _, c := range []struct {
		name   string
		chunks []manifest.Chunk
		budget uint64
		want   bool
	}{
		{"reads a file in such a pack", []manifest.Chunk{inPack("a", 100)}, 100, true},
		{"reads no file beyond the budget", []manifest.Chunk{inPack("a", 100)}, 99, false},
		{"reads no file elsewhere", []manifest.Chunk{inPack("b", 100)}, 100, false},
		{"reads no file for a small part of it", []manifest.Chunk{inPack("a", 24), inPack("b", 76)}, 100, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &vacating{packs: map[[32]byte]bool{packOf("a", 0, 0).Hash: true}, budget: c.budget}
			e := &manifest.Entry{Size: 100, Chunks: c.chunks}
			if got := v.displaces(e); got != c.want || got && v.budget != c.budget-100 {
				t.Errorf("got %v, with a budget of %d left", got, v.budget)
			}
		})
	}
}
