package index

import (
	"bytes"
	"cmp"
	"slices"
)

// Replaced lists what a run merged from others replaces: them, and what they
// replaced, so that a reader who never sees them does not take that for live.
// The caller may leave out runs that the store no longer lists.
func Replaced(merged []Info) [][32]byte {
	var all [][32]byte
	for _, r := range merged {
		all = append(all, r.Hash)
		all = append(all, r.Replaces...)
	}
	slices.SortFunc(all, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(all)
}

// newerFirst orders runs so that the first decides: by generation,
// then by hash, both descending.
func newerFirst(a, b Info) int {
	if c := cmp.Compare(b.Generation, a.Generation); c != 0 {
		return c
	}
	return bytes.Compare(b.Hash[:], a.Hash[:])
}

// mergeAtLeast is how many runs must be worth merging together: every merge
// costs an object that a locked store cannot delete for long.
const mergeAtLeast = 8

// Plan returns which of the live runs to merge now, newest first; nil is none.
//
// Runs of half the largest size or more are done. The others are merged when
// eight or more of them are of like size, counted from the smallest: each no
// larger than all smaller ones together. What remains doubles in size from
// run to run, so that after merging as long as Plan asks for it at most 8 +
// log2(MaxEntries) runs are left besides the large ones, and each entry is
// rewritten about log2(MaxEntries) times at most.
//
// A merged run is the newest of all. Chunks that a run outside the merge calls
// are gone would come back when the merge holds an older entry of them, so
// such a run is merged along.
func Plan(live []Info) []Info {
	small := slices.DeleteFunc(slices.Clone(live), func(r Info) bool { return r.Entries >= MaxEntries/2 })
	slices.SortFunc(small, func(a, b Info) int { return cmp.Compare(a.Entries, b.Entries) })
	count, below := 0, 0
	for i, r := range small {
		if r.Entries <= below {
			count = i + 1
		}
		below += r.Entries
	}
	if count < mergeAtLeast {
		return nil
	}
	chosen := small[:count]
	oldest := slices.MaxFunc(chosen, newerFirst)
	merge := slices.DeleteFunc(slices.Clone(live), func(r Info) bool {
		in := slices.ContainsFunc(chosen, func(c Info) bool { return c.Hash == r.Hash })
		return !in && (r.Gone == 0 || newerFirst(r, oldest) > 0)
	})
	slices.SortFunc(merge, newerFirst)
	return merge
}
