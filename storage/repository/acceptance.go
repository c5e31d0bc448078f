package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// Acceptances are what holds of the acceptances of an environment: the newest
// of each signer that counts, or nil.
type Acceptances struct {
	Host, Owner *statement.Acceptance
	newest      [32]byte // hash of the newest that counts; zero for none
	serials     serials
}

// Names reports whether the host or the owner accepted a snapshot.
func (a *Acceptances) Names(s *Snapshot) bool {
	return a.Host.Names(s.Number, s.ID) || a.Owner.Names(s.Number, s.ID)
}

// Highest is the highest number that is accepted; 0 for none.
func (a *Acceptances) Highest() uint64 {
	n := uint64(0)
	for _, x := range []*statement.Acceptance{a.Host, a.Owner} {
		if x != nil {
			n = max(n, x.Accepted[len(x.Accepted)-1].Number)
		}
	}
	return n
}

// NamesNumber is Names of the snapshot of that number.
func (a *Acceptances) NamesNumber(number uint64) bool {
	for _, x := range []*statement.Acceptance{a.Host, a.Owner} {
		if x != nil && slices.ContainsFunc(x.Accepted, func(y statement.Accepted) bool { return y.Number == number }) {
			return true
		}
	}
	return false
}

// Suspect reports whether a snapshot is suspect by the word of its host, and
// nobody accepted it.
func (a *Acceptances) Suspect(s *Snapshot) bool { return Flagged(s) && !a.Names(s) }

// Flagged reports whether a snapshot was suspect when it was made.
func Flagged(s *Snapshot) bool { return s.Body != nil && len(s.Body.Suspect) > 0 }

// Acceptances reads those of an environment.
func (r *Repository) Acceptances(ctx context.Context, host, env string) (*Acceptances, error) {
	out := &Acceptances{}
	var x *statement.Acceptance
	all := r.numbered(ctx, host, layout.PrefixAcceptances(host, env), "acceptance", layout.ParseAcceptanceKey, func(object []byte, certs []*statement.Certificate) (key string, err error) {
		x, err = statement.ParseAcceptance(object)
		if err == nil {
			err = statement.CheckAcceptanceCertificate(x, certs, r.desc.Owner, r.ID())
		}
		if err != nil {
			return "", err
		}
		return layout.KeyAcceptance(x.Host, x.Environment, x.Serial), nil
	})
	for n, err := range all {
		if err != nil {
			return nil, err
		}
		out.serials.pass(n.serial, n.counts)
		if !n.counts {
			continue
		}
		if out.newest == [32]byte{} {
			out.newest = x.Hash()
		}
		of := &out.Owner
		if x.Certificate != nil {
			of = &out.Host
		}
		if *of == nil {
			*of = x
		}
		if out.Host != nil && out.Owner != nil {
			break
		}
	}
	return out, nil
}

// Suspect reports whether a snapshot is suspect by the word of its host, and
// nobody accepted it. Of others it asks nothing of the store.
func (r *Repository) Suspect(ctx context.Context, s *Snapshot) (bool, error) {
	if !Flagged(s) {
		return false, nil
	}
	a, err := r.Acceptances(ctx, s.Host, s.Environment)
	return err == nil && a.Suspect(s), err
}

// NewestGood is the newest snapshot of an environment that is kept, verifies
// and is not suspect; nil when there is none. What nothing at hand opens is not
// known to be good.
func (r *Repository) NewestGood(ctx context.Context, host, env string) (*Snapshot, error) {
	a, err := r.Acceptances(ctx, host, env)
	if err != nil {
		return nil, err
	}
	for s, err := range r.Kept(ctx, host, env) {
		switch {
		case err == nil && s.Body != nil && !a.Suspect(s):
			return s, nil
		case err != nil && !Damaged(err):
			return nil, err
		}
	}
	return nil, nil
}

// Accept writes an acceptance that names snapshots of an environment, besides
// those that its signer accepted before: this machine as the host, or, with an
// identity, the owner. The oldest go where there would be more than
// statement.MaxAccepted.
func (r *Repository) Accept(ctx context.Context, host, env string, accepted []statement.Accepted, reason string, now time.Time) (*statement.Acceptance, error) {
	key, cert, err := r.signer(ctx, host)
	if err != nil {
		return nil, err
	}
	for range maxTaken {
		a, err := r.Acceptances(ctx, host, env)
		if err != nil {
			return nil, err
		}
		x := &statement.Acceptance{Repository: r.ID(), Host: host, Environment: env, Serial: a.serials.next(), Previous: a.newest, Accepted: slices.Clone(accepted), Made: now, Reason: reason, Certificate: cert}
		if x.Serial == 0 {
			return nil, fmt.Errorf("accept snapshots of %s: %w", env, noSerialLeft(host))
		}
		before := a.Owner
		if cert != nil {
			before = a.Host
		}
		if before != nil {
			x.Accepted = append(x.Accepted, before.Accepted...)
		}
		slices.SortStableFunc(x.Accepted, func(a, b statement.Accepted) int { return cmp.Compare(a.Number, b.Number) })
		x.Accepted = slices.CompactFunc(x.Accepted, func(a, b statement.Accepted) bool { return a.Number == b.Number })
		x.Accepted = x.Accepted[max(0, len(x.Accepted)-statement.MaxAccepted):]

		object, err := x.Encode(key)
		if err != nil {
			return nil, err
		}
		err = r.put(ctx, layout.KeyAcceptance(host, env, x.Serial), object, now)
		if errors.Is(err, storage.ErrExists) {
			continue // another process was first
		}
		if err != nil {
			return nil, fmt.Errorf("accept snapshots of %s: %w", env, err)
		}
		return statement.ParseAcceptance(object)
	}
	return nil, &TamperError{What: "acceptances of " + env + " of host " + host, Remembered: "a number that is free", Found: fmt.Sprintf("it taken before we could, %d times", maxTaken),
		Hint: "find out who writes to " + layout.PrefixAcceptances(host, env) + ", and run again"}
}
