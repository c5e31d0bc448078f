package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Suspects are the snapshots that are suspect by the word of their host, and what was
// accepted of them.
type Suspects struct {
	t          *trust.Trust
	tombstones *Tombstones
}

// Acceptances are what holds of the acceptances of an environment: the newest
// of each signer that counts, or nil.
type Acceptances struct {
	Host, Owner *statement.Acceptance
	newest      [32]byte // hash of the newest that counts; zero for none
	numbers     ledger.Numbers
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
	return slices.ContainsFunc([]*statement.Acceptance{a.Host, a.Owner}, func(x *statement.Acceptance) bool {
		return x != nil && slices.ContainsFunc(x.Accepted, func(y statement.Accepted) bool { return y.Number == number })
	})
}

// Suspect reports whether a snapshot is suspect by the word of its host, and
// nobody accepted it.
func (a *Acceptances) Suspect(s *Snapshot) bool { return Flagged(s) && !a.Names(s) }

// Flagged reports whether a snapshot was suspect when it was made.
func Flagged(s *Snapshot) bool { return s.Body != nil && len(s.Body.Suspect) > 0 }

func (h *Suspects) acceptances(host, env string, certs []*statement.Certificate) *ledger.Ledger[*statement.Acceptance] {
	return &ledger.Ledger[*statement.Acceptance]{
		Reader: h.t.Read, Prefix: layout.PrefixAcceptances(host, env), What: "acceptance", Limit: trust.MaxStatement, Beside: layout.PrefixEnvironments(host),
		Seen:   h.t.State.Statements(layout.PrefixAcceptances(host, env)),
		Number: func(key string) (uint64, bool) { _, _, n, ok := layout.ParseAcceptanceKey(key); return n, ok },
		Key:    func(x *statement.Acceptance) string { return layout.KeyAcceptance(x.Host, x.Environment, x.Serial) },
		Parse: func(object []byte) (*statement.Acceptance, error) {
			x, err := statement.ParseAcceptance(object)
			if err == nil {
				err = statement.CheckAcceptanceCertificate(x, certs, h.t.Descriptor().Owner, h.t.ID())
			}
			return x, err
		},
	}
}

// warnUnlessEnded warns of an entry that does not count, unless it was signed under a
// certificate that ended.
func warnUnlessEnded(t *trust.Trust, err error) {
	if !errors.Is(err, statement.ErrEnded) {
		t.Warn(err)
	}
}

// Acceptances reads those of an environment.
func (h *Suspects) Acceptances(ctx context.Context, host, env string) (*Acceptances, error) {
	certs, err := h.t.Certificates(ctx, host)
	if err != nil {
		return nil, err
	}
	out := &Acceptances{}
	for e, err := range h.acceptances(host, env, certs).All(ctx, 1) {
		if err != nil {
			return nil, err
		}
		out.numbers.Pass(e.Number, e.Counts())
		if !e.Counts() {
			warnUnlessEnded(h.t, e.Err)
			continue
		}
		out.newest = cmp.Or(out.newest, e.Value.Hash())
		of := &out.Owner
		if e.Value.Certificate != nil {
			of = &out.Host
		}
		*of = cmp.Or(*of, e.Value)
		if out.Host != nil && out.Owner != nil {
			break
		}
	}
	return out, nil
}

// Suspect reports whether a snapshot is suspect by the word of its host, and
// nobody accepted it. Of others it asks nothing of the store.
func (h *Suspects) Suspect(ctx context.Context, s *Snapshot) (bool, error) {
	if !Flagged(s) {
		return false, nil
	}
	a, err := h.Acceptances(ctx, s.Host, s.Environment)
	return err == nil && a.Suspect(s), err
}

// NewestGood is the newest snapshot of an environment that is kept, verifies
// and is not suspect; nil when there is none. What nothing at hand opens is not
// known to be good.
func (h *Suspects) NewestGood(ctx context.Context, host, env string) (*Snapshot, error) {
	a, err := h.Acceptances(ctx, host, env)
	if err != nil {
		return nil, err
	}
	for s, err := range h.tombstones.Kept(ctx, host, env) {
		switch {
		case err == nil && s.Body != nil && !a.Suspect(s):
			return s, nil
		case err != nil && !authentic.Damaged(err):
			return nil, err
		}
	}
	return nil, nil
}

// Accept writes an acceptance that names snapshots of an environment, besides
// those that its signer accepted before: this machine as the host, or, with an
// identity, the owner. The oldest go where there would be more than
// statement.MaxAccepted.
func (h *Suspects) Accept(ctx context.Context, host, env string, accepted []statement.Accepted, reason string, now time.Time) (*statement.Acceptance, error) {
	key, cert, err := h.t.Signer(ctx, host)
	if err != nil {
		return nil, err
	}
	var a *Acceptances
	free := func(ctx context.Context) (uint64, error) {
		if a, err = h.Acceptances(ctx, host, env); err != nil {
			return 0, err
		}
		return a.numbers.Free(), nil
	}
	encode := func(serial uint64) ([]byte, error) {
		x := &statement.Acceptance{Repository: h.t.ID(), Host: host, Environment: env, Serial: serial, Previous: a.newest, Accepted: slices.Clone(accepted), Made: now, Reason: reason, Certificate: cert}
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
		return x.Encode(key)
	}
	object, err := ledger.Claim(ctx, fmt.Sprintf("acceptances of %s of host %s", env, host), free, encode, func(ctx context.Context, serial uint64, object []byte) error {
		return h.t.Put(ctx, layout.KeyAcceptance(host, env, serial), object, now)
	})
	if err != nil {
		return nil, fmt.Errorf("accept snapshots of %s: %w", env, err)
	}
	return statement.ParseAcceptance(object)
}
