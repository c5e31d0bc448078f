package repository

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// Resolve finds the snapshot that ref names. Where ref says no host it is
// defaultHost if that has the environment, else the only host that has it.
// The error is ErrNoSnapshot when there is none, ErrAmbiguous when several
// hosts or snapshots fit, *DamageError or *TamperError when the one named
// does not verify, and, beside the snapshot, ErrPruned.
func (r *Repository) Resolve(ctx context.Context, ref Ref, defaultHost string) (*Snapshot, error) {
	if ref.ID == "" {
		host, err := r.HostOf(ctx, ref, defaultHost)
		if err != nil {
			return nil, err
		}
		s, err := r.selected(ctx, ref, host)
		if errors.Is(err, ErrNoSnapshot) {
			err = r.withWhatThereIs(ctx, ref, host, err)
		}
		return s, err
	}
	if ref.Environment != "" {
		host, err := r.HostOf(ctx, ref, defaultHost)
		if err == nil {
			return r.selected(ctx, ref, host)
		}
		if !errors.Is(err, ErrNoSnapshot) {
			return nil, err
		}
	}
	s, err := r.byID(ctx, ref.ID)
	if err == nil {
		err = r.unlessPruned(ctx, s)
	}
	return s, err
}

// withWhatThereIs adds to an ErrNoSnapshot the environments of the host, or the
// hosts when there is none of its name.
func (r *Repository) withWhatThereIs(ctx context.Context, ref Ref, host string, err error) error {
	have, lerr := r.Environments(ctx, host)
	if lerr != nil || slices.Contains(have, ref.Environment) {
		return err
	}
	if len(have) > 0 {
		return fmt.Errorf("%w; it has %s", err, strings.Join(have, ", "))
	}
	if hosts, lerr := r.Hosts(ctx); lerr == nil && len(hosts) > 0 && !slices.Contains(hosts, host) {
		return fmt.Errorf("%w: the repository has no host %s; it has %s", ErrNoSnapshot, host, strings.Join(hosts, ", "))
	}
	return err
}

// HostOf finds the host that has the environment of ref.
func (r *Repository) HostOf(ctx context.Context, ref Ref, defaultHost string) (string, error) {
	if ref.Host != "" {
		return ref.Host, nil
	}
	hosts, err := r.enrolledHosts(ctx)
	if err != nil {
		return "", err
	}
	if len(hosts) == 1 && ref.ID == "" {
		return hosts[0], nil // looking into it tells whether it has the environment
	}
	if slices.Contains(hosts, defaultHost) {
		// It is preferred, and its credentials may not show others.
		if own, err := r.having(ctx, []string{defaultHost}, ref.Environment); err != nil || len(own) > 0 {
			return defaultHost, err
		}
	}
	have, err := r.having(ctx, hosts, ref.Environment)
	if err == nil && len(have) == 0 {
		// Certificates may have been removed.
		if hosts, err = r.Hosts(ctx); err == nil {
			have, err = r.having(ctx, hosts, ref.Environment)
		}
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
		if known, err := r.local.head(defaultHost, ref.Environment); err == nil && known != nil {
			return defaultHost, nil
		}
		return "", fmt.Errorf("%w: %s: no host has an environment of that name; `knowngood list` shows what there is", ErrNoSnapshot, ref)
	case 1:
		return have[0], nil
	}
	for i, h := range have {
		have[i] = h + "/" + ref.text
	}
	return "", fmt.Errorf("%w: %s can be %s", ErrAmbiguous, ref, strings.Join(have, ", "))
}

