package history

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Tombstones are what was forgotten.
type Tombstones struct {
	t     *trust.Trust
	d     *deletion.Deletion
	c     Content
	roots *Roots
}

// Tombstone is what decides which snapshots of an environment are forgotten; nil
// when nothing does.
func (h *Tombstones) Tombstone(ctx context.Context, host, env string) (*statement.Tombstone, error) {
	x, _, err := h.tombstone(ctx, host, env)
	return x, err
}

func (h *Tombstones) ledger(host, env string, certs []*statement.Certificate) *ledger.Ledger[*statement.Tombstone] {
	return &ledger.Ledger[*statement.Tombstone]{
		Reader: h.t.Read, Prefix: layout.PrefixTombstones(host, env), What: "tombstone", Limit: trust.MaxStatement, Beside: layout.PrefixEnvironments(host),
		Seen:   h.t.State.Statements(layout.PrefixTombstones(host, env)),
		Number: func(key string) (uint64, bool) { _, _, n, ok := layout.ParseTombstoneKey(key); return n, ok },
		Key:    func(x *statement.Tombstone) string { return layout.KeyTombstone(x.Host, x.Environment, x.Serial) },
		Parse: func(object []byte) (*statement.Tombstone, error) {
			x, err := statement.ParseTombstone(object)
			if err == nil {
				err = statement.CheckTombstoneCertificate(x, certs, h.t.Descriptor().Owner, h.t.ID())
			}
			if err == nil {
				x.DropEnded(certs)
			}
			return x, err
		},
	}
}

// tombstone is the newest that counts, and the serials from there up. Those
// that do not verify are warned of; those under a certificate that ended were
// of a host that is no more, and forget nothing.
func (h *Tombstones) tombstone(ctx context.Context, host, env string) (x *statement.Tombstone, in ledger.Numbers, err error) {
	certs, err := h.t.Certificates(ctx, host)
	if err != nil {
		return nil, in, err
	}
	for e, err := range h.ledger(host, env, certs).All(ctx, 1) {
		if err != nil {
			return nil, in, err
		}
		if in.Pass(e.Number, e.Counts()); e.Counts() {
			return e.Value, in, h.sinceTaken(ctx, e.Value)
		}
		warnUnlessEnded(h.t, e.Err)
	}
	return nil, in, nil
}

// OwnerForgot are the numbers of an environment that the owner forgot and that are
// forgotten, whatever its host claims.
func (h *Tombstones) OwnerForgot(ctx context.Context, host, env string) (statement.Numbers, error) {
	x, err := h.Tombstone(ctx, host, env)
	if err != nil {
		return nil, err
	}
	return h.ownersOf(ctx, host, env, x)
}

// Forgotten are the numbers of an environment that are forgotten, and of those the
// ones that were so all the time since a moment, by the clock of the store; and
// those that were taken back for a while since another, earlier moment.
func (h *Tombstones) Forgotten(ctx context.Context, host, env string, since, earlier time.Time) (all, settled, retaken statement.Numbers, err error) {
	newest, _, err := h.tombstone(ctx, host, env)
	if err != nil || newest == nil {
		return nil, nil, nil, err
	}
	certs, err := h.t.Certificates(ctx, host)
	if err != nil {
		return nil, nil, nil, err
	}
	all, settled = newest.Forgotten, newest.Forgotten
	known := false               // settled is
	var absent statement.Numbers // not forgotten by some tombstone between
	for e, err := range h.ledger(host, env, certs).All(ctx, ahead) {
		if err != nil {
			return nil, nil, nil, err
		}
		if !e.Counts() || e.Number > newest.Serial {
			continue
		}
		retaken = retaken.With(absent.And(e.Value.Forgotten))
		absent = absent.With(all.Without(e.Value.Forgotten))
		if !known {
			settled = settled.And(e.Value.Forgotten)
			known = !e.Stored.After(since)
		}
		if known && !e.Stored.After(earlier) {
			return all, settled, retaken, nil
		}
	}
	if !known { // nothing was forgotten then
		settled = nil
	}
	return all, settled, retaken, nil
}

