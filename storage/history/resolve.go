package history

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// Resolve finds the snapshot that ref names. Where ref says no host it is
// defaultHost if that has the environment, else the only host that has it.
// The error is ErrNoSnapshot when there is none, ErrAmbiguous when several
// hosts or snapshots fit, *DamageError or *TamperError when the one named
// does not verify, and, beside the snapshot, ErrPruned.
func (h *History) Resolve(ctx context.Context, ref Ref, defaultHost string) (*Snapshot, error) {
	if ref.ID == "" {
		host, err := h.HostOf(ctx, ref, defaultHost)
		if err != nil {
			return nil, err
		}
		s, err := h.selected(ctx, ref, host)
		if errors.Is(err, ErrNoSnapshot) {
			err = h.withWhatThereIs(ctx, ref, host, err)
		}
		return s, err
	}
	if ref.Environment != "" {
		host, err := h.HostOf(ctx, ref, defaultHost)
		if err == nil {
			s, err := h.selected(ctx, ref, host)
			if other, oerr := h.byID(ctx, ref.ID); oerr == nil {
				return nil, fmt.Errorf("%w: %s is an environment of host %s, and the beginning of the ID of %s/%s: write %s@latest, or more of the ID", ErrAmbiguous, ref, host, other.Host, other.Ref(), ref)
			}
			return s, err
		}
		if !errors.Is(err, ErrNoSnapshot) {
			return nil, err
		}
	}
	s, err := h.byID(ctx, ref.ID)
	if err == nil {
		err = h.unlessPruned(ctx, s)
	}
	return s, err
}

// withWhatThereIs adds to an ErrNoSnapshot the environments of the host, or the
// hosts when there is none of its name.
func (h *History) withWhatThereIs(ctx context.Context, ref Ref, host string, err error) error {
	have, lerr := h.Environments(ctx, host)
	if lerr != nil || slices.Contains(have, ref.Environment) {
		return err
	}
	if len(have) > 0 {
		return fmt.Errorf("%w; it has %s", err, strings.Join(have, ", "))
	}
	if hosts, lerr := h.AllHosts(ctx); lerr == nil && len(hosts) > 0 && !slices.Contains(hosts, host) {
		return fmt.Errorf("%w: the repository has no host %s; it has %s", ErrNoSnapshot, host, strings.Join(hosts, ", "))
	}
	return err
}

// HostOf finds the host that has the environment of ref.
func (h *History) HostOf(ctx context.Context, ref Ref, defaultHost string) (string, error) {
	if ref.Host != "" {
		return ref.Host, nil
	}
	hosts, err := h.t.Enrolled(ctx)
	if err != nil {
		return "", err
	}
	if len(hosts) == 1 && ref.ID == "" {
		return hosts[0], nil // looking into it tells whether it has the environment
	}
	if slices.Contains(hosts, defaultHost) {
		// It is preferred, and its credentials may not show others.
		if own, err := h.having(ctx, []string{defaultHost}, ref.Environment); err != nil || len(own) > 0 {
			return defaultHost, err
		}
	}
	have, err := h.having(ctx, hosts, ref.Environment)
	if err == nil && len(have) == 0 {
		// Certificates may have been removed.
		if hosts, err = h.AllHosts(ctx); err == nil {
			have, err = h.having(ctx, hosts, ref.Environment)
		}
	}
	if err == nil && len(have) > 1 {
		have, err = h.certified(ctx, have)
	}
	if err != nil {
		return "", err
	}
	if slices.Contains(have, defaultHost) {
		return defaultHost, nil
	}
	switch len(have) {
	case 0:
		// The default host may remember what the store hides.
		if known, err := h.t.State.Head(defaultHost, ref.Environment); err == nil && known != nil {
			return defaultHost, nil
		}
		return "", fmt.Errorf("%w: %s: no host has an environment of that name; `knowngood list` shows what there is", ErrNoSnapshot, ref)
	case 1:
		return have[0], nil
	}
	for i, host := range have {
		have[i] = host + "/" + ref.text
	}
	return "", fmt.Errorf("%w: %s can be %s", ErrAmbiguous, ref, strings.Join(have, ", "))
}

