package fetch

import (
	"encoding/binary"
	"testing"

	"knowngood/internal/treetest"
	"knowngood/snapshot/manifest"
	"knowngood/storage/pack"
)

func TestMemory(t *testing.T) {
	for _, c := range []struct {
		name         string
		size, chunks int // bytes of each chunk, and how many fill a window
	}{
		{"of small chunks, each in a frame of its own", 100, windowChunks},
		{"of chunks of a MiB", 1 << 20, 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			ref := &pack.Ref{}
			chunks := make([]manifest.Chunk, c.chunks)
			for i := range chunks {
				binary.LittleEndian.PutUint32(chunks[i].ID[:], uint32(i))
				chunks[i].Len = uint32(c.size)
				chunks[i].Loc = manifest.Location{Pack: ref, FrameOffset: uint32(i * c.size), FrameLen: uint32(c.size)}
			}
			before := treetest.Heap()
			w := window{frames: map[frameKey]*frame{}}
			for i := range chunks[1:] {
				if plan := w.add(use{nil, &chunks[i], 0}); plan != nil {
					t.Fatalf("%d chunks fill a window", i+1)
				}
			}
			used := treetest.Heap() - before
			t.Logf("%d bytes for %d chunks", used, c.chunks)
			if used > 6<<20 {
				t.Errorf("%d bytes for %d chunks", used, c.chunks)
			}
			plan := w.add(use{nil, &chunks[c.chunks-1], 0})
			if plan == nil || len(w.order) > 0 {
				t.Fatalf("%d chunks do not fill a window", c.chunks)
			}
			for _, j := range plan {
				if j.len > rangeBytes {
					t.Errorf("a range of %d bytes", j.len)
				}
			}
		})
	}
}
