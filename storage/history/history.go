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
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// ahead is how many roots are fetched before they are asked for.
const ahead = 8

// History of one repository. Its methods may be called concurrently.
type History struct {
	t *trust.Trust
	d *deletion.Deletion
	c Content
}

// Content finds out whether what snapshots need is still there.
type Content interface {
	// Whole reports whether what a snapshot needs was deleted, by ErrPruned.
	Whole(ctx context.Context, s *Snapshot) error
}

// New makes the History of a repository.
func New(t *trust.Trust, d *deletion.Deletion, c Content) *History { return &History{t, d, c} }

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
}

// Ref names the snapshot within its host: web@42.
func (s *Snapshot) Ref() string { return s.Root.Ref() }

func (s *Snapshot) head() statement.Head {
	return statement.Head{Environment: s.Environment, Number: s.Number, Hash: s.ID}
}

// Environments lists the environments in which a host has snapshots, or is
// remembered to have had some, sorted.
func (h *History) Environments(ctx context.Context, host string) ([]string, error) {
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
func (h *History) EveryEnvironment(ctx context.Context, host string) ([]string, error) {
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
func (h *History) Remembered(host, env string) (uint64, error) {
	known, err := h.t.State.Head(host, env)
	if known == nil || err != nil {
		return 0, err
	}
	return known.Number, nil
}
