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

	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Resolver finds snapshots by what people call them.
type Resolver struct {
	t          *trust.Trust
	hosts      *Hosts
	roots      *Roots
	tombstones *Tombstones
	suspects   *Suspects
	attest     *attest.Ledger
}

// Resolve finds the snapshot that ref names. Where ref names no host it is
// defaultHost if that has the environment, else the only host that has it.
// The error is ErrNoSnapshot when there is none, ErrAmbiguous when several
// hosts or snapshots fit, *DamageError or *TamperError when the one named
// does not verify or is not the one that was attested, and, beside the snapshot,
// ErrPruned.
func (h *Resolver) Resolve(ctx context.Context, ref Ref, defaultHost string) (*Snapshot, error) {
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
		err = h.tombstones.unlessPruned(ctx, s)
	}
	if werr := h.witnessed(ctx, s, nil); werr != nil {
		return nil, werr
	}
	return s, err
}

// withWhatThereIs adds to an ErrNoSnapshot the environments of the host, or the
// hosts when there is none of its name.
func (h *Resolver) withWhatThereIs(ctx context.Context, ref Ref, host string, err error) error {
	have, lerr := h.hosts.Environments(ctx, host)
	if lerr != nil || slices.Contains(have, ref.Environment) {
		return err
	}
	if len(have) > 0 {
		return NoEnvironment("host "+host, ref.Environment, have)
	}
	if hosts, lerr := h.hosts.AllHosts(ctx); lerr == nil && len(hosts) > 0 && !slices.Contains(hosts, host) {
		return &missingError{fmt.Sprintf("the repository has no host %s. It has: %s", host, strings.Join(hosts, ", "))}
	}
	return err
}

// HostOf finds the host that has the environment of ref.
func (h *Resolver) HostOf(ctx context.Context, ref Ref, defaultHost string) (string, error) {
	if ref.Host != "" {
		return ref.Host, nil
	}
	hosts, err := h.t.Enrolled(ctx)
	if err != nil {
		return "", err
	}
	if len(hosts) == 1 && ref.ID == "" {
		return hosts[0], nil // looking into it reports whether it has the environment
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
		if hosts, err = h.hosts.AllHosts(ctx); err == nil {
			have, err = h.having(ctx, hosts, ref.Environment)
		}
	}
	if err == nil && len(have) > 1 {
		have, err = h.hosts.certified(ctx, have)
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
func (h *Resolver) having(ctx context.Context, hosts []string, env string) ([]string, error) {
	has := make([]bool, len(hosts))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(ahead)
	for i, host := range hosts {
		g.Go(func() error {
			envs, err := h.hosts.Environments(gctx, host)
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

// selected applies the selector of ref within a host. What this machine did not see
// before is compared with what was attested.
func (h *Resolver) selected(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	known, err := h.t.State.Roots(host, ref.Environment)
	if err != nil {
		return nil, err
	}
	s, err := h.bySelector(ctx, ref, host)
	if werr := h.witnessed(ctx, s, known); werr != nil {
		return nil, werr
	}
	return s, err
}

func (h *Resolver) bySelector(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	switch ref.Selector {
	case KnownGood:
		return h.knownGood(ctx, ref, host)
	case ByNumber:
		s, err := h.roots.byNumber(ctx, ref, host)
		if err == nil {
			err = h.tombstones.unlessPruned(ctx, s)
		}
		return s, err
	case NotLater:
		return h.notLater(ctx, ref, host)
	}
	s, err := h.roots.Head(ctx, host, ref.Environment)
	if authentic.Damaged(err) {
		return nil, fmt.Errorf("the newest snapshot of %s cannot be used; name an older one, as `knowngood list %s` shows them: %w", ref.Environment, ref.Environment, err)
	}
	return s, err
}

// maxClockError is how far the time that a host signs may be from that of the
// store.
const maxClockError = 24 * time.Hour

// maxRun is how long a capture may take before its time is in doubt.
const maxRun = 14 * 24 * time.Hour

// notLater is the newest snapshot that began before a time. One that the store took
// long after that time, or long after its host claims that it was made, is used only
// when there is no other, and reported: a host that was taken over dates its snapshots
// as it likes.
func (h *Resolver) notLater(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	var doubtful *Snapshot
	for s, err := range h.tombstones.Kept(ctx, host, ref.Environment) {
		switch {
		case errors.Is(err, statement.ErrEnded):
			h.t.Warn(err)
		case err != nil:
			return nil, fmt.Errorf("find %s: %w", ref, err)
		case s.Body == nil:
			return nil, fmt.Errorf("find %s: name a number, for the time of %s/%s is sealed: %w", ref, s.Host, s.Ref(), h.t.Closed(ctx, s.Root))
		case !s.Body.Started.Before(ref.Before):
		case s.Stored.Sub(ref.Before) <= maxClockError && s.Stored.Sub(s.Body.Finished) <= maxClockError && s.Stored.Sub(s.Body.Started) <= maxRun:
			if doubtful != nil {
				h.t.Warn(fmt.Errorf("%s: %s was passed over: %w", ref, doubtful.Ref(), dated(doubtful)))
			}
			return s, nil
		case doubtful == nil:
			doubtful = s
		}
	}
	if doubtful != nil {
		h.t.Warn(fmt.Errorf("%s: %w: is this a copy of the repository?", doubtful.Ref(), dated(doubtful)))
		return doubtful, nil
	}
	return nil, fmt.Errorf("%w: %s: host %s has no snapshot of %s that early", ErrNoSnapshot, ref, host, ref.Environment)
}

// dated are the two times of a snapshot that do not agree.
func dated(s *Snapshot) error {
	return fmt.Errorf("its host says that it was made on %s, and the store took it on %s", s.Body.Started.Format(time.RFC3339), s.Stored.Format(time.RFC3339))
}

// byID looks through all snapshots. Those that do not verify have no ID.
func (h *Resolver) byID(ctx context.Context, prefix string) (*Snapshot, error) {
	hosts, err := h.hosts.AllHosts(ctx)
	if err != nil {
		return nil, err
	}
	var found []*Snapshot
	for _, host := range hosts {
		envs, err := h.hosts.Environments(ctx, host)
		if err != nil {
			return nil, err
		}
		for _, env := range envs {
			for s, err := range h.roots.Snapshots(ctx, host, env) {
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
