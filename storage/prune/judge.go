package prune

import (
	"context"
	"errors"
	"time"

	"knowngood/snapshot/retention"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// Judged is a snapshot with what a retention policy says of it.
type Judged struct {
	*repository.Snapshot
	Reasons []string // to keep it; none: it is to be forgotten
}

// Judge applies a retention policy to the snapshots of an environment that are
// not forgotten, and returns them the newest first. Their time is that of
// their start, or where nothing at hand opens them that at which the store
// took them. Roots that do not verify are not judged, and so stay: damaged
// names them.
func Judge(ctx context.Context, repo *repository.Repository, host, env string, policy retention.Policy, now time.Time, zone *time.Location) (judged []Judged, damaged []error, err error) {
	byNumber := map[uint64]*repository.Snapshot{}
	var items []retention.Item
	var written map[uint64]time.Time
	for s, err := range repo.Kept(ctx, host, env) {
		if repository.Damaged(err) {
			if !errors.Is(err, statement.ErrEnded) {
				damaged = append(damaged, err)
			}
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		item := retention.Item{Number: s.Number}
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
	for _, v := range retention.Apply(policy, items, now, zone) {
		judged = append(judged, Judged{byNumber[v.Number], v.Reasons})
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
