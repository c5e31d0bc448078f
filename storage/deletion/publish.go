package deletion

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"slices"
	"time"
)

// Publish puts what is announced, deleted and spared in a domain into statements
// after d.Newest, at least one. It sorts the lists and splits them to fit. since is
// the lowest serial of those before that must still be read; 0 when there is none.
// Only the last statement has it: until that one is stored, all those before count.
func (x *Deletion) Publish(ctx context.Context, host string, domain seal.DomainID, d *Deletions, announced, deleted, spared []statement.Object, repacks []statement.Repack, since uint64, now time.Time) error {
	key, cert, err := x.t.Signer(ctx, host)
	if err != nil {
		return err
	}
	newest, free := d.numbers.Newest, d.numbers.Free()
	since = cmp.Or(since, newest+1)
	lists := [3][]statement.Object{announced, deleted, spared}
	for i := range lists {
		lists[i] = slices.SortedFunc(slices.Values(lists[i]), statement.CompareObjects)
	}
	var parts []statement.Repack
	for _, repack := range repacks {
		parts = append(parts, repack.Split(statement.MaxDeletionObjects)...)
	}
	for more := true; more; {
		s := &statement.Deletion{Repository: x.t.ID(), Host: host, Domain: domain, Since: since, Made: now, Certificate: cert}
		room := statement.MaxDeletionObjects
		for len(parts) > 0 && (parts[0].Hashes() <= room || len(s.Repacks) == 0) {
			room -= min(room, parts[0].Hashes())
			s.Repacks, parts = append(s.Repacks, parts[0]), parts[1:]
		}
		for i, part := range []*[]statement.Object{&s.Announced, &s.Deleted, &s.Spared} {
			n := min(room, len(lists[i]))
			*part, lists[i] = lists[i][:n], lists[i][n:]
			room -= n
		}
		if more = len(lists[0])+len(lists[1])+len(lists[2])+len(parts) > 0; more {
			s.Since = min(since, max(d.since, 1))
		}
		if newest, err = x.publish(ctx, s, key, newest, free, now); err != nil {
			return err
		}
		free = newest + 1
	}
	return nil
}

// publish puts one statement at the free number, and returns that number. A statement
// that counts and took the number since is of another prune, which is an error.
// Objects that do not count are skipped, so that others who may put objects cannot
// stop every prune.
func (x *Deletion) publish(ctx context.Context, s *statement.Deletion, key ed25519.PrivateKey, newest, first uint64, now time.Time) (uint64, error) {
	what := "pending deletions of host " + s.Host
	free := func(ctx context.Context) (uint64, error) {
		if first > 0 {
			defer func() { first = 0 }()
			return first, nil
		}
		again, err := x.Deletions(ctx, s.Host, s.Domain)
		if err != nil {
			return 0, err
		}
		if again.Newest != newest {
			return 0, fmt.Errorf("%s: another process prunes it just now: wait until it has ended, then run this again (%w)", what, storage.ErrExists)
		}
		return again.Free(), nil
	}
	encode := func(serial uint64) ([]byte, error) {
		s.Serial = serial
		return s.Encode(key)
	}
	object, err := ledger.Claim(ctx, what, free, encode, func(ctx context.Context, serial uint64, object []byte) error {
		if s.Certificate != nil {
			if err := x.seen(s.Host, s.Domain).publishes(sha256.Sum256(object)); err != nil {
				return err
			}
		}
		return x.WithReserve(ctx, s.Host, len(object), func() error {
			return x.t.Put(ctx, layout.KeyDeletion(s.Host, s.Domain, serial), object, now)
		})
	})
	if err != nil {
		return 0, err
	}
	if !x.t.State.None() { // where a daemon beside this process finds it
		if err := x.t.State.Write(x.PendingFile(s.Host, s.Domain, s.Serial), object); err != nil {
			x.t.Warn(err)
		}
	}
	return s.Serial, nil
}