// having are the hosts that have an environment.
func (r *Repository) having(ctx context.Context, hosts []string, env string) ([]string, error) {
	has := make([]bool, len(hosts))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(rootsInFlight)
	for i, h := range hosts {
		g.Go(func() error {
			envs, err := r.Environments(gctx, h)
			has[i] = slices.Contains(envs, env)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var have []string
	for i, h := range hosts {
		if has[i] {
			have = append(have, h)
		}
	}
	return have, nil
}

// selected applies the selector of ref within a host.
func (r *Repository) selected(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	switch ref.Selector {
	case KnownGood:
		return nil, fmt.Errorf("%w: no snapshot of %s is known to be good yet: no drill has passed", ErrNoSnapshot, ref.Environment)
	case ByNumber:
		s, err := r.byNumber(ctx, ref, host)
		if err == nil {
			err = r.unlessPruned(ctx, s)
		}
		return s, err
	case NotLater:
		return r.notLater(ctx, ref, host)
	}
	s, err := r.Head(ctx, host, ref.Environment)
	if Damaged(err) {
		return nil, fmt.Errorf("the newest snapshot of %s cannot be used; name an older one, as `knowngood list %s` shows them: %w", ref.Environment, ref.Environment, err)
	}
	return s, err
}

// byNumber fetches one root; the one after it, where there is one, vouches
// for it.
func (r *Repository) byNumber(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	e, err := r.environment(ctx, host, ref.Environment)
	if err != nil {
		return nil, err
	}
	newer, err := e.after(ctx, ref.Number)
	if err != nil {
		return nil, err
	}
	s, err := e.root(ctx, ref.Number)
	if newer == nil {
		if errors.Is(err, storage.ErrNotFound) {
			return nil, e.absent(ctx, ref)
		}
		return s, err
	}
	if err == nil && newer.Root.Previous != s.ID {
		s, err = e.linked(ctx, newer, s)
	}
	return s, err
}

// after is the root that follows number; nil when there is none that verifies.
func (e *environment) after(ctx context.Context, number uint64) (*Snapshot, error) {
	next := layout.KeyRoot(e.host, e.name, number+1)
	for _, err := range e.r.store.List(ctx, storage.ListOptions{Prefix: next, Hidden: true}) {
		if err != nil {
			return nil, err
		}
		s, err := e.root(ctx, number+1)
		if Damaged(err) {
			return nil, nil
		}
		return s, err
	}
	return nil, nil
}

// absent tells a number that was never reached from one that is missing.
func (e *environment) absent(ctx context.Context, ref Ref) error {
	for n, err := range e.numbers(ctx) {
		if err != nil {
			return err
		}
		if n > ref.Number {
			return &DamageError{Key: layout.KeyRoot(e.host, e.name, ref.Number), What: "root", Err: fmt.Errorf("missing, though there is %s@%d", e.name, n)}
		}
		return fmt.Errorf("%w: %s: the newest of host %s is %s@%d", ErrNoSnapshot, ref, e.host, e.name, n)
	}
	return fmt.Errorf("%w: %s: host %s has no snapshot of %s; `knowngood list` shows what there is", ErrNoSnapshot, ref, e.host, e.name)
}

func (r *Repository) notLater(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	for s, err := range r.Kept(ctx, host, ref.Environment) {
		if errors.Is(err, statement.ErrEnded) {
			r.warn(err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", ref, err)
		}
		if s.Body == nil {
			return nil, fmt.Errorf("find %s: name a number, for the time of %s/%s is sealed: %w", ref, s.Host, s.Ref(), r.Closed(ctx, s))
		}
		if s.Body.Started.Before(ref.Before) {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: %s: host %s has no snapshot of %s that early", ErrNoSnapshot, ref, host, ref.Environment)
}

// byID looks through all snapshots. Those that do not verify have no ID.
func (r *Repository) byID(ctx context.Context, prefix string) (*Snapshot, error) {
	hosts, err := r.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	var found []*Snapshot
	for _, h := range hosts {
		envs, err := r.Environments(ctx, h)
		if err != nil {
			return nil, err
		}
		for _, env := range envs {
			for s, err := range r.Snapshots(ctx, h, env) {
				if Damaged(err) {
					r.warn(err)
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
