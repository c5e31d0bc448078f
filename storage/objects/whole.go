package objects

import (
	"context"
	"errors"
	"fmt"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"time"
)

// Whole reports whether what a snapshot needs was deleted, by history.ErrPruned. What is
// only announced is warned of, and what is missing for another reason. What a delete
// marker hides is there, whatever its host states.
func (r *Objects) Whole(ctx context.Context, s *history.Snapshot) error {
	if s.Body == nil {
		return fmt.Errorf("an identity is needed to find out whether its content is still there: %w", r.t.Closed(ctx, s.Root))
	}
	d, err := r.d.Deletions(ctx, s.Host, s.Root.Domain)
	if err != nil {
		return err
	}
	pruned := func() error {
		on := ""
		for _, status := range d.All() {
			if status.State == deletion.Deleted && status.At.After(s.Body.Finished) {
				on = ", by " + status.At.Local().Format(time.DateTime)
				break
			}
		}
		return fmt.Errorf("%s: %w%s: choose another, as `knowngood list` shows them", s.Ref(), history.ErrPruned, on)
	}
	m := s.Body.Manifest
	objects, err := r.NewReader(s.Host, s.Domain).Objects(ctx, s.Body)
	if errors.Is(err, storage.ErrNotFound) {
		return pruned()
	}
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", s.Ref(), err)
	}
	there, err := domain{s.Domain, r, s.Host}.there(ctx)
	if err != nil {
		return err
	}
	announced, missing := 0, 0
	for _, o := range objects {
		for _, id := range d.Resolve(m.Hash, ID{Kind: o.Kind, Hash: o.Hash}, func(id ID) bool { return there[id] }) {
			switch {
			case !there[id] && d.Of(id).State == deletion.Deleted:
				return pruned()
			case !there[id]:
				missing++
			case d.Absent(id):
				announced++
			}
		}
	}
	if missing > 0 { // what they held may have been stored again elsewhere
		r.t.Warn(fmt.Errorf("%s: %d of its objects are not in the store, and no prune is known to have deleted them: knowngood check shows what it lacks", s.Ref(), missing))
	}
	if announced > 0 {
		r.t.Warn(fmt.Errorf("%s: %d of its objects are announced for deletion: the next `knowngood prune` spares them, but one that is at work right now may delete them; look again with `knowngood check` after it", s.Ref(), announced))
	}
	return nil
}
