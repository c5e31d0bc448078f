package snapshot

import (
	"context"
	"knowngood/storage/localstate"
	"time"
)

// protect extends the locks of what the snapshot shares with earlier ones: it
// is as protected as its least protected object. It returns until when all of it
// is. Where that fails the snapshot is worth having all the same, with a warning of
// the repository.
func (c *capture) protect(ctx context.Context, t *localTrailer) (time.Time, error) {
	objects := t.needed()
	t.store, t.locks = localstate.PlaceHash(c.repo.State.Place), make([]time.Time, len(objects))
	if c.repo.Descriptor().LockMode == "" {
		return time.Time{}, nil
	}
	known := map[[32]byte]time.Time{}
	if c.parents.last != nil && c.parents.last.trailer.store == t.store {
		for i, o := range c.parents.last.trailer.needed() {
			known[o.Hash] = c.parents.last.trailer.locks[i]
		}
	}
	for i, o := range objects {
		if t.locks[i] = c.writer.LockEnd(o.Hash); t.locks[i].IsZero() {
			t.locks[i] = known[o.Hash]
		}
	}
	return c.repo.Protect(ctx, c.host, objects, t.locks, c.started)
}
