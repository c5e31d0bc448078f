// Package history is what was captured, and what was said of it since: the roots
// that commit snapshots, the chain that they form, tombstones and acceptances
// (docs/FORMAT.md sections 4 and 9).
//
// A root counts when it verifies under a certificate of its host that holds. Of
// several versions of one the earliest counts, and the one that this machine saw
// before, if it saw one: who holds a host's key can sign its history again, and is
// not believed. Each root must name the one before it. What does not fit is a
// *authentic.DamageError or *authentic.TamperError.
package history

import (
	"context"
	"slices"
	"time"

	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/deletion"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// ahead is how many roots are fetched before they are asked for.
const ahead = 32

// History of one repository. Its parts may be used concurrently.
type History struct {
	*Roots
	*Tombstones
	*Suspects
	*Hosts
	*Resolver
}

// Content finds out whether what snapshots need is still there.
type Content interface {
	// Whole reports whether what a snapshot needs was deleted, by ErrPruned.
	Whole(ctx context.Context, s *Snapshot) error
	// Lacking returns those of the snapshots of a host of which some content is gone.
	Lacking(ctx context.Context, host string, snapshots []*Snapshot) ([]*Snapshot, error)
	// Damaged reports whether a snapshot needs an object that was found to be missing
	// or damaged after a time.
	Damaged(ctx context.Context, s *Snapshot, after time.Time) (bool, error)
}

// New makes the History of a repository.
func New(t *trust.Trust, d *deletion.Deletion, c Content, a *attest.Ledger) *History {
	roots := &Roots{t: t, d: d}
	roots.tombstones = &Tombstones{t, d, c, roots}
	hosts := &Hosts{t, roots}
	suspects := &Suspects{t, roots.tombstones}
	return &History{roots, roots.tombstones, suspects, hosts, &Resolver{t, hosts, roots, roots.tombstones, suspects, a}}
}

// Snapshot is a root that verified.
type Snapshot struct {
	Host        string
	Environment string
	Number      uint64
	ID          [32]byte
	Root        *statement.Root
	// Body and Domain are nil when this host's domain is another and no
	// identity at hand opens it.
	Body   *statement.RootBody
	Domain *seal.Domain
	Size   int64 // of the root, in stored bytes
	// Stored is when the store took the root: a time that is not the host's word.
	// Zero of one that was just committed.
	Stored time.Time
	// Verdict is why it is known-good, where it was found as such.
	Verdict *attest.Verdict

	listed storage.Object
}

// Ref names the snapshot within its host: web@42.
func (s *Snapshot) Ref() string { return s.Root.Ref() }

// Lacks are those paths of sources that are none of the snapshot; none where its body
// is not known.
func (s *Snapshot) Lacks(paths []string) (out []string) {
	for _, p := range paths {
		if s.Body == nil {
			return nil
		}
		tag := s.Domain.SourceTag(p)
		if !slices.ContainsFunc(s.Body.Sources, func(c statement.SourceCounts) bool { return c.Tag == tag }) {
			out = append(out, p)
		}
	}
	return out
}

func (s *Snapshot) head() statement.Head {
	return statement.Head{Environment: s.Environment, Number: s.Number, Hash: s.ID}
}
