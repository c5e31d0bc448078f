package repository

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"knowngood/storage"
	"knowngood/storage/statement"
)

// numbered is a statement of a sequence in an environment, as a listing shows
// it.
type numbered struct {
	serial uint64
	counts bool
}

// numbered yields the statements below prefix, the newest first, each with
// whether it counts: what check said last is of that one, then. check reads an
// object, and returns the key under which it must lie, or why it does not
// count. What does not verify is warned of and passed over; what was signed
// under a certificate that ended is passed over alone.
func (r *Repository) numbered(ctx context.Context, host, prefix, what string, parseKey func(key string) (host, environment string, serial uint64, ok bool),
	check func(object []byte, certs []*statement.Certificate) (key string, err error)) iter.Seq2[numbered, error] {
	return func(yield func(numbered, error) bool) {
		fail := func(err error) { yield(numbered{}, err) }
		for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
			if err != nil {
				fail(fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			_, _, serial, ok := parseKey(o.Key)
			if !ok {
				continue
			}

			certs, err := r.hostCertificates(ctx, host)
			if err != nil {
				fail(err)
				return
			}
			counts := func(object []byte) error {
				key, err := check(object, certs)
				if err == nil && key != o.Key {
					err = fmt.Errorf("it belongs to %s", key)
				}
				if err != nil {
					return &DamageError{Key: o.Key, What: what, Err: err}
				}
				return nil
			}

			object, err := r.listed(ctx, o, func(b []byte) bool { return counts(b) == nil })
			if errors.Is(err, storage.ErrNotFound) {
				err = &DamageError{Key: o.Key, What: what, Err: err}
			}
			if err == nil {
				err = counts(object)
			}
			switch {
			case err == nil, errors.Is(err, statement.ErrEnded):
			case Damaged(err):
				r.warn(err)
			default:
				fail(err)
				return
			}
			if !yield(numbered{serial, err == nil}, nil) {
				return
			}
		}
	}
}
