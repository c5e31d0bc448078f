package chunk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// small keeps property tests quick; the block path of scan needs stretches of
// 8 KiB, which medium has.
var (
	small  = Params{Min: 64, Avg: 256, Max: 1024}
	medium = Params{Min: 4 << 10, Avg: 32 << 10, Max: 128 << 10}
)

func random(seed uint64, n int) []byte {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b) // never fails
	return b
}

func newChunker(t testing.TB, p Params) *Chunker {
	t.Helper()
	c, err := New(p, [32]byte([]byte("a gear key for tests, 32 bytes..")))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cuts returns the lengths of all chunks of data.
func cuts(c *Chunker, data []byte) (lengths []int) {
	for len(data) > 0 {
		n := c.Cut(data, true)
		lengths = append(lengths, n)
		data = data[n:]
	}
	return lengths
}

// specified finds the first cut by the words of the package comment.
func specified(c *Chunker, p Params, data []byte) int {
	a := bits.TrailingZeros32(p.Avg)
	for l := int(p.Min); l < min(int(p.Max), len(data)); l++ {
		var h uint64
		for i := range 64 {
			h += c.gear[data[l-1-i]] << i
		}
		zeros := a + 2
		if l >= int(p.Avg) {
			zeros = a - 2
		}
		if bits.LeadingZeros64(h) >= zeros {
			return l
		}
	}
	return min(int(p.Max), len(data))
}

func TestChunk(t *testing.T) {
	t.Run("parameters are checked", parametersAreChecked)
	t.Run("cut points are as specified", cutPointsAreAsSpecified)
	t.Run("golden vectors", goldenVectors)
	t.Run("another key cuts elsewhere", anotherKeyCutsElsewhere)
	t.Run("cuts do not depend on how content arrives", cutsDoNotDependOnHowContentArrives)
	t.Run("sizes stay within bounds", sizesStayWithinBounds)
	t.Run("chunks fall into step after an insertion", chunksFallIntoStepAfterAnInsertion)
	t.Run("mean size is near the average", meanSizeIsNearTheAverage)
	t.Run("cutting allocates nothing", cuttingAllocatesNothing)
}

func parametersAreChecked(t *testing.T) {
	for _, c := range []struct {
		params Params
		reason string // "" when valid
	}{
		{DefaultParams(), ""},
		{small, ""},
		{Params{64, 128, 129}, ""},
		{Params{64, 4 << 20, 8 << 20}, ""},
		{Params{}, "at least 64"},
		{Params{63, 128, 256}, "at least 64"},
		{Params{128, 128, 256}, "less than the average"},
		{Params{64, 256, 256}, "less than the maximum"},
		{Params{64, 128, 8<<20 + 1}, "at most 8388608"},
		{Params{64, 129, 256}, "power of two"},
		{Params{64, 1 << 31, math.MaxUint32}, "at most 8388608"},
	} {
		_, err := New(c.params, [32]byte{})
		if c.reason == "" && err != nil {
			t.Errorf("%v: %v", c.params, err)
		}
		if c.reason != "" && (err == nil || !strings.Contains(err.Error(), c.reason)) {
			t.Errorf("%v: error %v, want one that says %q", c.params, err, c.reason)
		}
	}
}

func cutPointsAreAsSpecified(t *testing.T) {
	for _, p := range []Params{small, medium, {Min: 64, Avg: 16 << 10, Max: 100_003}} {
		c := newChunker(t, p)
		data := random(7, 40*int(p.Avg))
		copy(data[len(data)/2:], make([]byte, p.Max)) // and a stretch of zeros
		for len(data) > 0 {
			want := specified(c, p, data)
			if got := c.Cut(data, true); got != want {
				t.Fatalf("%v: cut at %d, want %d, %d bytes before the end", p, got, want, len(data))
			}
			data = data[want:]
		}
	}
}

// A change of these vectors is a change of the format: no repository made
// before would deduplicate.
func goldenVectors(t *testing.T) {
	c := newChunker(t, DefaultParams())
	var table [8 * 256]byte
	for i, g := range c.gear {
		binary.LittleEndian.PutUint64(table[8*i:], g)
	}
	if got, want := c.gear[0], uint64(0xad137536f070ae0a); got != want {
		t.Errorf("gear[0] = %#x, want %#x", got, want)
	}
	if got, want := c.gear[255], uint64(0x93e4c0befa755b03); got != want {
		t.Errorf("gear[255] = %#x, want %#x", got, want)
	}
	sum := sha256.Sum256(table[:])
	if got, want := hex.EncodeToString(sum[:]), "6f50b10313d93f693d9448d99a523131ace39f354743a962ed88e876d68b0d30"; got != want {
		t.Errorf("SHA-256 of the gear table is %s, want %s", got, want)
	}
	// The content is made by a generator that is easily written again.
	data := make([]byte, 16<<20)
	for i, x := 0, uint64(1); i < len(data); i += 8 {
		x = x*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(data[i:], x^x>>33)
	}
	want := []int{
		782556, 1093066, 1136021, 1376732, 761597, 1145586, 2095069,
		404966, 1841899, 1426728, 1278592, 1233508, 1364057, 836839,
	}
	if got := cuts(c, data); !slices.Equal(got, want) {
		t.Errorf("cut into %v, want %v", got, want)
	}
	want = []int{266, 274, 256, 375, 160, 304, 270, 241, 288, 451, 351, 149, 337, 297, 77}
	if got := cuts(newChunker(t, small), data[:4096]); !slices.Equal(got, want) {
		t.Errorf("small chunks: cut into %v, want %v", got, want)
	}
}

func anotherKeyCutsElsewhere(t *testing.T) {
	data := random(1, 1<<20)
	a, err := New(medium, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(medium, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	if slices.Equal(cuts(a, data), cuts(b, data)) {
		t.Error("two gear keys cut the same content alike")
	}
}

func cutsDoNotDependOnHowContentArrives(t *testing.T) {
	c := newChunker(t, small)
	rapid.Check(t, func(t *rapid.T) {
		data := content(t)
		want := cuts(c, data)
		var got []int
		var buf []byte
		rest := data
		for {
			n := c.Cut(buf, len(rest) == 0)
			if n == 0 && len(rest) == 0 {
				break
			}
			if n == 0 {
				if len(buf) >= c.max {
					t.Fatalf("no answer for a buffer of %d bytes", len(buf))
				}
				k := rapid.IntRange(1, min(len(rest), 700)).Draw(t, "arriving")
				buf, rest = append(buf, rest[:k]...), rest[k:]
				continue
			}
			got = append(got, n)
			buf = buf[n:]
		}
		if !slices.Equal(got, want) {
			t.Fatalf("cut into %v piece by piece, %v at once", got, want)
		}
	})
}

func sizesStayWithinBounds(t *testing.T) {
	c := newChunker(t, small)
	rapid.Check(t, func(t *rapid.T) {
		data := content(t)
		lengths := cuts(c, data)
		total := 0
		for i, n := range lengths {
			total += n
			if n > int(small.Max) || n < int(small.Min) && i < len(lengths)-1 {
				t.Fatalf("chunk %d of %v is out of bounds", i, lengths)
			}
		}
		if total != len(data) {
			t.Fatalf("chunks hold %d of %d bytes", total, len(data))
		}
	})
}

// content draws bytes with runs and repetitions, as files have them.
func content(t *rapid.T) []byte {
	var data []byte
	for range rapid.IntRange(0, 6).Draw(t, "stretches") {
		n := rapid.IntRange(1, 3000).Draw(t, "length")
		switch rapid.IntRange(0, 2).Draw(t, "profile") {
		case 0:
			data = append(data, random(rapid.Uint64().Draw(t, "seed"), n)...)
		case 1:
			data = append(data, bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, n)...)
		case 2:
			data = append(data, bytes.Repeat([]byte("line of a log\n"), n/14)...)
		}
	}
	return data
}

func chunksFallIntoStepAfterAnInsertion(t *testing.T) {
	c := newChunker(t, medium)
	rapid.Check(t, func(t *rapid.T) {
		data := random(rapid.Uint64().Draw(t, "seed"), 2<<20)
		at := rapid.IntRange(0, len(data)/2).Draw(t, "at")
		inserted := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "inserted")
		before := ends(cuts(c, data), 0)
		after := ends(cuts(c, slices.Insert(slices.Clone(data), at, inserted...)), -len(inserted))
		// Cut points are compared by their distance from the end: before the
		// insertion, and from some point soon after it, all must be the same.
		for i, end := range before {
			if end > at {
				break
			}
			if after[i]+len(inserted) != end {
				t.Fatalf("the cut at %d, before the insertion at %d, has moved", end, at)
			}
		}
		step := -1
		for _, end := range before {
			if end > at && slices.Contains(after, end) {
				step = end
				break
			}
		}
		if step < 0 || step-at > 16*int(medium.Avg) {
			t.Fatalf("not in step again %d bytes after the insertion", step-at)
		}
		i, j := slices.Index(before, step), slices.Index(after, step)
		if !slices.Equal(before[i:], after[j:]) {
			t.Fatal("out of step again later on")
		}
	})
}

func ends(lengths []int, offset int) []int {
	out := make([]int, len(lengths))
	for i, n := range lengths {
		offset += n
		out[i] = offset
	}
	return out
}

func meanSizeIsNearTheAverage(t *testing.T) {
	for _, p := range []Params{small, medium, DefaultParams()} {
		data := random(3, 100*int(p.Avg))
		mean := float64(len(data)) / float64(len(cuts(newChunker(t, p), data))) / float64(p.Avg)
		if mean < 0.9 || mean > 1.4 {
			t.Errorf("%v: the mean is %.2f times the average", p, mean)
		}
		t.Logf("%v: the mean is %.3f times the average", p, mean)
	}
}

func cuttingAllocatesNothing(t *testing.T) {
	c, h := newChunker(t, medium), NewHasher([32]byte{})
	data := random(1, 128<<10)
	if n := testing.AllocsPerRun(20, func() { c.Cut(data, false) }); n != 0 {
		t.Errorf("Cut allocates %v times", n)
	}
	if n := testing.AllocsPerRun(20, func() { h.ID(data[:1000]) }); n != 0 {
		t.Errorf("ID allocates %v times", n)
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(make([]byte, 5000), false)
	f.Add(random(1, 3000), true)
	c := newChunker(f, small)
	for seed := uint64(1); ; seed++ { // a cut point at the least length, and nothing after it
		if data := random(seed, int(small.Min)); specified(c, small, append(data[:len(data):len(data)], 0)) == len(data) {
			f.Add(data, false)
			break
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, final bool) {
		got := c.Cut(data, final)
		want := specified(c, small, data)
		if !final && len(data) < int(small.Max) {
			// A cut point is one whatever follows; the end of data is none.
			if want = specified(c, small, append(data[:len(data):len(data)], 0)); want > len(data) {
				want = 0
			}
		}
		if got != want {
			t.Fatalf("cut at %d, want %d", got, want)
		}
	})
}

func BenchmarkCut(b *testing.B) {
	text := bytes.Repeat([]byte("2026-11-20T10:00:00Z web-7 GET /index.html 200 1234 \"curl/8\"\n"), 1<<18)
	for i := range text {
		if text[i] == '7' || text[i] == '1' {
			text[i] = '0' + byte(rand.IntN(10))
		}
	}
	c := newChunker(b, DefaultParams())
	for name, data := range map[string][]byte{"random": random(1, 16<<20), "zero": make([]byte, 16<<20), "text": text} {
		b.Run(fmt.Sprintf("%s-%d-chunks", name, len(cuts(c, data))), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				for rest := data; len(rest) > 0; {
					rest = rest[c.Cut(rest, true):]
				}
			}
		})
	}
}