// Kept is Snapshots without those that are forgotten, whose roots are not
// read. The newest that counts is always among them.
func (h *Tombstones) Kept(ctx context.Context, host, env string) iter.Seq2[*Snapshot, error] {
	return func(yield func(*Snapshot, error) bool) {
		x, err := h.Tombstone(ctx, host, env)
		if err != nil {
			yield(nil, err)
			return
		}
		var skip statement.Numbers
		if x != nil {
			skip = x.Forgotten
		}
		for s, err := range h.roots.Except(ctx, host, env, skip) {
			if !yield(s, err) {
				return
			}
		}
	}
}

// Change of what is forgotten.
type Change struct {
	Forget statement.Numbers
	Undo   statement.Numbers // of what was forgotten
	Reason string
	Now    time.Time
}

// Forget writes a tombstone that changes what is forgotten of an environment,
// and returns what holds then. Nothing is deleted by it. This machine signs it
// as the host, or, with an identity, the owner. The newest snapshot cannot be
// forgotten; what was deleted already cannot be undone, which is ErrPruned.
func (h *Tombstones) Forget(ctx context.Context, host, env string, c Change) (*statement.Tombstone, error) {
	newest, err := h.forgettable(ctx, host, env, c.Forget)
	if err != nil {
		return nil, err
	}
	key, cert, err := h.t.Signer(ctx, host)
	if err != nil {
		return nil, err
	}
	f := &forgetting{Tombstones: h, host: host, env: env, change: c, newest: newest, key: key, cert: cert}
	return f.write(ctx)
}

// forgetting is one change of what is forgotten.
type forgetting struct {
	*Tombstones
	host, env string
	change    Change
	newest    uint64 // snapshot of the environment; 0 when there is none
	key       ed25519.PrivateKey
	cert      *statement.Certificate // of the host that signs; nil when the owner does

	old     *statement.Tombstone // that counts before; nil for none
	own     statement.Numbers    // of it, what the owner forgot; only when the owner signs
	checked bool                 // what is taken back is still there
}

func (f *forgetting) write(ctx context.Context) (*statement.Tombstone, error) {
	encode := func(serial uint64) ([]byte, error) { return f.encode(ctx, serial) }
	object, err := ledger.Claim(ctx, "tombstones of "+f.env+" of host "+f.host, f.free, encode, func(ctx context.Context, serial uint64, object []byte) error {
		return f.d.WithReserve(ctx, f.host, len(object), func() error {
			return f.t.Put(ctx, layout.KeyTombstone(f.host, f.env, serial), object, f.change.Now)
		})
	})
	switch {
	case err != nil && (errors.Is(err, ErrPruned) || errors.Is(err, trust.ErrNoUsableIdentity)):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("forget snapshots of %s: %w", f.env, err)
	case object == nil:
		return f.old, nil
	}
	return statement.ParseTombstone(object)
}

// free reads what is forgotten, and returns the number of the next tombstone.
func (f *forgetting) free(ctx context.Context) (uint64, error) {
	old, in, err := f.tombstone(ctx, f.host, f.env)
	if err != nil {
		return 0, err
	}
	if f.old = old; f.cert == nil {
		f.own, err = f.ownersOf(ctx, f.host, f.env, old)
	}
	return in.Free(), err
}

