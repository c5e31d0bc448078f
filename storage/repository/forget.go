package repository

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/statement"
)

// ErrPruned says that a snapshot was forgotten and content of it deleted.
var ErrPruned = errors.New("the snapshot was forgotten and its content deleted")

// Tombstone is what says which snapshots of an environment are forgotten; nil
// when nothing does.
func (r *Repository) Tombstone(ctx context.Context, host, env string) (*statement.Tombstone, error) {
	x, _, err := r.tombstone(ctx, host, env)
	return x, err
}

// tombstone is the newest that counts, and the serials from there up. Those
// that do not verify are warned of; those under a certificate that ended were
// of a host that is no more, and forget nothing.
func (r *Repository) tombstone(ctx context.Context, host, env string) (x *statement.Tombstone, in serials, err error) {
	all := r.numbered(ctx, host, layout.PrefixTombstones(host, env), "tombstone", layout.ParseTombstoneKey, func(object []byte, certs []*statement.Certificate) (string, error) {
		x, err = statement.ParseTombstone(object)
		if err == nil {
			err = statement.CheckTombstoneCertificate(x, certs, r.desc.Owner, r.ID())
		}
		if err != nil {
			return "", err
		}
		return layout.KeyTombstone(x.Host, x.Environment, x.Serial), nil
	})
	for n, err := range all {
		if err != nil {
			return nil, in, err
		}
		if in.pass(n.serial, n.counts); n.counts {
			return x, in, r.sinceTaken(ctx, x)
		}
	}
	return nil, in, nil
}

