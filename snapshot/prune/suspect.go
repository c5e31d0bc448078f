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
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// judged is what this machine remembers of the snapshots of another host, so
// that it reads each root once. Where it is lost, all roots are read again.
type judged struct {
	Number     uint64 `json:"number"`     // of the newest that was judged
	ID         string `json:"id"`         // of that
	Acceptance string `json:"acceptance"` // hash of that of the owner that it rests on
	// Taken is when the store took each root when that was judged, in seconds: the
	// time is another where the store keeps no versions and the root was put again.
	Taken map[uint64]int64 `json:"taken"`
	// Late are the roots that the store took long after their host made them.
	Late statement.Numbers `json:"late"`
	suspect.History
}

// collapses finds the snapshots of an environment of another host whose sources
// collapsed.
type collapses struct {
	repo      *repository.Repository
	host, env string
	now       time.Time // by the clock of the store
	note      func(format string, args ...any)
}

// find returns those snapshots, as Suspect, forgotten ones included, and whether the newest
// of all is one of them. It goes by the counts in the roots, by when the store
// took these, and by what the owner accepted: whoever took the host over claims
// of its own snapshots whatever is useful.
func (c *collapses) find(ctx context.Context, written map[uint64]time.Time) (found *judged, waits bool, err error) {
	accepted, err := c.repo.Acceptances(ctx, c.host, c.env)
	if err != nil {
		return nil, false, err
	}
	j, newest, err := c.judgeSince(ctx, written, c.load(accepted), accepted)
	if err == nil && j == nil { // what is remembered is of another history
		j, newest, err = c.judgeSince(ctx, written, &judged{}, accepted)
	}
	if err != nil {
		return nil, false, err
	}
	j.Acceptance = acceptance(accepted)
	c.save(j)

	waits = newest != nil && j.Suspect.Has(newest.Number)
	if waits {
		c.note("host %s: %s has much less than the snapshots before it: `knowngood show %s/%s` shows more, and `knowngood accept %s/%s`, with an identity, accepts it", c.host, newest.Ref(), c.host, newest.Ref(), c.host, newest.Ref())
	}
	return j, waits, nil
}

// judgeSince judges the snapshots after those that are judged, and returns the
// newest. It is nil when the last one judged is not the one that is there.
func (c *collapses) judgeSince(ctx context.Context, written map[uint64]time.Time, j *judged, accepted *history.Acceptances) (*judged, *history.Snapshot, error) {
	var before statement.Numbers
	if j.Number > 1 {
		before = statement.Numbers{{First: 1, Last: j.Number - 1}}
	}
	var all []*history.Snapshot
	for s, err := range c.repo.Except(ctx, c.host, c.env, before) {
		switch {
		case err != nil && !authentic.Damaged(err):
			return nil, nil, fmt.Errorf("environment %s: %w", c.env, err)
		case err == nil && s.Body != nil: // what is needed of it: a root may be long
			root := &statement.Root{Environment: c.env, Number: s.Number, Domain: s.Root.Domain}
			all = append(all, &history.Snapshot{Number: s.Number, ID: s.ID, Root: root, Body: &statement.RootBody{Finished: s.Body.Finished, Sources: s.Body.Sources}})
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
			item.Time = c.now // put since the listing
		}
		j.Judge(item, accepted.Owner.Names(s.Number, s.ID), suspect.Rule{Whole: true})
		j.date(s.Number, s.Body.Finished, item.Time)
		j.Number, j.ID = s.Number, hex.EncodeToString(s.ID[:])
	}
	if len(all) == 0 {
		return j, nil, nil
	}
	return j, all[0], nil
}

// date remembers when the store took a root that its host made at another time.
func (j *judged) date(n uint64, made, taken time.Time) {
	if j.Taken == nil {
		j.Taken = map[uint64]int64{}
	}
	j.Taken[n] = taken.Unix()
	if taken.Sub(made) > maxClockError {
		j.Late = j.Late.With(statement.NumbersOf(n))
	}
}

// acceptance names that of the owner; "" for none.
func acceptance(a *history.Acceptances) string {
	if a.Owner == nil {
		return ""
	}
	hash := a.Owner.Hash()
	return hex.EncodeToString(hash[:])
}

// dir has a file for each environment of the host.
func (c *collapses) dir() userdir.Dir { return c.repo.State.Dir().In("judged", c.host) }

// load returns what was judged by the acceptance that holds now.
func (c *collapses) load(accepted *history.Acceptances) *judged {
	j := &judged{}
	b, err := c.dir().ReadFile(c.env)
	if err != nil || json.Unmarshal(b, j) != nil || j.Acceptance != acceptance(accepted) {
		return &judged{}
	}
	return j
}

// save remembers it. What cannot be written is read again.
func (c *collapses) save(j *judged) {
	dir := c.dir()
	if dir.None() {
		return
	}
	b, err := json.Marshal(j)
	if err == nil {
		err = dir.Make()
	}
	if err == nil {
		err = dir.Replace(c.env, b)
	}
	if err != nil {
		c.note("the roots of %s of host %s are all read again by the next run: %v", c.env, c.host, err)
	}
}
