package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

const (
	maxListed  = 1000 // catalogues that are looked for, the newest: those of 15,000 roots
	maxWritten = 4    // catalogues that one commit writes
)

// writeCatalogues writes the catalogue that is due after a root was committed, and
// others that are missing. Nobody needs them: without one its roots are read one by one.
func (h *Roots) writeCatalogues(ctx context.Context, host, env string, number uint64, now time.Time) error {
	if number%spans[len(spans)-1] != 0 {
		return nil
	}
	due, err := h.dueCatalogues(ctx, host, env, number)
	if err != nil || len(due) == 0 {
		return err
	}

	lowest := due[len(due)-1].First
	roots := map[uint64][]byte{}
	for s, err := range h.Snapshots(ctx, host, env) {
		if err != nil && !authentic.Damaged(err) {
			return err
		}
		if err == nil && s.Number < lowest {
			break
		}
		if err == nil {
			roots[s.Number] = s.Root.Bytes()
		}
	}
	for _, span := range due {
		var objects [][]byte
		for n := span.First; n <= span.Last; n++ {
			if roots[n] != nil {
				objects = append(objects, roots[n])
			}
		}
		object, err := statement.EncodeCatalogue(objects)
		if err == nil {
			err = h.t.Put(ctx, layout.KeyCatalogue(host, env, span.Last), object, now)
		}
		if err != nil && !errors.Is(err, storage.ErrExists) {
			return fmt.Errorf("catalogue of %s@%d to %s@%d: %w", env, span.First, env, span.Last, err)
		}
	}
	return nil
}

// dueCatalogues are the spans of the catalogues that should be there and are not, the
// newest first. Small ones are of use only until there is a large one.
func (h *Roots) dueCatalogues(ctx context.Context, host, env string, number uint64) (due []statement.Range, err error) {
	large, small := spans[0], spans[1]
	there := map[uint64]bool{}
	for o, err := range h.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixCatalogues(host, env), Limit: maxListed}) {
		if err != nil {
			return nil, err
		}
		if _, _, last, ok := layout.ParseCatalogueKey(o.Key); ok {
			there[last] = true
		}
	}
	for last := number; last > 0 && last+maxListed*small > number && len(due) < maxWritten; last -= small {
		switch {
		case there[last]:
		case last%large == 0:
			due = append(due, statement.Range{First: last - large + 1, Last: last})
		case last > number/large*large:
			due = append(due, statement.Range{First: last - small + 1, Last: last})
		}
	}
	return due, nil
}
