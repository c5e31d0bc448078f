// Package catalog gathers the snapshots of a repository for commands that list,
// search and count them.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// Hosts are the hosts that a command looks at: this machine's own; all when that has
// nothing in the repository.
func Hosts(ctx context.Context, r *repository.Repository, own string, all bool) ([]string, error) {
	known, err := r.AllHosts(ctx)
	if err != nil || all || !slices.Contains(known, own) {
		return known, err
	}
	return []string{own}, nil
}

// Snapshot is a snapshot that a command looks at.
type Snapshot struct {
	*history.Snapshot
	At        time.Time // when it was begun; when the store took it, if that is sealed
	Forgotten bool
	Reason    string // why it is forgotten; may be empty
}

// Collect returns the snapshots of some hosts, the oldest first: of one environment,
// or of all for "". Without forgotten it leaves out those that are forgotten. Those of
// an environment are in the order of their numbers.
//
// Snapshots that do not verify are left out; unusable is called with why, and damaged
// is an error that the command ends with.
func Collect(ctx context.Context, r *repository.Repository, hosts []string, env string, forgotten bool, unusable func(error)) (out []Snapshot, damaged error, err error) {
	there := env == ""
	var have []string
	for _, h := range hosts {
		envs, err := r.EveryEnvironment(ctx, h)
		if err != nil {
			return nil, nil, err
		}
		have = append(have, envs...)
		for _, e := range envs {
			if env != "" && e != env {
				continue
			}
			there = true
			some, bad, err := Of(ctx, r, h, e, forgotten, unusable)
			if err != nil {
				return nil, nil, err
			}
			if damaged == nil || errors.Is(bad, exit.ErrDamage) {
				damaged = bad
			}
			out = append(out, some...)
		}
	}
	if !there {
		where := "the repository"
		if len(hosts) == 1 {
			where = "host " + hosts[0]
		}
		slices.Sort(have)
		return nil, nil, history.NoEnvironment(where, env, slices.Compact(have))
	}

	// A clock that went back must not change the order within an environment.
	times := map[*history.Snapshot]time.Time{}
	latest := map[[2]string]time.Time{}
	for _, s := range out {
		of := [2]string{s.Host, s.Environment}
		if s.At.After(latest[of]) {
			latest[of] = s.At
		}
		times[s.Snapshot] = latest[of]
	}
	slices.SortStableFunc(out, func(x, y Snapshot) int { return times[x.Snapshot].Compare(times[y.Snapshot]) })
	return out, damaged, nil
}

// Of is Collect for one environment of one host.
func Of(ctx context.Context, r *repository.Repository, host, env string, forgotten bool, unusable func(error)) (out []Snapshot, damaged error, err error) {
	snapshots := r.Kept
	var tombstone *statement.Tombstone
	if forgotten {
		snapshots = r.Snapshots
		if tombstone, err = r.Tombstone(ctx, host, env); err != nil {
			return nil, nil, err
		}
	}
	var stored map[uint64]time.Time // by the store's clock; nil until it is needed
	for s, err := range snapshots(ctx, host, env) {
		if err != nil {
			if !authentic.Damaged(err) {
				return nil, nil, err
			}
			unusable(err)
			switch {
			case !errors.Is(err, wire.ErrVersion):
				damaged = fmt.Errorf("%w: the snapshots named above cannot be used; knowngood check shows more", exit.ErrDamage)
			case damaged == nil:
				damaged = wire.ErrVersion
			}
			continue
		}
		x := Snapshot{Snapshot: s}
		if s.Body != nil {
			x.At = s.Body.Started
		} else if stored == nil {
			if stored, err = r.Written(ctx, host, env); err != nil {
				return nil, nil, err
			}
		}
		if s.Body == nil {
			x.At = stored[s.Number]
		}
		// The newest is never forgotten.
		if tombstone != nil && len(out) > 0 && tombstone.Forgotten.Has(s.Number) {
			x.Forgotten, x.Reason = true, tombstone.ReasonOf(s.Number)
		}
		out = append(out, x)
	}
	slices.Reverse(out)
	return out, damaged, nil
}