// having are the hosts that have an environment.
func (h *History) having(ctx context.Context, hosts []string, env string) ([]string, error) {
	has := make([]bool, len(hosts))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(ahead)
	for i, host := range hosts {
		g.Go(func() error {
			envs, err := h.Environments(gctx, host)
			has[i] = slices.Contains(envs, env)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var have []string
	for i, host := range hosts {
		if has[i] {
			have = append(have, host)
		}
	}
	return have, nil
}

// selected applies the selector of ref within a host.
func (h *History) selected(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	switch ref.Selector {
	case KnownGood:
		return nil, fmt.Errorf("%w: no snapshot of %s is known to be good yet: no drill has passed", ErrNoSnapshot, ref.Environment)
	case ByNumber:
		s, err := h.byNumber(ctx, ref, host)
		if err == nil {
			err = h.unlessPruned(ctx, s)
		}
		return s, err
	case NotLater:
		return h.notLater(ctx, ref, host)
	}
	s, err := h.Head(ctx, host, ref.Environment)
	if authentic.Damaged(err) {
		return nil, fmt.Errorf("the newest snapshot of %s cannot be used; name an older one, as `knowngood list %s` shows them: %w", ref.Environment, ref.Environment, err)
	}
	return s, err
}

// byNumber fetches one root, and makes sure that it is linked with what this
// machine remembers, or else with the one after it, where there is one.
func (h *History) byNumber(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	e, err := h.environment(ctx, host, ref.Environment)
	if err != nil {
		return nil, err
	}
	if _, pinned := e.roots[ref.Number]; !pinned && e.known != nil && ref.Number != e.known.Number+1 {
		return e.inChain(ctx, ref)
	}
	around := map[uint64]storage.Object{} // the root and those beside it, by one listing
	for o, err := range h.t.Store().List(ctx, storage.ListOptions{Prefix: e.ledger.Prefix, After: e.key(min(ref.Number+2, layout.MaxNumber)), Hidden: true}) {
		if err != nil {
			return nil, err
		}
		if n, ok := e.ledger.Number(o.Key); ok {
			around[n] = o
		}
		if o.Key >= e.key(max(ref.Number-1, 1)) { // whatever else lies between
			break
		}
	}
	s, err := e.fromListing(ctx, around, ref.Number)
	if err == nil && e.pinned(s) {
		return s, nil
	}
	newer, nerr := e.fromListing(ctx, around, ref.Number+1)
	switch {
	case nerr != nil && !authentic.Damaged(nerr):
		return nil, nerr
	case nerr == nil && err == nil && newer.Root.Previous != s.ID:
		return nil, e.unlike(newer, s)
	case nerr != nil && errors.Is(err, storage.ErrNotFound):
		return nil, e.absent(ctx, ref)
	case err == nil && nerr != nil && !errors.Is(nerr, storage.ErrNotFound):
		h.t.Warn(fmt.Errorf("nothing vouches for %s: the snapshot after it does not verify: %w", s.Ref(), nerr))
	case err == nil && e.known != nil && s.Number == e.known.Number+1 && s.Root.Previous != e.known.Hash:
		return e.inChain(ctx, ref) // which finds out what is wrong
	}
	if _, listed := around[ref.Number-1]; err == nil && !listed && ref.Number > 1 {
		err = e.warnOfGap(ctx, s)
	}
	return s, err
}

// fromListing reads a root of which a listing shows whether it is there.
func (e *environment) fromListing(ctx context.Context, listing map[uint64]storage.Object, number uint64) (*Snapshot, error) {
	if o, ok := listing[number]; ok {
		return e.read(ctx, o)
	}
	return e.snapshot(ctx, e.ledger.Missing(e.key(number)))
}

// inChain finds one root by the chain that leads to it from what this machine
// remembers.
func (e *environment) inChain(ctx context.Context, ref Ref) (*Snapshot, error) {
	for s, err := range e.walk(ctx, ahead) {
		switch {
		case err == nil && s.Number == ref.Number:
			return s, nil
		case err == nil && s.Number < ref.Number:
			return nil, e.absent(ctx, ref)
		case err != nil && (e.about(err, ref.Number) || !authentic.Damaged(err)):
			return nil, err
		case err != nil:
			e.t.Warn(err)
		}
	}
	return nil, e.absent(ctx, ref)
}

// about reports whether an error is about the root with a number.
func (e *environment) about(err error, number uint64) bool {
	var damage *authentic.DamageError
	var tamper *authentic.TamperError
	key := e.key(number)
	return errors.As(err, &damage) && damage.Key == key || errors.As(err, &tamper) && tamper.Key == key
}

// absent tells a number that was never reached from one that is missing.
func (e *environment) absent(ctx context.Context, ref Ref) error {
	for p, err := range e.places(ctx) {
		switch {
		case err != nil:
			return err
		case p.number > ref.Number:
			return &authentic.DamageError{Key: e.key(ref.Number), What: "root", Err: fmt.Errorf("missing, though there is %s@%d", e.name, p.number)}
		case p.number > 0:
			return fmt.Errorf("%w: %s: the newest of host %s is %s@%d", ErrNoSnapshot, ref, e.host, e.name, p.number)
		}
	}
	return fmt.Errorf("%w: %s: host %s has no snapshot of %s; `knowngood list` shows what there is", ErrNoSnapshot, ref, e.host, e.name)
}

// maxClockError is how far the time that a host signs may be from that of the
// store.
const maxClockError = 24 * time.Hour

// maxRun is how long a capture may take before its time is in doubt.
const maxRun = 14 * 24 * time.Hour

// notLater is the newest snapshot that began before a time. One of which the store
// says that it came long after its host says is taken only when there is no other:
// a host that was taken dates its snapshots as it likes.
func (h *History) notLater(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	var doubtful *Snapshot
	for s, err := range h.Kept(ctx, host, ref.Environment) {
		switch {
		case errors.Is(err, statement.ErrEnded):
			h.t.Warn(err)
		case err != nil:
			return nil, fmt.Errorf("find %s: %w", ref, err)
		case s.Body == nil:
			return nil, fmt.Errorf("find %s: name a number, for the time of %s/%s is sealed: %w", ref, s.Host, s.Ref(), h.t.Closed(ctx, s.Root))
		case !s.Body.Started.Before(ref.Before):
		case s.Stored.Sub(s.Body.Finished) <= maxClockError && s.Stored.Sub(s.Body.Started) <= maxRun:
			return s, nil
		case doubtful == nil:
			doubtful = s
		}
	}
	if doubtful != nil {
		h.t.Warn(fmt.Errorf("%s: its host says that it was made on %s, and the store took it on %s: is this a copy of the repository?", doubtful.Ref(), doubtful.Body.Started.Format(time.RFC3339), doubtful.Stored.Format(time.RFC3339)))
		return doubtful, nil
	}
	return nil, fmt.Errorf("%w: %s: host %s has no snapshot of %s that early", ErrNoSnapshot, ref, host, ref.Environment)
}

// byID looks through all snapshots. Those that do not verify have no ID.
func (h *History) byID(ctx context.Context, prefix string) (*Snapshot, error) {
	hosts, err := h.AllHosts(ctx)
	if err != nil {
		return nil, err
	}
	var found []*Snapshot
	for _, host := range hosts {
		envs, err := h.Environments(ctx, host)
		if err != nil {
			return nil, err
		}
		for _, env := range envs {
			for s, err := range h.Snapshots(ctx, host, env) {
				if authentic.Damaged(err) {
					h.t.Warn(err)
					continue
				}
				if err != nil {
					return nil, err
				}
				if strings.HasPrefix(hex.EncodeToString(s.ID[:]), prefix) {
					found = append(found, s)
				}
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: %s is neither an environment nor the ID of a snapshot", ErrNoSnapshot, prefix)
	case 1:
		return found[0], nil
	}
	names := make([]string, len(found))
	for i, s := range found {
		names[i] = fmt.Sprintf("%x (%s/%s)", s.ID[:8], s.Host, s.Ref())
	}
	return nil, fmt.Errorf("%w: %s can be %s", ErrAmbiguous, prefix, strings.Join(names, ", "))
}
