// Package prune frees what no kept snapshot needs: packs, manifest containers
// and replaced index runs, as docs/FORMAT.md section 10 defines. It works in two
// phases and without locks, beside captures under way: a run announces what is
// not needed; a later one, when the time is over, reads the store again and deletes what
// is still not needed.
//
// It promises to delete nothing that a kept snapshot needs. It refuses to
// delete anything of a host whose roots, or of a domain whose manifests, it
// cannot read and verify all. It may be stopped at any moment and run again.
// Roots, keys and other statements it never deletes.
//
// On the host itself and with an identity it may also rewrite packs of which
// little is needed, so that they are not needed any more.
//
// Of the snapshots that it kept before it remembers the lists of objects, in the state
// directory. It holds some hundred bytes for each pack and container, for each snapshot less
// than a kilobyte and a bit for each object that it needs, and nothing for each chunk
// but those in the packs that it rewrites.
package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/trust"
)

// Times that docs/FORMAT.md section 10 rests on.
const (
	// MinAnnounce is the least time between announcing and deleting: twice
	// what a writer may run without a revalidation.
	MinAnnounce = 48 * time.Hour
	// young is how long an object is kept that may belong to a run
	// under way.
	young = 48 * time.Hour
)

// ErrChanged means that snapshots were forgotten, or taken back, while a run looked.
// It deleted nothing more, and the next run takes that into account.
var ErrChanged = errors.New("snapshots were forgotten or taken back meanwhile")

// DefaultAnnounce is the time between announcing and deleting, unless set.
const DefaultAnnounce = 7 * 24 * time.Hour

// Options of a run.
type Options struct {
	Host     string        // the only host to look at; "" is all
	Announce time.Duration // DefaultAnnounce when 0; at least MinAnnounce
	DryRun   bool          // find out, and change nothing
	// Policy, when it is set and gives one, names snapshots that are kept
	// whatever their host forgot: who took a host over can forget with its
	// key. It goes by when the store took the roots, in UTC. Snapshots of another
	// host that are suspect by the counts in their roots take no place in it of
	// good ones; while its newest is, good ones of the days before that are kept
	// without a policy, too.
	Policy func(host, env string) *retention.Policy
	// MaxRepack is how many stored bytes of packs of which little is needed are
	// rewritten, so that their space is freed as well; 0 for none. It takes an
	// identity, on the host itself.
	MaxRepack uint64
	Progress  *Progress // may be nil
}

// Progress may be read while a run is under way.
type Progress struct {
	Manifests, Deleted, Bytes atomic.Uint64
	Read                      atomic.Uint64 // bytes of packs that are rewritten
}

// Amount of objects.
type Amount struct {
	Objects uint64 `json:"objects"`
	Bytes   uint64 `json:"bytes"`
}

func (a *Amount) add(size uint64) { a.Objects, a.Bytes = a.Objects+1, a.Bytes+size }

// Domain is what was found and done in a domain of a host. In a dry run it is
// what would be done.
type Domain struct {
	Host      string        `json:"host"`
	ID        seal.DomainID `json:"-"`
	Snapshots uint64        `json:"snapshots"` // kept
	Needed    Amount        `json:"needed"`
	Announced Amount        `json:"announced"` // in this run
	Waiting   Amount        `json:"waiting"`   // announced before, and not long enough ago
	Due       time.Time     `json:"due,omitzero"`
	Deleted   Amount        `json:"deleted"`         // replaced index runs included
	Spared    Amount        `json:"spared"`          // announced, and needed again
	Locked    Amount        `json:"locked"`          // not deleted because the store keeps them locked
	Repacked  Amount        `json:"repacked"`        // packs of which what is needed was rewritten in this run, and that are announced; in a dry run about
	Rewritten uint64        `json:"rewritten_bytes"` // bytes stored for that; in a dry run about
	Young     Amount        `json:"left_alone"`      // not needed, and kept because a run may be under way
}

// Blocked is what could not be pruned, and why.
type Blocked struct {
	Host   string
	Domain string // "" for all of the host
	Err    error
}

func (b Blocked) Error() string {
	if b.Domain == "" {
		return fmt.Sprintf("nothing of host %s was pruned: %v", b.Host, b.Err)
	}
	return fmt.Sprintf("nothing of domain %s of host %s was pruned: %v", b.Domain, b.Host, b.Err)
}

func (b Blocked) Unwrap() error { return b.Err }

// Report of a run.
type Report struct {
	Domains  []Domain
	Blocked  []Blocked
	Notes    []string
	Duration time.Duration
}

// pruner is one run.
type pruner struct {
	Options
	repo *repository.Repository

	mu     sync.Mutex // guards the rest
	report *Report
	failed error // of the hosts that were not pruned to the end
}

// Run prunes. What hinders it in one host or domain stands in the report. The
// error is of what ended it, or of all hosts that were not pruned to the end: no
// host keeps the others from being pruned.
func Run(ctx context.Context, repo *repository.Repository, o Options) (*Report, error) {
	started := time.Now()
	o.Announce = cmp.Or(o.Announce, DefaultAnnounce)
	if o.Announce < MinAnnounce {
		return nil, fmt.Errorf("deletions must be announced at least %v ahead, not %v: a run under way may need that long to notice", MinAnnounce, o.Announce)
	}
	o.Progress = cmp.Or(o.Progress, &Progress{})
	p := &pruner{Options: o, repo: repo, report: &Report{}}
	hosts, err := repo.AllHosts(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if o.Host != "" && h != o.Host {
			continue
		}
		if err := p.blocks(h, "", p.host(ctx, h)); err != nil {
			p.failed = errors.Join(p.failed, fmt.Errorf("prune host %s: %w", h, err))
			if ctx.Err() != nil || errors.Is(err, storage.ErrUnreachable) || errors.Is(err, storage.ErrNoStore) || errors.Is(err, storage.ErrCredentials) {
				break
			}
		}
	}
	p.report.Duration = time.Since(started)
	return p.report, p.failed
}

// blocks notes an error that hinders one host or domain, and passes others on.
// A full store hinders one that has nothing to be deleted yet: what is deleted
// of another makes room.
func (p *pruner) blocks(host, domain string, err error) error {
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if authentic.Damaged(err) || errors.Is(err, trust.ErrNoUsableIdentity) || errors.Is(err, storage.ErrInvalidKey) {
		p.report.Blocked = append(p.report.Blocked, Blocked{host, domain, err})
		return nil
	}
	if errors.Is(err, storage.ErrFull) {
		p.failed = errors.Join(p.failed, fmt.Errorf("prune host %s: %w", host, err))
		return nil
	}
	return err
}

func (p *pruner) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Notes = append(p.report.Notes, fmt.Sprintf(format, args...))
}
