package ledger

import (
	"context"
	"fmt"

	"knowngood/storage"
	"knowngood/storage/authentic"
)

// maxSample is how many objects are asked for to find out whether the credentials
// may read others.
const maxSample = 64

// withheld judges that the store denied an object: it is damage to this one where the
// same credentials may read others beside it, and else the error of the store. Who may
// put objects can have the store deny one of them to everybody else.
func (l *Ledger[T]) withheld(ctx context.Context, key string, denied error) error {
	if open, err := l.givesOut(ctx); err != nil || !open {
		return denied
	}
	return &authentic.DamageError{Key: key, What: l.What, Err: fmt.Errorf("%w, and gives out others beside it: %v", storage.ErrWithheld, denied)}
}

// givesOut reports whether the store gives out any other object of the ledger, or
// beside it. What it found out first holds for good.
func (l *Ledger[T]) givesOut(ctx context.Context) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked {
		return l.open, nil
	}
	store := l.Reader.Store()
	for _, prefix := range []string{l.Prefix, l.Beside} {
		if prefix == "" {
			continue
		}
		var keys []string
		for o, err := range store.List(ctx, storage.ListOptions{Prefix: prefix}) {
			if err != nil {
				return false, err
			}
			keys = append(keys, o.Key)
		}
		// A sample from all of them: whoever withholds the newest put those last.
		step := max(1, (len(keys)+maxSample-1)/maxSample)
		for i := len(keys) - 1; i >= 0; i -= step {
			_, err := storage.Append(ctx, nil, store, keys[i], 0, 1)
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if err == nil {
				l.asked, l.open = true, true
				return true, nil
			}
		}
	}
	l.asked = true
	return false, nil
}