// encode signs the next tombstone, or returns nil when nothing changes.
func (f *forgetting) encode(ctx context.Context, serial uint64) ([]byte, error) {
	x := &statement.Tombstone{Repository: f.t.ID(), Host: f.host, Environment: f.env, Serial: serial, Free: f.newest + 1, Made: f.change.Now, Reason: f.change.Reason, Certificate: f.cert}
	var before statement.Numbers
	if f.old != nil {
		// Numbers that no snapshot has come from somebody who wants those to come
		// to be born forgotten.
		x.Previous = f.old.Hash()
		var err error
		if before, err = f.existing(ctx, f.host, f.env, f.newest, f.old.Forgotten); err != nil {
			return nil, err
		}
	}
	x.Forgotten = before.With(f.change.Forget).Without(f.change.Undo)
	changed := x.Forgotten.Count() != before.Count() || x.Forgotten.Without(before).Count() > 0
	if f.cert == nil {
		own := f.own.With(f.change.Forget)
		if x.Repeated = x.Forgotten.Without(own); len(x.Repeated) > 0 {
			x.RepeatedSerial = f.old.HostSerial()
		}
		changed = changed || len(own.Without(f.own)) > 0
	}
	if !changed {
		return nil, nil
	}

	if !f.checked {
		if err := f.restorable(ctx, f.host, f.env, f.newest, before.Without(x.Forgotten)); err != nil {
			return nil, err
		}
		f.checked = true
	}
	x.SetReasons(f.old)
	return x.Encode(f.key)
}

// ownersOf is what the owner forgot of what a tombstone forgets, nil for none. A host
// repeats that and does not name it.
func (h *Tombstones) ownersOf(ctx context.Context, host, env string, x *statement.Tombstone) (statement.Numbers, error) {
	if x == nil || x.Certificate == nil {
		return x.Own(), nil
	}
	certs, err := h.t.Certificates(ctx, host)
	if err != nil {
		return nil, err
	}
	for e, err := range h.ledger(host, env, certs).All(ctx, ahead) {
		if err != nil {
			return nil, err
		}
		if e.Counts() && e.Number < x.Serial && e.Value.Certificate == nil {
			return e.Value.Own().And(x.Forgotten), nil
		}
	}
	return nil, nil
}

// ForgetLacking has the owner forget, in its own name, what a host forgot of an
// environment and of which content is gone, and warns of it. What a host forgot counts
// no more once its key has ended: what a prune deleted would count as lost then.
func (h *Tombstones) ForgetLacking(ctx context.Context, host, env string, now time.Time) error {
	x, err := h.Tombstone(ctx, host, env)
	if err != nil || x == nil {
		return err
	}
	own, err := h.ownersOf(ctx, host, env, x)
	if err != nil {
		return err
	}
	forgotten := x.Forgotten.Without(own) // by the host
	if len(forgotten) == 0 {
		return nil
	}
	newest, err := h.forgettable(ctx, host, env, nil)
	if err != nil {
		return err
	}

	var snapshots []*Snapshot
	for s, err := range h.roots.Except(ctx, host, env, statement.Numbers{{First: 1, Last: layout.MaxNumber}}.Without(forgotten)) {
		switch {
		case err != nil && !authentic.Damaged(err):
			return err
		case err == nil && s.Number < newest && forgotten.Has(s.Number):
			snapshots = append(snapshots, s)
		}
	}
	lacking, err := h.c.Lacking(ctx, host, snapshots)
	if err != nil || len(lacking) == 0 {
		return err
	}
	var list []uint64
	for _, s := range lacking {
		list = append(list, s.Number)
	}
	numbers := statement.NumbersOf(list...)

	owner, err := h.t.OwnerKey(ctx)
	if err != nil {
		return err
	}
	change := Change{Forget: numbers, Reason: "the host forgot it, and its content is deleted", Now: now}
	f := &forgetting{Tombstones: h, host: host, env: env, change: change, newest: newest, key: owner}
	if _, err := f.write(ctx); err != nil {
		return err
	}
	h.t.Warn(fmt.Errorf("of what host %s forgot under its old key, %d of %s stay forgotten, from %s@%d to %s@%d, because content of them is deleted (`knowngood list --all %s --host %s`); the others are kept again",
		host, numbers.Count(), env, env, numbers[0].First, env, numbers[len(numbers)-1].Last, env, host))
	return nil
}

