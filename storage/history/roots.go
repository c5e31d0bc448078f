package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/localstate"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Roots are what was captured: roots, verified together, and committed.
type Roots struct {
	t          *trust.Trust
	d          *deletion.Deletion
	tombstones *Tombstones
}

// maxGap is how many missing roots are named one by one.
const maxGap = 16

// Snapshots yields the snapshots of an environment, newest first, each
// verified: signature, certificate, place, and its link with its neighbours.
// A *DamageError or *TamperError takes the place of what does not verify, and
// the iteration may go on past it; any other error ends it.
func (h *Roots) Snapshots(ctx context.Context, host, env string) iter.Seq2[*Snapshot, error] {
	return h.Except(ctx, host, env, nil)
}

// Except is Snapshots that leaves out numbers; but never the newest snapshot that
// counts. What does not verify above that one is left out too, if it is among the
// numbers. Roots that are left out are read only where the chain between the others
// is not known to this machine.
func (h *Roots) Except(ctx context.Context, host, env string, skip statement.Numbers) iter.Seq2[*Snapshot, error] {
	return h.walked(ctx, host, env, func(e *environment) { e.skip = skip })
}

// Reread is Snapshots that reads each root where it lies, whatever is at hand of it.
func (h *Roots) Reread(ctx context.Context, host, env string) iter.Seq2[*Snapshot, error] {
	return h.walked(ctx, host, env, func(e *environment) { e.ledger.Kept = nil })
}

// walked yields what a walk through an environment does that prepare changed before.
func (h *Roots) walked(ctx context.Context, host, env string, prepare func(*environment)) iter.Seq2[*Snapshot, error] {
	return func(yield func(*Snapshot, error) bool) {
		e, err := h.environment(ctx, host, env)
		if err != nil {
			yield(nil, err)
			return
		}
		prepare(e)
		for s, err := range e.walk(ctx, ahead) {
			if !yield(s, err) || err != nil && !authentic.Damaged(err) {
				return
			}
		}
	}
}

// Head is the newest snapshot of an environment. The error is ErrNoSnapshot
// when there is none, *DamageError when the newest does not verify and is not
// forgotten, *TamperError when a newer one is remembered than the store shows, or
// it does not follow that. Roots under certificates that ended are passed over.
func (h *Roots) Head(ctx context.Context, host, env string) (*Snapshot, error) {
	e, err := h.environment(ctx, host, env)
	if err != nil {
		return nil, err
	}
	s, err := e.head(ctx, false)
	if !authentic.Unverified(err) {
		return s, err
	}
	x, terr := h.tombstones.Tombstone(ctx, host, env)
	if x == nil || terr != nil {
		return nil, errors.Join(err, terr)
	}
	e.skip = x.Forgotten
	return e.head(ctx, false)
}