// Named returns the snapshots of an environment, which may have its host in front, the
// oldest first. It opens the repository for reading. unusable and damaged are those of
// Collect.
func Named(ctx context.Context, sess *session.Session, text string, unusable func(error)) (out []Snapshot, damaged error, err error) {
	ref, sub, err := sess.Ref(text)
	if err != nil {
		return nil, nil, err
	}
	if ref.Environment == "" || strings.Contains(text, "@") || sub != "" {
		return nil, nil, usage.Errorf("%s: name an environment, such as web, not one of its snapshots and no path", text)
	}
	ref.ID = "" // a name may look like one
	r, err := sess.OpenForReading(ctx)
	if err != nil {
		return nil, nil, err
	}
	host, err := r.HostOf(ctx, ref, sess.Host)
	if err != nil {
		return nil, nil, err
	}
	out, damaged, err = Of(ctx, r, host, ref.Environment, false, unusable)
	if err == nil && len(out) == 0 && damaged == nil {
		_, err = r.Resolve(ctx, ref, host) // whose error lists what there is
	}
	return out, damaged, err
}

// Suspects are those of some snapshots that are suspect by the word of their
// host, and that nobody accepted.
func Suspects(ctx context.Context, r *repository.Repository, snapshots []Snapshot) (map[*history.Snapshot]bool, error) {
	out := map[*history.Snapshot]bool{}
	known := map[string]*history.Acceptances{}
	for _, x := range snapshots {
		s := x.Snapshot
		if !history.Flagged(s) {
			continue
		}
		place := s.Host + "/" + s.Environment
		if known[place] == nil {
			accepted, err := r.Acceptances(ctx, s.Host, s.Environment)
			if err != nil {
				return nil, err
			}
			known[place] = accepted
		}
		out[s] = known[place].Suspect(s)
	}
	return out, nil
}

// Proofs are what drills and marks state of snapshots, without those that are forgotten.
// Where these credentials may not read that, it is noted.
func Proofs(ctx context.Context, sess *session.Session, r *repository.Repository, snapshots []Snapshot) (map[*history.Snapshot]attest.Judged, error) {
	byPlace := map[[2]string][]*history.Snapshot{}
	for _, s := range slices.Backward(snapshots) {
		if of := [2]string{s.Host, s.Environment}; !s.Forgotten {
			byPlace[of] = append(byPlace[of], s.Snapshot)
		}
	}
	out := map[*history.Snapshot]attest.Judged{}
	for of, list := range byPlace {
		policy, err := sess.Policy(of[0], of[1])
		if err != nil {
			return nil, err
		}
		proven, err := r.Prove(ctx, of[0], of[1], list, nil, policy, time.Now())
		if errors.Is(err, storage.ErrDenied) {
			sess.Out.Notef("what drills proved of %s/%s is not known: %v", of[0], of[1], err)
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, j := range proven.Verdict.Snapshots {
			out[proven.Snapshots[j.Number]] = j
		}
	}
	return out, nil
}

// Forgotten reports whether a snapshot is forgotten, which the newest never
// is, and why.
func Forgotten(ctx context.Context, r *repository.Repository, s *history.Snapshot) (forgotten bool, reason string, err error) {
	x, err := r.Tombstone(ctx, s.Host, s.Environment)
	if err != nil || x == nil || !x.Forgotten.Has(s.Number) {
		return false, "", err
	}
	head, err := r.Head(ctx, s.Host, s.Environment)
	switch {
	case err == nil && head.Number == s.Number:
		return false, "", nil
	case err != nil && !authentic.Damaged(err):
		return false, "", err
	}
	return true, x.ReasonOf(s.Number), nil
}

// StoredAt is when the store took a snapshot that is sealed; zero for others,
// which have their time.
func StoredAt(ctx context.Context, r *repository.Repository, s *history.Snapshot) (time.Time, error) {
	if s.Body != nil {
		return time.Time{}, nil
	}
	at, err := r.Written(ctx, s.Host, s.Environment)
	return at[s.Number].UTC(), err
}
