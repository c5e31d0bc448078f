package index

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"knowngood/storage/pack"
)

// spot is where a chunk lies, in words that do not depend on a run.
type spot struct {
	pack  pack.Ref
	frame Frame // without its pack
	off   uint32
	len   uint32
	gone  bool
}

func spots(x *Body) map[[32]byte]spot {
	m := map[[32]byte]spot{}
	for e := range x.Entries {
		s := spot{gone: e.Gone}
		if !e.Gone {
			f := x.Frames[e.Frame]
			s = spot{pack: x.Packs[f.Pack], frame: Frame{0, f.Offset, f.SealedLen, f.ContentLen}, off: e.Offset, len: e.Len}
		}
		m[e.ID] = s
	}
	return m
}

func genBody(t *rapid.T) *Body {
	x := &Body{}
	for i := range rapid.IntRange(0, 3).Draw(t, "packs") {
		p := packOf(byte(rapid.IntRange(0, 3).Draw(t, "pack")))
		p.Size -= uint64(rapid.IntRange(0, 1).Draw(t, "size"))
		x.Packs = append(x.Packs, p)
		at := uint32(8)
		for range rapid.IntRange(1, 3).Draw(t, "frames") {
			at += uint32(rapid.IntRange(0, 2).Draw(t, "gap"))
			f := Frame{uint32(i), at, uint32(rapid.IntRange(1, 3).Draw(t, "sealed")), 100}
			at += f.SealedLen
			x.Frames = append(x.Frames, f)
		}
	}
	var entries []Entry
	for _, n := range rapid.SliceOfDistinct(rapid.Uint64Range(0, 30), rapid.ID).Draw(t, "ids") {
		e := Entry{ID: idOf(n << 58), Gone: true}
		if len(x.Frames) > 0 && rapid.IntRange(0, 3).Draw(t, "gone") > 0 {
			e = Entry{ID: e.ID, Frame: uint32(rapid.IntRange(0, len(x.Frames)-1).Draw(t, "frame")), Offset: uint32(n), Len: 5}
		} else {
			x.Gone++
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	// No number twice: 30<<58 has wrapped round.
	entries = slices.CompactFunc(entries, func(a, b Entry) bool { return a.ID == b.ID })
	return bodyOf(x.Packs, x.Frames, entries...)
}

func TestMerge(t *testing.T) {
	t.Run("a merge holds the newest of every chunk", aMergeHoldsTheNewestOfEveryChunk)
	t.Run("a merge of nothing", aMergeOfNothing)
	t.Run("live runs are those that no other replaces", liveRunsAreThoseThatNoOtherReplaces)
	t.Run("plan keeps runs few", planKeepsRunsFew)
	t.Run("what is saved at once is not merged again", whatIsSavedAtOnceIsNotMergedAgain)
	t.Run("plan takes runs along that say a chunk is gone", planTakesRunsAlongThatSayAChunkIsGone)
}

func aMergeHoldsTheNewestOfEveryChunk(t *testing.T) {
	c := openCache(t)
	rapid.Check(t, func(t *rapid.T) {
		want := map[[32]byte]spot{}
		var files []*File
		total := 0
		for range rapid.IntRange(1, 6).Draw(t, "files") {
			x := genBody(t)
			f, err := c.spill(x)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files = append(files, f) // newest first
			total += x.Len
			for id, s := range spots(x) {
				if _, newer := want[id]; !newer {
					want[id] = s
				}
			}
		}
		drop := rapid.Bool().Draw(t, "drop")
		for id, s := range want {
			if drop && s.gone {
				delete(want, id)
			}
		}
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		got := map[[32]byte]spot{}
		bodies := 0
		var last []byte
		for x := range Merge(files, limit, MergeOptions{DropGone: drop}) {
			bodies++
			encoded, err := x.Append(nil)
			if err != nil {
				t.Fatalf("a merge that cannot be written: %v", err)
			}
			if x, err = Parse(encoded); err != nil {
				t.Fatal(err)
			}
			if x.Len > limit || len(x.Frames) > x.Len || len(x.Packs) > len(x.Frames) {
				t.Fatalf("%d chunks in %d frames of %d packs, limit %d", x.Len, len(x.Frames), len(x.Packs), limit)
			}
			for e := range x.Entries {
				if last != nil && bytes.Compare(last, e.ID[:]) >= 0 {
					t.Fatal("bodies overlap")
				}
				last = e.ID[:]
			}
			for id, s := range spots(x) {
				got[id] = s
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d chunks, want %d", len(got), len(want))
		}
		for id, s := range want {
			if got[id] != s {
				t.Fatalf("%x at %+v, want %+v", id, got[id], s)
			}
		}
		if bodies == 0 || bodies > (total+limit-1)/limit+1 {
			t.Fatalf("%d bodies for %d chunks", bodies, total)
		}
	})
}

func aMergeOfNothing(t *testing.T) {
	for range Merge(nil, 10, MergeOptions{}) {
		t.Fatal("a body out of no files")
	}
	c := openCache(t)
	gone, err := c.spill(bodyOf(nil, nil, Entry{ID: idOf(1), Gone: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	n := 0
	for x := range Merge([]*File{gone}, 10, MergeOptions{DropGone: true}) {
		if n++; x.Len != 0 {
			t.Fatalf("%d chunks where all are gone", x.Len)
		}
	}
	if n != 1 {
		t.Fatalf("%d bodies; one must take the place of what was merged", n)
	}
}

// liveOf are the runs that count, newest first: those that no other
// replaces. A run that is itself replaced still keeps away what it replaced.
func liveOf(runs []Info) []Info {
	replaced := map[[32]byte]bool{}
	for _, r := range runs {
		for _, h := range r.Replaces {
			replaced[h] = true
		}
	}
	live := slices.DeleteFunc(slices.Clone(runs), func(r Info) bool { return replaced[r.Hash] })
	slices.SortFunc(live, newerFirst)
	return slices.CompactFunc(live, func(a, b Info) bool { return a.Hash == b.Hash })
}

func liveRunsAreThoseThatNoOtherReplaces(t *testing.T) {
	h := func(n byte) [32]byte { return [32]byte{n} }
	runs := []Info{
		{Hash: h(1), Generation: 1},
		{Hash: h(2), Generation: 2},
		{Hash: h(3), Generation: 3, Replaces: [][32]byte{h(1)}},
		{Hash: h(4), Generation: 4, Replaces: [][32]byte{h(3), h(99)}}, // 1 stays replaced
		{Hash: h(5), Generation: 2},
		{Hash: h(5), Generation: 2},
	}
	var got [][32]byte
	for _, r := range liveOf(runs) {
		got = append(got, r.Hash)
	}
	if want := [][32]byte{h(4), h(5), h(2)}; !slices.Equal(got, want) {
		t.Fatalf("%x, want %x", got, want)
	}
	if got := Replaced(runs[2:4]); !slices.Equal(got, [][32]byte{h(1), h(3), h(4), h(99)}) {
		t.Fatalf("replaced %x", got)
	}
}

func whatIsSavedAtOnceIsNotMergedAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.OneOf(rapid.IntRange(1, 100_000_000), rapid.Just(MaxEntries+1), rapid.Just(2_000_000)).Draw(t, "chunks")
		var live []Info
		for left, size := total, evenSize(total, MaxEntries); left > 0; left -= size {
			live = append(live, Info{Hash: idOf(uint64(left)), Generation: 1, Entries: min(left, size)})
		}
		if len(live) != (total+MaxEntries-1)/MaxEntries || Plan(live) != nil {
			t.Fatalf("%d runs, of which %d are merged", len(live), len(Plan(live)))
		}
	})
}

func planKeepsRunsFew(t *testing.T) {
	const most = mergeAtLeast + 20 // 20 > log2(MaxEntries)
	rapid.Check(t, func(t *rapid.T) {
		largest := rapid.SampledFrom([]int{1, 10, 1000, MaxEntries}).Draw(t, "largest")
		var live []Info
		number, added, rewritten := uint64(0), 0, 0
		add := func(entries int) {
			number++
			live = append(live, Info{Hash: idOf(number), Generation: number, Entries: entries})
		}
		for range rapid.IntRange(1, 400).Draw(t, "snapshots") {
			n := rapid.IntRange(0, largest).Draw(t, "entries")
			added += n
			add(n)
			for {
				live = liveOf(live)
				merge := Plan(live)
				if merge == nil {
					break
				}
				sum := 0
				for _, m := range merge {
					sum += m.Entries
					live = slices.DeleteFunc(live, func(r Info) bool { return r.Hash == m.Hash })
				}
				rewritten += sum
				parts := max(1, (sum+MaxEntries-1)/MaxEntries)
				for range parts {
					add(sum / parts)
				}
			}
			large := 0
			for _, r := range live {
				if r.Entries >= MaxEntries/2 {
					large++
				}
			}
			if len(live)-large > most {
				t.Fatalf("%d runs, %d of them large", len(live), large)
			}
		}
		if bound := added * (int(math.Log2(MaxEntries)) + 1); rewritten > bound {
			t.Fatalf("%d entries rewritten for %d added", rewritten, added)
		}
	})
}

func planTakesRunsAlongThatSayAChunkIsGone(t *testing.T) {
	var live []Info
	for i := range byte(10) {
		live = append(live, Info{Hash: [32]byte{i}, Generation: uint64(i) + 10, Entries: 5})
	}
	older := Info{Hash: [32]byte{50}, Generation: 2, Entries: MaxEntries, Gone: 1}
	between := Info{Hash: [32]byte{51}, Generation: 15, Entries: MaxEntries, Gone: 1}
	harmless := Info{Hash: [32]byte{52}, Generation: 15, Entries: MaxEntries}
	merge := Plan(liveOf(append(live, older, between, harmless)))
	has := func(r Info) bool { return slices.ContainsFunc(merge, func(m Info) bool { return m.Hash == r.Hash }) }
	if len(merge) != 11 || has(older) || !has(between) || has(harmless) {
		t.Fatalf("merged %+v", merge)
	}
	if !slices.IsSortedFunc(merge, newerFirst) {
		t.Fatal("not the newest first")
	}
}
