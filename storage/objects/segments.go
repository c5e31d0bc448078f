package objects

import (
	"context"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
)

// SegmentCopy is where a segment of a manifest lies.
type SegmentCopy struct {
	Container         pack.Ref
	Offset, SealedLen uint32
}

// segmentCopies are all segments in the objects of a domain, read once, when
// the first segment is not where its table locates it.
type segmentCopies struct {
	once sync.Once
	mu   sync.Mutex
	all  map[[32]byte][]SegmentCopy
	err  error
}

// SegmentCopies finds the places where a segment lies, for a container that is
// lost or damaged: a later snapshot of the host may have stored it again. It
// reads the contents of all containers of the domain, and of small packs, once.
func (r *Reader) SegmentCopies(ctx context.Context, id [32]byte) ([]SegmentCopy, error) {
	s := &r.segments
	s.once.Do(func() {
		s.all = map[[32]byte][]SegmentCopy{}
		s.err = r.readSegments(ctx)
	})
	return s.all[id], s.err
}

func (r *Reader) readSegments(ctx context.Context) error {
	all, covered, err := r.listBeneath(ctx, layout.PrefixManifests(r.host, r.ID))
	if err != nil {
		return err
	}
	packs, coveredPacks, err := r.listBeneath(ctx, layout.PrefixPacks(r.host, r.ID))
	if err != nil {
		return err
	}
	maps.Copy(covered, coveredPacks)
	all = append(all, packs...)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(tailsInFlight)
	for _, o := range all {
		if o.Kind == wire.KindPack && o.Size > 4*metaTarget {
			continue // its writer put no segment into it
		}
		g.Go(func() error {
			if covered[o.Hash] {
				if err := r.of(o.Kind).uncoverOwn(gctx, o); err != nil {
					return err
				}
			}
			tail, contents, err := r.of(o.Kind).contents(gctx, o.Hash, int64(o.Size))
			if authentic.Damaged(err) {
				return nil // another container may have the segment
			}
			if err != nil {
				return err
			}
			r.segments.add(tail.Ref(o.Hash), contents)
			return nil
		})
	}
	return g.Wait()
}

func (s *segmentCopies) add(in pack.Ref, contents *pack.Contents) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range contents.Manifest {
		for _, c := range f.Chunks { // one, or none in the frame of the table
			s.all[c.ID] = append(s.all[c.ID], SegmentCopy{in, f.Offset, f.SealedLen})
		}
	}
}