// Kept is Snapshots without those that are forgotten, whose roots are not
// read. The newest that counts is always among them.
func (r *Repository) Kept(ctx context.Context, host, env string) iter.Seq2[*Snapshot, error] {
	return func(yield func(*Snapshot, error) bool) {
		x, err := r.Tombstone(ctx, host, env)
		if err != nil {
			yield(nil, err)
			return
		}
		var skip statement.Numbers
		if x != nil {
			skip = x.Forgotten
		}
		for s, err := range r.Without(ctx, host, env, skip) {
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
func (r *Repository) Forget(ctx context.Context, host, env string, c Change) (*statement.Tombstone, error) {
	free, err := r.forgettable(ctx, host, env, c.Forget)
	if err != nil {
		return nil, err
	}
	key, cert, err := r.signer(ctx, host)
	if err != nil {
		return nil, err
	}
	checked := false
	conflict := uint64(0) // the serial that was taken when we tried it
	for {
		old, in, err := r.tombstone(ctx, host, env)
		if err != nil {
			return nil, err
		}
		x := &statement.Tombstone{Repository: r.ID(), Host: host, Environment: env, Serial: in.next(), Free: free, Made: c.Now, Reason: c.Reason, Certificate: cert}
		var before statement.Numbers
		if old != nil {
			before, x.Previous = old.Forgotten, old.Hash()
			x.Free = max(x.Free, old.Free) // the newest may not show just now
		}
		x.Forgotten = before.With(c.Forget).Without(c.Undo)
		if x.Forgotten.Count() == before.Count() && x.Forgotten.Without(before).Count() == 0 {
			return old, nil // nothing changes
		}
		if !checked {
			if err := r.restorable(ctx, host, env, before.Without(x.Forgotten)); err != nil {
				return nil, err
			}
			checked = true
		}
		x.SetReasons(old)
		switch x.Serial {
		case 0:
			return nil, fmt.Errorf("forget snapshots of %s: %w", env, noSerialLeft(host))
		case conflict:
			return nil, fmt.Errorf("tombstone %d of %s exists, and no listing shows it: let this host see the versions of its objects", conflict, env)
		}
		object, err := x.Encode(key)
		if err != nil {
			return nil, err
		}
		err = r.withReserve(ctx, host, len(object), func() error {
			return r.put(ctx, layout.KeyTombstone(host, env, x.Serial), object, c.Now)
		})
		if errors.Is(err, storage.ErrExists) {
			conflict = x.Serial // another process was first
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("forget snapshots of %s: %w", env, err)
		}
		return statement.ParseTombstone(object)
	}
}

// forgettable refuses to forget the newest snapshot that counts, and what there
// is not yet: above the newest that is whatever lies there and does not verify.
// It tells the lowest number there.
func (r *Repository) forgettable(ctx context.Context, host, env string, numbers statement.Numbers) (free uint64, err error) {
	e, err := r.environment(ctx, host, env)
	if err != nil {
		return 0, err
	}
	head, err := e.head(ctx, true)
	above, newest, free := numbers, "none that counts", uint64(1)
	switch {
	case errors.Is(err, ErrNoSnapshot): // all is rubbish, or lost
	case err != nil:
		return 0, err
	case numbers.Has(head.Number):
		return 0, fmt.Errorf("%s is the newest snapshot of host %s: it is never forgotten; take another first", head.Ref(), host)
	default:
		above, newest, free = numbers.Without(statement.Numbers{{First: 1, Last: head.Number}}), head.Ref(), head.Number+1
	}
	if len(above) == 0 {
		return free, nil
	}
	written, err := r.Written(ctx, host, env)
	if err != nil {
		return 0, err
	}
	there := uint64(0)
	for n := range written {
		if above.Has(n) {
			there++
		}
	}
	if there < above.Count() {
		return 0, fmt.Errorf("%w: %s@%d: the newest of host %s is %s", ErrNoSnapshot, env, above[len(above)-1].Last, host, newest)
	}
	return free, nil
}

// restorable makes sure that all content of snapshots is still there.
func (r *Repository) restorable(ctx context.Context, host, env string, numbers statement.Numbers) error {
	for _, span := range numbers {
		for n := span.First; n <= span.Last; n++ {
			s, err := r.byNumber(ctx, Ref{Environment: env, Selector: ByNumber, Number: n, text: fmt.Sprintf("%s@%d", env, n)}, host)
			if err == nil {
				err = r.Whole(ctx, s)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Whole reports whether what a snapshot needs was deleted, by ErrPruned. What is
// only announced is warned of, and what is missing for another reason.
func (r *Repository) Whole(ctx context.Context, s *Snapshot) error {
	if s.Body == nil {
		return fmt.Errorf("whether its content is still there takes an identity to tell: %w", r.Closed(ctx, s))
	}
	d, err := r.Deletions(ctx, s.Host, s.Root.Domain)
	if err != nil {
		return err
	}
	pruned := func() error {
		on := ""
		for _, doom := range d.Dooms {
			if doom.Fate == Deleted && doom.At.After(s.Body.Finished) {
				on = ", by " + doom.At.Local().Format(time.DateTime)
				break
			}
		}
		return fmt.Errorf("%s: %w%s: choose another, as `knowngood list` shows them", s.Ref(), ErrPruned, on)
	}
	rd := r.NewReader(s.Host, s.Domain)
	m := s.Body.Manifest
	tail, err := rd.TailOf(ctx, wire.KindManifest, m.Hash, int64(m.Size))
	if errors.Is(err, storage.ErrNotFound) {
		return pruned()
	}
	var contents *pack.Contents
	if err == nil {
		contents, err = tail.Contents(wire.KindManifest, s.Domain)
	}
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", s.Ref(), err)
	}
	listing, err := r.listObjects(ctx, s.Host, s.Domain.ID, map[wire.Kind]int{wire.KindPack: 1, wire.KindManifest: 1})
	if err != nil {
		return err
	}
	there := map[ObjectID]bool{}
	for _, o := range listing {
		there[o.ID] = true
	}
	announced, missing := 0, 0
	for _, o := range append(contents.Objects, pack.Object{Kind: wire.KindManifest, Hash: m.Hash}) {
		for _, id := range d.Resolve(m.Hash, ObjectID{Kind: o.Kind, Hash: o.Hash}, func(id ObjectID) bool { return there[id] }) {
			switch doom, doomed := d.Dooms[id]; {
			case !there[id] && doomed && doom.Fate == Deleted:
				return pruned()
			case !there[id]:
				missing++
			case d.Absent(id):
				announced++
			}
		}
	}
	if missing > 0 { // what they held may have been stored again elsewhere
		r.warn(fmt.Errorf("%s: %d of its objects are not in the store, and no prune is known to have deleted them: knowngood check shows what it lacks", s.Ref(), missing))
	}
	if announced > 0 {
		r.warn(fmt.Errorf("%s: %d of its objects are announced for deletion: the next `knowngood prune` spares them, but one that is at work right now may delete them; look again with `knowngood check` after it", s.Ref(), announced))
	}
	return nil
}

// unlessPruned refuses a snapshot that was forgotten and whose content was
// deleted.
func (r *Repository) unlessPruned(ctx context.Context, s *Snapshot) error {
	x, err := r.Tombstone(ctx, s.Host, s.Environment)
	if err != nil || x == nil || !x.Forgotten.Has(s.Number) || s.Body == nil {
		return err
	}
	if err := r.Whole(ctx, s); err != nil {
		return fmt.Errorf("%s was forgotten (last change %s): %w", s.Ref(), x.Made.Local().Format(time.DateTime), err)
	}
	return nil
}
