package prune

import (
	"context"
	"errors"
	"time"

	"knowngood/snapshot/retention"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// Judged is a snapshot with what a retention policy says of it.
type Judged struct {
	*history.Snapshot
	Suspect bool     // by the word of its host, and nobody accepted it
	Reasons []string // to keep it; none: it is to be forgotten
}

// Judge applies a retention policy to the snapshots of an environment that are
// not forgotten, and returns them the newest first. Their time is that of
// their start, or where nothing at hand opens them that at which the store
// took them. Roots that do not verify are not judged, and so stay: damaged
// names them. While the newest is suspect, and nobody accepted it, all are kept.
func Judge(ctx context.Context, repo *repository.Repository, host, env string, policy retention.Policy, now time.Time, zone *time.Location) (judged []Judged, damaged []error, err error) {
	byNumber := map[uint64]*history.Snapshot{}
	var items []retention.Item
	var written map[uint64]time.Time
	accepted, err := repo.Acceptances(ctx, host, env)
	if err != nil {
		return nil, nil, err
	}
	for s, err := range repo.Kept(ctx, host, env) {
		if authentic.Damaged(err) {
			if !errors.Is(err, statement.ErrEnded) {
				damaged = append(damaged, err)
			}
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		item := retention.Item{Number: s.Number, Suspect: accepted.Suspect(s)}
		if s.Body != nil {
			item.Time = s.Body.Started
		} else if written == nil {
			if written, err = repo.Written(ctx, host, env); err != nil {
				return nil, nil, err
			}
		}
		if s.Body == nil {
			item.Time = written[s.Number]
		}
		items, byNumber[s.Number] = append(items, item), s
	}
	verdicts := retention.Apply(policy, items, now, zone)
	retention.Wait(verdicts)
	for _, v := range verdicts {
		judged = append(judged, Judged{byNumber[v.Number], v.Suspect, v.Reasons})
	}
	return judged, damaged, nil
}

// Unkept are the numbers of those that are to be forgotten.
func Unkept(judged []Judged) statement.Numbers {
	var out []uint64
	for _, j := range judged {
		if len(j.Reasons) == 0 {
			out = append(out, j.Number)
		}
	}
	return statement.NumbersOf(out...)
}