// forgettable refuses to forget the newest snapshot that counts, and what there
// is not yet: above the newest that is whatever lies there and does not verify.
// It returns the number of the newest; 0 when none counts.
func (h *Tombstones) forgettable(ctx context.Context, host, env string, numbers statement.Numbers) (newest uint64, err error) {
	e, err := h.roots.environment(ctx, host, env)
	if err != nil {
		return 0, err
	}
	head, err := e.head(ctx, true)
	name := "none that counts"
	switch {
	case errors.Is(err, ErrNoSnapshot): // all is rubbish, or lost
	case err != nil:
		return 0, err
	case numbers.Has(head.Number):
		return 0, fmt.Errorf("%s is the newest snapshot of host %s: it is never forgotten; take another first", head.Ref(), host)
	default:
		newest, name = head.Number, head.Ref()
	}
	there, err := h.existing(ctx, host, env, newest, numbers)
	if err != nil {
		return 0, err
	}
	if missing := numbers.Without(there); len(missing) > 0 {
		return 0, fmt.Errorf("%w: %s@%d: the newest of host %s is %s", ErrNoSnapshot, env, missing[len(missing)-1].Last, host, name)
	}
	return newest, nil
}

// existing are those of the numbers that a snapshot had, up to the newest, or at
// which something lies, above it.
func (h *Tombstones) existing(ctx context.Context, host, env string, newest uint64, numbers statement.Numbers) (statement.Numbers, error) {
	var below statement.Numbers
	if newest > 0 {
		below = statement.Numbers{{First: 1, Last: newest}}
	}
	above := numbers.Without(below)
	if len(above) == 0 {
		return numbers, nil
	}
	written, err := h.roots.Written(ctx, host, env)
	if err != nil {
		return nil, err
	}
	var listed []uint64
	for n := range written {
		if above.Has(n) {
			listed = append(listed, n)
		}
	}
	return numbers.And(below).With(statement.NumbersOf(listed...)), nil
}

// restorable makes sure that all content of snapshots is still there.
func (h *Tombstones) restorable(ctx context.Context, host, env string, newest uint64, numbers statement.Numbers) error {
	if newest > 0 { // what lies above it is no snapshot
		numbers = numbers.And(statement.Numbers{{First: 1, Last: newest}})
	}
	for _, span := range numbers {
		for n := span.First; n <= span.Last; n++ {
			s, err := h.roots.byNumber(ctx, Ref{Environment: env, Selector: ByNumber, Number: n, text: fmt.Sprintf("%s@%d", env, n)}, host)
			if err == nil {
				err = h.c.Whole(ctx, s)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// unlessPruned refuses a snapshot that was forgotten and whose content was
// deleted.
func (h *Tombstones) unlessPruned(ctx context.Context, s *Snapshot) error {
	x, err := h.Tombstone(ctx, s.Host, s.Environment)
	if err != nil || x == nil || !x.Forgotten.Has(s.Number) || s.Body == nil {
		return err
	}
	if err := h.c.Whole(ctx, s); err != nil {
		return fmt.Errorf("%s was forgotten (last change %s): %w", s.Ref(), x.Made.Local().Format(time.DateTime), err)
	}
	return nil
}

// sinceTaken takes out of what is forgotten the numbers at which rubbish lay
// and that a snapshot has by now: once the rubbish is gone they can be claimed.
func (h *Tombstones) sinceTaken(ctx context.Context, x *statement.Tombstone) error {
	k := len(x.Forgotten)
	if x.Free == 0 || k == 0 || x.Forgotten[k-1].Last < x.Free {
		return nil
	}
	e, err := h.roots.environment(ctx, x.Host, x.Environment)
	if err != nil {
		return err
	}
	for o, err := range e.ledger.List(ctx) {
		if err != nil {
			return err
		}
		n, _ := e.ledger.Number(o.Key)
		if n < x.Free {
			return nil
		}
		if !x.Forgotten.Has(n) {
			continue
		}
		if _, err := e.read(ctx, o); err == nil {
			x.Forgotten = x.Forgotten.Without(statement.NumbersOf(n))
		} else if !authentic.Damaged(err) {
			return err
		}
	}
	return nil
}