// head is the newest root that verifies. What does not ends the search, unless
// past returns true to go on.
func (e *environment) head(ctx context.Context, past bool) (*Snapshot, error) {
	for s, err := range e.walk(ctx, 1) {
		switch {
		case err == nil && e.gap:
			return s, e.warnOfGap(ctx, s)
		case err == nil:
			return s, nil
		case errors.Is(err, statement.ErrEnded) || authentic.Damaged(err) && past:
			e.t.Warn(err)
		default:
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: host %s has no snapshot of %s; `knowngood list` shows what there is", ErrNoSnapshot, e.host, e.name)
}

// place is a number at which a root is, or should be.
type place struct {
	number uint64
	object storage.Object // its Key is empty when no listing shows it
	skip   bool           // it is not asked for
	gap    bool           // no listing shows one with the number before
	read   *Snapshot      // when it was read already
	err    error          // of that
}

// walk yields the snapshots of the environment, newest first, once it is known how
// they follow each other, and remembers them. It reads up to n of them before they
// are asked for.
//
// Roots above the newest one that this machine saw must follow that one; until it
// is reached they are held back.
func (e *environment) walk(ctx context.Context, n int) iter.Seq2[*Snapshot, error] {
	return func(yield func(*Snapshot, error) bool) {
		c := &chain{environment: e, yield: yield, seen: map[uint64][32]byte{}, shown: map[uint64]bool{}}
		defer c.remember(ctx)
		e.catalogued = n > 1 && e.ledger.Kept != nil
		defer e.copies.running.Wait()
		for r, err := range ledger.Ordered(ctx, n, e.places, e.fetch) {
			if err != nil {
				c.fail(ctx, err)
				return
			}
			if !c.add(ctx, r) {
				return
			}
		}
		c.release(ctx, nil)
	}
}

// fetch reads the root of a place, unless its hash is all that is needed.
func (e *environment) fetch(ctx context.Context, p place) (place, error) {
	if p.read != nil || p.err != nil {
		return p, nil
	}
	_, known := e.roots[p.number]
	_, before := e.roots[p.number-1]
	if known && (before || p.number == 1) && p.skip && !p.object.Hidden && !p.object.Older {
		return p, nil
	}
	if p.object.Key == "" {
		p.read, p.err = e.root(ctx, p.number)
	} else {
		if e.catalogued {
			e.copies.want(ctx, p.object, p.number)
		}
		p.read, p.err = e.read(ctx, p.object)
	}
	if p.err != nil && !authentic.Damaged(p.err) {
		return p, p.err
	}
	return p, nil
}

// chain is one walk.
type chain struct {
	*environment
	yield func(*Snapshot, error) bool
	seen  map[uint64][32]byte // that are to be remembered
	shown map[uint64]bool     // of these, those that are what the listing showed
	fresh []localstate.RootCopy
	kept  []byte // runs of fresh ones

	above    []place   // newer than the newest that is remembered, and held back
	newer    *Snapshot // with which the next older one must be linked; nil for none
	unlinked bool      // nothing newer names the next older one
	forked   bool      // nor what it should be, and that was not reported yet
}

// add takes in the next older place, and reports whether to go on.
func (c *chain) add(ctx context.Context, p place) bool {
	// What is remembered decides. With no memory there is nothing to hold back for.
	held := c.known != nil && p.number > c.known.Number
	if !held && len(c.above) > 0 && !c.release(ctx, &p) {
		return false
	}
	if held {
		c.above = append(c.above, p)
		return true
	}
	return c.pass(ctx, p)
}

// pass checks how p is linked with the one newer than it, and yields it.
func (c *chain) pass(ctx context.Context, p place) bool {
	if p.read == nil && p.err == nil { // known and not asked for, as is the one below
		c.newer, c.unlinked = nil, false
		return true
	}
	if p.err != nil {
		c.newer, c.unlinked = nil, true
		return p.skip && authentic.Unverified(p.err) || c.yield(nil, p.err)
	}
	s, newer := p.read, c.newer
	c.newer, c.gap = s, p.gap && !c.pinned(s)
	if newer != nil && newer.Number == s.Number+1 && newer.Root.Previous != s.ID && !c.pinned(s) {
		switch err := c.unlike(ctx, newer, s); {
		case err == nil && !c.unlinked:
			c.denied = s
		case err == nil:
		case p.skip && authentic.Tampered(err):
			c.newer, c.unlinked, c.forked = nil, true, true
			c.t.Warn(err)
			return true
		default:
			c.newer, c.unlinked, c.forked = nil, true, true
			return c.yield(nil, err)
		}
	}
	switch {
	case c.pinned(s):
		c.unlinked, c.forked = false, false
	case c.forked:
		c.t.Warn(&authentic.TamperError{What: fmt.Sprintf("environment %s of host %s", c.name, c.host), Remembered: "a chain that leads to each root", Found: fmt.Sprintf("none to %s@%d and those before it", c.name, s.Number),
			Hint: "whoever holds the host's key may have signed them later"})
		c.forked = false // said once
	}
	if !c.unlinked {
		c.seen[s.Number], c.shown[s.Number] = s.ID, shown(s.listed, s.Root.Bytes())
		if copied, ok := c.copies.copyOf(s); ok && !c.t.State.None() {
			if c.fresh = append(c.fresh, copied); len(c.fresh) == localstate.CopiesRun {
				c.compress()
			}
		}
	}
	return p.skip || c.yield(s, nil)
}

// release yields what is held back. known is the place of the newest that is
// remembered, or of the next older one; nil when there is none.
func (c *chain) release(ctx context.Context, known *place) bool {
	above := c.above
	c.above = nil
	if known != nil && known.number == c.known.Number && !errors.Is(known.err, statement.ErrEnded) {
		// From the bottom up: each must follow the one below it.
		below, number := c.known.Hash, c.known.Number
		for i, p := range slices.Backward(above) {
			if p.read == nil {
				number = 0 // what is damaged proves nothing of those above it
				continue
			}
			if number > 0 && p.number == number+1 && p.read.Root.Previous != below {
				err := &authentic.TamperError{What: fmt.Sprintf("environment %s of host %s", c.name, c.host),
					Remembered: fmt.Sprintf("%s@%d (%x)", c.name, c.known.Number, c.known.Hash), Found: fmt.Sprintf("%s, which does not follow it", p.read.Ref()),
					Hint: "the history was forked: another machine signs with this host's key, or the store went back. What is remembered lies in " + c.files()}
				above = append([]place{{number: p.number, err: err}}, above[i+1:]...)
				break
			}
			below, number = p.read.ID, p.number
		}
	}
	for _, p := range above {
		if !c.pass(ctx, p) {
			return false
		}
	}
	return true
}

// fail ends the walk with an error of the store.
func (c *chain) fail(ctx context.Context, err error) {
	if len(c.above) == 0 || c.release(ctx, nil) {
		c.yield(nil, err)
	}
}

// compress makes a run of the roots that are worth keeping.
func (c *chain) compress() {
	var err error
	if c.kept, err = localstate.AppendRun(c.kept, c.fresh); err != nil {
		c.t.Warn(err)
	}
	c.fresh = c.fresh[:0]
}

// remember keeps what was seen. It reports what cannot be kept.
func (c *chain) remember(ctx context.Context) {
	fresh := map[uint64][32]byte{}
	for n, hash := range c.seen {
		if c.roots[n] != hash {
			fresh[n] = hash
		}
	}
	if c.t.State.None() {
		return
	}
	c.compress()
	if err := c.t.State.KeepRoots(c.host, c.name, c.kept); err != nil {
		c.t.Warn(err)
	}
	if len(fresh) == 0 {
		return
	}
	newest := statement.Head{Environment: c.name}
	err := c.unchanged(ctx, fresh)
	for n, hash := range fresh {
		if n > newest.Number {
			newest.Number, newest.Hash = n, hash
		}
	}
	if err == nil {
		err = c.t.State.RememberRoots(c.host, c.name, fresh)
	}
	if err == nil && newest.Number > 0 {
		err = c.t.State.RememberHead(c.host, newest)
	}
	if err != nil {
		c.t.Warn(fmt.Errorf("a roll-back to before %s@%d may go unseen: %w", c.name, newest.Number, err))
	}
}

// unchanged takes out of roots those that were put over since they were listed,
// and what cannot be known of them: what is remembered is believed for good, and a
// root that was listed as the only version may have had another when it was read.
func (c *chain) unchanged(ctx context.Context, roots map[uint64][32]byte) error {
	listed := maps.Clone(c.shown)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(roots)), func(n uint64) bool { return !listed[n] }) {
		return nil
	}
	for o, err := range c.ledger.List(ctx) {
		if err != nil {
			return err
		}
		n, _ := c.ledger.Number(o.Key)
		if _, fresh := roots[n]; !fresh {
			continue
		}
		listed[n] = true
		if !o.Older {
			continue
		}
		s, err := c.read(ctx, o)
		if err != nil && !authentic.Damaged(err) {
			return err
		}
		if err != nil || s.ID != roots[n] {
			delete(roots, n)
		}
	}
	maps.DeleteFunc(roots, func(n uint64, _ [32]byte) bool { return !listed[n] })
	return nil
}

