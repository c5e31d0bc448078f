package objects

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
)

// SegmentCopy is where a segment of a manifest lies.
type SegmentCopy struct {
	Container         pack.Ref
	Offset, SealedLen uint32
}

// segmentCopies are all segments in the containers of a domain, read once, when
// the first segment is not where its table says.
type segmentCopies struct {
	once sync.Once
	mu   sync.Mutex
	all  map[[32]byte][]SegmentCopy
	err  error
}

// SegmentCopies finds the places where a segment lies, for a container that is
// lost or damaged: a later snapshot of the host may have stored it again. It
// reads the contents of all containers of the domain, once.
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
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(tailsInFlight)
	for _, o := range all {
		g.Go(func() error {
			if covered[o.Hash] {
				if err := r.containers.uncoverOwn(gctx, o); err != nil {
					return err
				}
			}
			tail, contents, err := r.containers.contents(gctx, o.Hash, int64(o.Size))
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
	for _, f := range contents.Frames {
		for _, c := range f.Chunks { // one, or none in the frame of the table
			s.all[c.ID] = append(s.all[c.ID], SegmentCopy{in, f.Offset, f.SealedLen})
		}
	}
}
