package objects

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

func TestMemory(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		kind              wire.Kind
		target, few, most int
		soon, limit       int64 // MiB, while uploads are fast and at most
	}{
		"of packs is that of three, and of six while uploads are slow": {wire.KindPack, 16 * mib, fewPacks, mostPacks, 50, 99},
		"of containers is that of two":                                 {wire.KindManifest, metaTarget, containers, containers, 9, 9},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPacker(nil, c.kind, c.target, c.few, c.most)
				var held [][]byte
				// take takes what there is within a time.
				take := func(within time.Duration) (bytes int64) {
					for {
						ctx, cancel := context.WithTimeout(t.Context(), within)
						b, err := p.buffer(ctx)
						cancel()
						if err != nil {
							return bytes
						}
						held = append(held, b)
						bytes += int64(cap(b))
					}
				}
				before := treetest.Heap()
				soon := take(slowUpload / 2)
				all := soon + take(time.Hour)
				if grown := treetest.Heap() - before; grown > all+mib {
					t.Errorf("%d bytes of heap for %d", grown, all)
				}
				if soon > c.soon*mib || all > c.limit*mib || len(held) != c.most {
					t.Errorf("%d objects, %d bytes and %d at most, want %d MiB and %d", len(held), soon, all, c.soon, c.limit)
				}
			})
		})
	}
	t.Run("of a frame's content is twice the target for the longest chunk", func(t *testing.T) {
		w := &Writer{ctx: t.Context(), buffers: make(chan []byte, 1)}
		for _, size := range []int{1, pack.FrameTarget, pack.FrameTarget + 1, 2 * pack.FrameTarget} {
			w.buffers <- nil
			b, err := w.buffer(size)
			if err != nil || cap(b) < size || cap(b) > 2*pack.FrameTarget {
				t.Errorf("%d bytes for %d, %v", cap(b), size, err)
			}
		}
	})
}
