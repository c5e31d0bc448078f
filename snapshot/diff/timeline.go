package diff

import (
	"context"
	"errors"
	"slices"

	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// Churn counts the paths that differ from one snapshot to another.
type Churn struct {
	Added    uint64 `json:"added"`
	Removed  uint64 `json:"removed"`
	Modified uint64 `json:"modified"`
	Metadata uint64 `json:"metadata"`
	Unread   uint64 `json:"unread"`
	// Bytes are the content of the files that were added or modified, as a whole.
	Bytes uint64 `json:"changed_bytes"`
	// Privileged are files that run with rights of their own (set-uid, set-gid,
	// capabilities) and came, went or differ in content or rights; Executable are
	// files that may be executed, likewise.
	Privileged uint64 `json:"set_uid"`
	Executable uint64 `json:"executable"`
}

// add counts a difference.
func (c *Churn) add(d *Difference) {
	switch d.Change {
	case Added:
		c.Added++
	case Removed:
		c.Removed++
	case Modified:
		c.Modified++
	case Metadata:
		c.Metadata++
	case Unread:
		c.Unread++
	}
	if d.To != nil && d.To.Type == manifest.File && (d.Change == Added || d.Change == Modified) {
		c.Bytes += d.To.ContentSize()
	}
	if d.Change == Metadata && sameRights(d.From, d.To) {
		return
	}
	for _, n := range []struct {
		count *uint64
		has   func(*manifest.Entry) bool
	}{{&c.Privileged, privileged}, {&c.Executable, executable}} {
		if d.From != nil && n.has(d.From) || d.To != nil && n.has(d.To) {
			*n.count++
		}
	}
}

func executable(e *manifest.Entry) bool { return e.Type == manifest.File && e.Mode&0o111 != 0 }

func privileged(e *manifest.Entry) bool {
	return e.Type == manifest.File && (e.Mode&0o6000 != 0 || len(capabilities(e)) > 0)
}

func capabilities(e *manifest.Entry) []byte {
	i := slices.IndexFunc(e.Xattrs, func(x manifest.Xattr) bool { return x.Name == "security.capability" })
	if i < 0 {
		return nil
	}
	return e.Xattrs[i].Value
}

// sameRights reports whether two entries of a path may do the same when executed, and
// be executed by the same.
func sameRights(a, b *manifest.Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && string(capabilities(a)) == string(capabilities(b))
}

// Row is a snapshot of a timeline.
type Row struct {
	Snapshot *history.Snapshot
	Before   *history.Snapshot // that it is compared with; nil for the first one
	Churn    Churn             // from Before
	Err      error             // why it could not be compared: it is damaged, or sealed to others
}

// Timeline returns for each of the last snapshots of an environment, given with the
// oldest first, what changed from the one before that could be read. It needs an
// identity. Memory does not grow with the trees, and parts that both have are not read.
func Timeline(ctx context.Context, r *repository.Repository, snapshots []*history.Snapshot, last int) (rows []Row, err error) {
	var before *snapshot.Tree
	defer func() {
		if before != nil {
			before.Reader.Close()
		}
	}()
	skipped := max(0, len(snapshots)-last)
	for _, s := range snapshots[max(0, skipped-1):] {
		row := Row{Snapshot: s}
		tree, err := snapshot.OpenTree(ctx, r, s)
		if err == nil && before != nil {
			row.Before = before.Snapshot
			row.Churn, err = churn(ctx, before, tree)
		}
		if tree != nil {
			if before != nil {
				before.Reader.Close()
			}
			before = tree
		}
		if closed := (*trust.IdentityError)(nil); authentic.Damaged(err) || errors.As(err, &closed) {
			row.Err, err = err, nil
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows[min(len(rows), skipped, 1):], nil
}

// churn counts what differs between two snapshots.
func churn(ctx context.Context, a, b *snapshot.Tree) (c Churn, err error) {
	for d, err := range Between(ctx, a, b, "") {
		if err != nil {
			return c, err
		}
		c.add(&d)
	}
	return c, nil
}
