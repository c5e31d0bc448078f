package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"iter"
	"slices"

	"knowngood/storage/pack"
)

// MergeOptions are what a merge leaves out.
type MergeOptions struct {
	// DropGone leaves out chunks that are gone, which is right only when the
	// files are all there is.
	DropGone bool
	// LeaveOut are packs whose entries are taken for not there.
	LeaveOut map[[32]byte]bool
}

// Merge yields the entries of files, which stand newest first, as bodies of
// at most limit entries each, cut by ranges of IDs and of about equal size.
// Of several entries of one chunk the newest holds. There is at least one
// body, be it empty, unless there are no files.
//
// Each body reads from the files when its entries are asked for. Besides the
// mapped files a merge holds the frames and packs of one body.
func Merge(files []*File, limit int, o MergeOptions) iter.Seq[*Body] {
	return func(yield func(*Body) bool) {
		if len(files) == 0 {
			return
		}
		total := 0
		for _, f := range files {
			total += f.len()
		}
		size := evenSize(total, limit)
		var from [32]byte
		for more := true; more; {
			var b *Body
			b, from, more = mergePart(files, from, size, o)
			if !yield(b) {
				return
			}
		}
	}
}

// evenSize is the size of the parts into which so many entries are cut, of at most
// limit each. Where there are several, none is smaller than half of it.
func evenSize(total, limit int) int {
	parts := max(1, (total+limit-1)/limit)
	return (total + parts - 1) / parts
}

// frameRef is a frame of one of the merged files.
type frameRef struct{ file, frame int32 }

// mergePart builds the body of the first size entries from an ID on. next is
// where to go on when there are more.
func mergePart(files []*File, from [32]byte, size int, o MergeOptions) (b *Body, next [32]byte, more bool) {
	b = &Body{}
	numbers := map[frameRef]uint32{} // the frames' positions in b.Frames
	var used []frameRef
	for file, e := range merged(files, from, o) {
		if b.Len == size {
			next, more = e.ID, true
			break
		}
		b.Len++
		if e.Gone {
			b.Gone++
		} else if numbers[frameRef{int32(file), int32(e.Frame)}] = 0; len(numbers) > len(used) {
			used = append(used, frameRef{int32(file), int32(e.Frame)})
		}
	}
	b.number(files, used, numbers)
	b.Entries = func(yield func(Entry) bool) {
		n := 0
		for file, e := range merged(files, from, o) {
			if n == b.Len {
				return
			}
			n++
			if !e.Gone {
				e.Frame = numbers[frameRef{int32(file), int32(e.Frame)}]
			}
			if !yield(e) {
				return
			}
		}
	}
	return b, next, more
}

// number puts the used frames in order, each once, and fills in numbers. Two
// files that disagree about the frames of a pack are no reason to fail: a
// frame that overlaps the one before begins another row of the same pack.
func (x *Body) number(files []*File, used []frameRef, numbers map[frameRef]uint32) {
	read := func(r frameRef) (pack.Ref, Frame) { return files[r.file].locate(Entry{Frame: uint32(r.frame)}) }
	slices.SortFunc(used, func(a, b frameRef) int {
		p, f := read(a)
		q, g := read(b)
		return cmp.Or(comparePacks(&p, &q), cmp.Compare(f.Offset, g.Offset), cmp.Compare(f.SealedLen, g.SealedLen), cmp.Compare(f.ContentLen, g.ContentLen))
	})
	for _, r := range used {
		p, f := read(r)
		var last Frame
		if n := len(x.Frames); n > 0 {
			last = x.Frames[n-1]
		}
		samePack := len(x.Packs) > 0 && x.Packs[len(x.Packs)-1] == p
		same := samePack && last.Offset == f.Offset && last.SealedLen == f.SealedLen && last.ContentLen == f.ContentLen
		if !samePack || !same && uint64(f.Offset) < last.end() {
			x.Packs = append(x.Packs, p)
		}
		if !same {
			f.Pack = uint32(len(x.Packs) - 1)
			x.Frames = append(x.Frames, f)
		}
		numbers[r] = uint32(len(x.Frames) - 1)
	}
}

func comparePacks(a, b *pack.Ref) int {
	return cmp.Or(bytes.Compare(a.Hash[:], b.Hash[:]), bytes.Compare(a.Session[:], b.Session[:]), bytes.Compare(a.Salt[:], b.Salt[:]), cmp.Compare(a.Size, b.Size))
}

// cursor is a place in one of the merged files.
type cursor struct {
	key  uint64 // beginning of the ID there
	rank int    // position of the file: lower is newer
	at   int
	file *File
}

func (c *cursor) less(o *cursor) bool {
	if c.key != o.key {
		return c.key < o.key
	}
	if n := bytes.Compare(c.file.id(c.at), o.file.id(o.at)); n != 0 {
		return n < 0
	}
	return c.rank < o.rank
}

// merged yields the entries of files from an ID on, each chunk once, with the
// position of the file that it comes from.
func merged(files []*File, from [32]byte, o MergeOptions) iter.Seq2[int, Entry] {
	return func(yield func(int, Entry) bool) {
		var heap []cursor
		for i, f := range files {
			if at := f.seek(&from); at < f.len() {
				heap = append(heap, cursor{f.key(at), i, at, f})
			}
		}
		for i := len(heap)/2 - 1; i >= 0; i-- {
			sink(heap, i)
		}
		var last [32]byte
		for first := true; len(heap) > 0; {
			c := &heap[0]
			e, rank, file := c.file.entry(c.at), c.rank, c.file
			if c.at++; c.at < c.file.len() {
				c.key = binary.BigEndian.Uint64(c.file.id(c.at))
			} else {
				heap[0] = heap[len(heap)-1]
				heap = heap[:len(heap)-1]
			}
			sink(heap, 0)
			if !first && e.ID == last {
				continue
			}
			if len(o.LeaveOut) > 0 && !e.Gone {
				if p, _ := file.locate(e); o.LeaveOut[p.Hash] {
					continue
				}
			}
			first, last = false, e.ID
			if !(e.Gone && o.DropGone) && !yield(rank, e) {
				return
			}
		}
	}
}

// sink restores the order of a heap whose element i may be too large.
func sink(heap []cursor, i int) {
	for {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && heap[child+1].less(&heap[child]) {
			child++
		}
		if !heap[child].less(&heap[i]) {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}
