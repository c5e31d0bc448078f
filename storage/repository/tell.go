package repository

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// maxTaken is how often somebody may be faster to put what does not count at
// the serial that a statement is to get.
const maxTaken = 100

// signer is who may sign for a host here: this machine as that host, else the
// owner, which takes an identity.
func (r *Repository) signer(ctx context.Context, host string) (ed25519.PrivateKey, *statement.Certificate, error) {
	h, err := r.Host(ctx)
	if err == nil && h.Name == host {
		return h.key, h.Certificate, nil
	}
	if err != nil && !errors.Is(err, ErrNotEnrolled) && !errors.Is(err, ErrCloned) {
		return nil, nil, err
	}
	owner, err := r.OwnerKey(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("this machine is not host %s, so it takes the owner key: %w", host, err)
	}
	return owner, nil, nil
}

// MaySign tells whether this machine can sign for a host: as that host, or with
// an identity as the owner. The error is ErrNoUsableIdentity when it cannot.
func (r *Repository) MaySign(ctx context.Context, host string) error {
	_, _, err := r.signer(ctx, host)
	return err
}

// TellDeletions publishes what is announced, deleted and spared in a domain,
// as statements after d.Newest, one at least; what they say of order and size
// is seen to here. since is the lowest serial that still has something to say,
// of those before; 0 when nothing has. The last statement says so: until it is
// there, what they would say again counts.
func (r *Repository) TellDeletions(ctx context.Context, host string, domain seal.DomainID, d *Deletions, announced, deleted, spared []statement.Object, repacks []statement.Repack, since uint64, now time.Time) error {
	key, cert, err := r.signer(ctx, host)
	if err != nil {
		return err
	}
	in := d.serials
	if since == 0 {
		since = in.newest + 1
	}
	lists := [3][]statement.Object{announced, deleted, spared}
	for i := range lists {
		lists[i] = slices.SortedFunc(slices.Values(lists[i]), statement.CompareObjects)
	}
	var parts []statement.Repack
	for _, x := range repacks {
		parts = append(parts, x.Split(statement.MaxDeletionObjects)...)
	}
	for more := true; more; {
		x := &statement.Deletion{Repository: r.ID(), Host: host, Domain: domain, Since: since, Made: now, Certificate: cert}
		room := statement.MaxDeletionObjects
		for len(parts) > 0 && (parts[0].Hashes() <= room || len(x.Repacks) == 0) {
			room -= min(room, parts[0].Hashes())
			x.Repacks, parts = append(x.Repacks, parts[0]), parts[1:]
		}
		for i, part := range []*[]statement.Object{&x.Announced, &x.Deleted, &x.Spared} {
			n := min(room, len(lists[i]))
			*part, lists[i] = lists[i][:n], lists[i][n:]
			room -= n
		}
		if more = len(lists[0])+len(lists[1])+len(lists[2])+len(parts) > 0; more {
			x.Since = min(since, max(d.since, 1))
		}
		if in, err = r.tell(ctx, x, key, in, now); err != nil {
			return err
		}
	}
	return nil
}

// tell puts a statement at the next serial. One that was taken since by what
// counts is another's, who prunes at the same time; what does not count is
// passed over, or whoever may put objects could stop every prune.
func (r *Repository) tell(ctx context.Context, x *statement.Deletion, key ed25519.PrivateKey, in serials, now time.Time) (serials, error) {
	for range maxTaken {
		if x.Serial = in.next(); x.Serial == 0 {
			return in, fmt.Errorf("pending deletions of host %s: %w", x.Host, noSerialLeft(x.Host))
		}
		object, err := x.Encode(key)
		if err != nil {
			return in, err
		}
		err = r.withReserve(ctx, x.Host, len(object), func() error {
			return r.put(ctx, layout.KeyDeletion(x.Host, x.Domain, x.Serial), object, now)
		})
		if err == nil {
			if r.local.stateDir != "" { // where a daemon beside this process finds it
				if err := r.local.write(r.pendingFile(x.Host, x.Domain, x.Serial), object); err != nil {
					r.warn(err)
				}
			}
			in.pass(x.Serial, true)
			return in, nil
		}
		if !errors.Is(err, storage.ErrExists) {
			return in, err
		}
		again, derr := r.Deletions(ctx, x.Host, x.Domain)
		if derr != nil {
			return in, derr
		}
		if again.Newest != in.newest || again.serials.next() == x.Serial {
			return in, fmt.Errorf("pending deletions of host %s: another process prunes it just now: let it end, then run again (%w)", x.Host, err)
		}
		in = again.serials
	}
	return in, &TamperError{What: "pending deletions of host " + x.Host, Remembered: "a number that is free", Found: fmt.Sprintf("it taken before we could, %d times", maxTaken),
		Hint: "find out who writes to " + layout.PrefixDeletions(x.Host, x.Domain) + ", and run again"}
}
