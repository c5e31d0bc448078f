package prune

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"knowngood/internal/userdir"
	"knowngood/snapshot/suspect"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/statement"
)

// judged is what this machine remembers of the snapshots of another host, so
// that it reads each root once. Where it is lost, all roots are read again.
type judged struct {
	Number     uint64 `json:"number"`     // of the newest that was judged
	ID         string `json:"id"`         // of that
	Acceptance string `json:"acceptance"` // hash of that of the owner that it rests on
	suspect.History
}

// suspects are the snapshots of an environment of another host whose sources
// collapsed, forgotten ones included, and whether the newest is one of them. It
// rests on the counts in the roots, on when the store took these, and on what
// the owner accepted: whoever took the host over says of its own snapshots what
// he likes. Of this machine's own there are none: it decided by itself what to
// forget.
func (h *host) suspects(ctx context.Context, env string, written map[uint64]time.Time) (statement.Numbers, bool, error) {
	if h.own {
		return nil, false, nil
	}
	accepted, err := h.repo.Acceptances(ctx, h.name, env)
	if err != nil {
		return nil, false, err
	}
	j, since, err := h.judgeSince(ctx, env, written, h.remembered(env, accepted), accepted)
	if err == nil && j == nil { // what is remembered is of another history
		j, since, err = h.judgeSince(ctx, env, written, &judged{}, accepted)
	}
	if err != nil {
		return nil, false, err
	}
	j.Acceptance = acceptance(accepted)
	h.remember(env, j)

	waits := since != nil && j.Suspect.Has(since.Number)
	if waits {
		h.note("host %s: %s has much less than the snapshots before it: `knowngood show %s/%s` tells more, and `knowngood accept %s/%s`, with an identity, makes it good", h.name, since.Ref(), h.name, since.Ref(), h.name, since.Ref())
	}
	return j.Suspect, waits, nil
}

// judgeSince judges the snapshots after those that are judged, and gives the
// newest. It is nil when the last one judged is not the one that is there.
func (h *host) judgeSince(ctx context.Context, env string, written map[uint64]time.Time, j *judged, accepted *history.Acceptances) (*judged, *history.Snapshot, error) {
	var before statement.Numbers
	if j.Number > 1 {
		before = statement.Numbers{{First: 1, Last: j.Number - 1}}
	}
	var all []*history.Snapshot
	for s, err := range h.repo.Except(ctx, h.name, env, before) {
		switch {
		case err != nil && !authentic.Damaged(err):
			return nil, nil, fmt.Errorf("environment %s: %w", env, err)
		case err == nil && s.Body != nil:
			all = append(all, s)
		}
	}
	if j.Number > 0 && !slices.ContainsFunc(all, func(s *history.Snapshot) bool { return s.Number == j.Number && hex.EncodeToString(s.ID[:]) == j.ID }) {
		return nil, nil, nil
	}

	for _, s := range slices.Backward(all) {
		if s.Number <= j.Number {
			continue
		}
		item := suspect.Snapshot{Number: s.Number, Time: written[s.Number], Domain: s.Root.Domain, Sources: s.Body.Sources}
		if item.Time.IsZero() {
			item.Time = h.now // put since the listing
		}
		j.Judge(item, accepted.Owner.Names(s.Number, s.ID), suspect.Rule{Whole: true})
		j.Number, j.ID = s.Number, hex.EncodeToString(s.ID[:])
	}
	if len(all) == 0 {
		return j, nil, nil
	}
	return j, all[0], nil
}

// acceptance names that of the owner; "" for none.
func acceptance(a *history.Acceptances) string {
	if a.Owner == nil {
		return ""
	}
	hash := a.Owner.Hash()
	return hex.EncodeToString(hash[:])
}

// judgements is the folder in which this machine remembers what was judged, a
// file for each environment.
func (h *host) judgements() userdir.Dir { return h.repo.State.Dir().In("judged", h.name) }

// remembered is what was judged by the acceptance that holds now.
func (h *host) remembered(env string, accepted *history.Acceptances) *judged {
	j := &judged{}
	b, err := h.judgements().ReadFile(env)
	if err != nil || json.Unmarshal(b, j) != nil || j.Acceptance != acceptance(accepted) {
		return &judged{}
	}
	return j
}

// remember keeps it. What cannot be written is read again.
func (h *host) remember(env string, j *judged) {
	dir := h.judgements()
	if dir.None() {
		return
	}
	b, err := json.Marshal(j)
	if err == nil {
		err = dir.Make()
	}
	if err == nil {
		err = dir.Replace(env, b)
	}
	if err != nil {
		h.note("the roots of %s of host %s are all read again by the next run: %v", env, h.name, err)
	}
}