// newest is the highest number of which it is known that a root had it: all
// below must be there, too. What does not verify proves nothing of others.
func (e *environment) newest(ctx context.Context) (uint64, error) {
	known := e.known
	if known != nil {
		// One that was signed under a key that ended proves nothing any more.
		if _, err := e.root(ctx, known.Number); errors.Is(err, statement.ErrEnded) {
			known = nil
		}
	}
	for o, err := range e.ledger.List(ctx) {
		if err != nil {
			return 0, err
		}
		n, _ := e.ledger.Number(o.Key)
		if known != nil && n <= known.Number {
			break
		}
		if _, err := e.read(ctx, o); !authentic.Unverified(err) {
			return n, err
		}
	}
	if known != nil {
		return known.Number, nil
	}
	return 0, nil
}

// places yields the numbers at which roots should be, newest first: those
// listed, hidden ones included, the one remembered, and those missing between,
// which reading will find out. Until the newest that counts was found it reads
// them itself, so that this one is not skipped.
func (e *environment) places(ctx context.Context) iter.Seq2[place, error] {
	return func(yield func(place, error) bool) {
		last := uint64(0) // the one yielded before; 0 at the start
		headSeen := len(e.skip) == 0
		give := func(p place) bool {
			if !headSeen {
				q, err := e.fetch(ctx, p)
				if err != nil {
					yield(p, err)
					return false
				}
				p = q
				headSeen = p.err == nil
				p.skip = e.skip.Has(p.number) && authentic.Unverified(p.err)
			} else {
				p.skip = e.skip.Has(p.number)
			}
			return yield(p, nil)
		}
		fail := func(err error) bool { return yield(place{err: err}, nil) }
		newest := sync.OnceValues(func() (uint64, error) { return e.newest(ctx) })
		// down yields what is missing between the last number and n.
		down := func(n uint64) bool {
			if last == 0 || last-n <= 1 {
				return true
			}
			newest, err := newest()
			if err != nil {
				yield(place{}, err)
				return false
			}
			if newest <= n {
				return true
			}
			missing := statement.Numbers{{First: n + 1, Last: min(last-1, newest)}}.Without(e.skip)
			if missing.Count() > maxGap {
				return fail(&authentic.DamageError{Key: layout.PrefixRoots(e.host, e.name), What: "chain",
					Err: fmt.Errorf("the roots %s@%d to %s@%d are missing", e.name, missing[0].First, e.name, missing[len(missing)-1].Last)})
			}
			for _, span := range slices.Backward(missing) {
				for m := span.Last; m >= span.First; m-- {
					if !give(place{number: m}) {
						return false
					}
				}
			}
			return true
		}
		// top yields the root remembered, where it should be above the newest listed.
		top := func(listed uint64) bool {
			if e.known == nil || e.known.Number <= listed {
				return true
			}
			last, e.listed = e.known.Number, listed
			if e.known.Number-listed > maxGap && !fail(e.rolledBack()) {
				return false
			}
			return give(place{number: last})
		}
		// A place is given when it is known what the listing shows after it.
		var waiting *place
		flush := func(below uint64) bool {
			if waiting == nil {
				return true
			}
			p := *waiting
			p.gap, waiting = below+1 < p.number, nil
			return give(p)
		}
		first := true
		for o, err := range e.t.Store().List(ctx, storage.ListOptions{Prefix: e.ledger.Prefix, Hidden: true}) {
			if err != nil {
				if flush(last) {
					yield(place{}, err)
				}
				return
			}
			n, ok := e.ledger.Number(o.Key)
			if !ok {
				e.t.Warn(&authentic.DamageError{Key: o.Key, What: "object", Err: errors.New("its key is none of a root")})
				continue
			}
			if first && e.catalogued {
				e.copies.top = n
			}
			if !flush(n) || first && !top(n) {
				return
			}
			first = false
			if !down(n) {
				return
			}
			last, waiting = n, &place{number: n, object: o}
		}
		if !flush(0) || first && !top(0) {
			return
		}
		down(0)
	}
}
