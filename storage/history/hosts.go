package history

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/trust"
)

// Hosts are the hosts that there are, with their environments.
type Hosts struct {
	t     *trust.Trust
	roots *Roots
}

// AllHosts lists the hosts, sorted: those that the owner certified, by a certificate
// in the store or in a root, and those of which this machine remembers snapshots. What
// else lies in the place of a host is warned of.
func (h *Hosts) AllHosts(ctx context.Context) ([]string, error) {
	names, err := h.t.Enrolled(ctx)
	if err != nil {
		return nil, err
	}
	others, err := h.folders(ctx, layout.PrefixHosts, layout.ParseHostPrefix)
	if err != nil {
		return nil, err
	}
	names = append(names, others...)
	slices.Sort(names)
	return h.certified(ctx, slices.Compact(names))
}

// certified are those of the names that hosts have. It warns of the others.
func (h *Hosts) certified(ctx context.Context, names []string) ([]string, error) {
	is := make([]bool, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(ahead)
	for i, name := range names {
		g.Go(func() (err error) {
			is[i], err = h.isHost(gctx, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}

	var hosts []string
	for i, name := range names {
		if is[i] {
			hosts = append(hosts, name)
			continue
		}
		if probed, err := h.onlyProbed(ctx, name); err != nil {
			return nil, err
		} else if probed {
			continue
		}
		h.t.Warn(&authentic.DamageError{Key: layout.PrefixHosts + name, What: "folder",
			Err: fmt.Errorf("something else wrote here: the owner certified no host %s, and what lies there or in %s counts for nothing; find out who can write there, and remove it", name, layout.PrefixCertificates(name))})
	}
	return hosts, nil
}

// maxForeign is how many roots are read of a host without certificates.
const maxForeign = 64

// isHost reports whether the owner certified a host of that name, or this machine
// remembers snapshots of it. Where somebody removed the certificates, there is one in
// each root.
func (h *Hosts) isHost(ctx context.Context, name string) (bool, error) {
	certs, err := h.t.Certificates(ctx, name)
	if err != nil || len(certs) > 0 {
		return err == nil, err
	}
	remembered, err := h.t.State.Names(name)
	if err != nil || len(remembered) > 0 {
		return err == nil, err
	}

	read := 0
	for o, err := range h.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixEnvironments(name), Hidden: true}) {
		if errors.Is(err, storage.ErrDenied) {
			return true, nil // which these credentials do not show
		}
		if err != nil {
			return false, err
		}
		_, env, _, ok := layout.ParseRootKey(o.Key)
		if !ok {
			continue
		}
		e, err := h.roots.environment(ctx, name, env)
		if err != nil {
			return false, err
		}
		if _, err = e.read(ctx, o); !authentic.Damaged(err) {
			return err == nil, err
		}
		if read++; read == maxForeign {
			break
		}
	}
	return false, nil
}

// onlyProbed reports whether nothing lies there of a name without certificates but
// what a machine leaves that probes the store before it joins.
func (h *Hosts) onlyProbed(ctx context.Context, name string) (bool, error) {
	for _, prefix := range []string{layout.PrefixHost(name), layout.PrefixCertificates(name)} {
		for o, err := range h.t.Store().List(ctx, storage.ListOptions{Prefix: prefix, Delimiter: true}) {
			if errors.Is(err, storage.ErrDenied) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			if o.Key != layout.PrefixHostProbes(name) {
				return false, nil
			}
		}
	}
	return true, nil
}

// folders are the names that parse finds in the folders of a prefix.
func (h *Hosts) folders(ctx context.Context, prefix string, parse func(string) (string, bool)) ([]string, error) {
	var names []string
	for o, err := range h.t.Store().List(ctx, storage.ListOptions{Prefix: prefix, Delimiter: true}) {
		if err != nil {
			return nil, err
		}
		if name, ok := parse(o.Key); ok && o.Folded {
			names = append(names, name)
		}
	}
	return names, nil
}

// Environments lists the environments in which a host has snapshots, or is
// remembered to have had some, sorted.
func (h *Hosts) Environments(ctx context.Context, host string) ([]string, error) {
	remembered, err := h.t.State.Names(host)
	if err != nil {
		return nil, err
	}
	names, err := h.folders(ctx, layout.PrefixEnvironments(host), func(folded string) (string, bool) {
		_, env, ok := layout.ParseEnvironmentPrefix(folded)
		return env, ok
	})
	if err != nil {
		return nil, err
	}
	names = append(names, remembered...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// EveryEnvironment lists the environments of a host, those too of which every
// root is hidden. What else lies there is passed over: it must hide none.
func (h *Hosts) EveryEnvironment(ctx context.Context, host string) ([]string, error) {
	names, err := h.t.State.Names(host)
	if err != nil {
		return nil, err
	}
	prefix := layout.PrefixEnvironments(host)
	for after, more := "", true; more; {
		more = false
		for o, err := range h.t.Store().List(ctx, storage.ListOptions{Prefix: prefix, After: after, Hidden: true}) {
			if err != nil {
				return nil, err
			}
			if _, env, _, ok := layout.ParseRootKey(o.Key); ok {
				names = append(names, env)
				after, more = layout.PrefixRoots(host, env)+"~", true // after all of them: no key has it
				break
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Remembered is the number of the newest snapshot of an environment that this
// machine saw; 0 when it saw none. It asks no store.
func (h *Hosts) Remembered(host, env string) (uint64, error) {
	known, err := h.t.State.Head(host, env)
	if known == nil || err != nil {
		return 0, err
	}
	return known.Number, nil
}
