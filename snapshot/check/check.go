// Package check verifies that what a repository holds is whole, and names what is
// not: objects that are missing, damaged or of another size than snapshots state,
// with the files that cannot be restored because of them.
//
// It promises that what it calls damage affects a kept snapshot or shows that
// somebody changed what is stored; the rest is a note. It needs an identity for
// the lists of files, and looks at the structure without one. It changes nothing
// in the store.
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Options qualify a check.
type Options struct {
	// ReadData is the share of packs whose every byte is read, 0 to 1.
	ReadData float64
	// Read, when set, has more objects read whole: those of which it returns true.
	// It is called concurrently.
	Read func(deletion.ObjectID) bool
	// Host limits the check to one host; "" is all.
	Host string
	// Sealed checks snapshots of this machine's host that no identity opens: roots,
	// their lists of objects, packs by their contents, and what Read names by its
	// hash. What the lists of files need is not looked at, so an object that a
	// snapshot lists counts as needed unless all that it held is stored elsewhere.
	Sealed bool
	// Locks asks the store for the lock of every object that a kept snapshot needs;
	// else for those of the newest snapshot of each environment, at most 1000 packs
	// and containers of a domain. It does nothing where the repository has no locks.
	Locks bool
	// Repair, when set, is this machine's host: before the check its index is rebuilt
	// from the packs where index runs are missing or damaged. Nothing else is written
	// to the store.
	Repair *trust.Host
	// Found is what the repository reported before the check. What it reports
	// meanwhile goes into the result, too, and nowhere else.
	Found    []authentic.Finding
	Progress *Progress
}

// Progress may be read while a check runs.
type Progress struct {
	Packs, PacksDone atomic.Uint64
	Bytes            atomic.Uint64 // read from packs

	// Affected, when set, is called with each damaged object and each file that it
	// affects, one call at a time.
	Affected func(object string, h Affected)
}

// Damage is an object that is not as it should be, with what it affects.
type Damage struct {
	Object string
	Err    error
	Lock   bool // only a lock is wrong; Object names the snapshot whose root claims more
	// Affected lists what cannot be restored, up to a limit, what is lost first; Count
	// counts all, Lost those that are lost.
	Affected []Affected
	Count    int
	Lost     int
}

// Affected is a file, or more of a snapshot, that cannot be restored.
type Affected struct {
	Ref  string // of the snapshot
	Path string // of the file in its manifest; "" where Part is set
	Part string // what of the snapshot, in words; "" for a file
	Lost bool   // no run of the host stores it again: no newest snapshot has it
}

func (h Affected) String() string {
	if h.Part != "" {
		return h.Ref + ": " + h.Part
	}
	return h.Ref + ":/" + h.Path
}

// Report is what a check found.
type Report struct {
	Snapshots, Packs, Containers, Chunks, Segments uint64
	Forgotten                                      uint64 // of the snapshots; what they hold is not looked into
	BytesRead                                      uint64 // of packs and containers read whole
	Damage                                         []Damage
	Heals                                          []Healing   // the runs that store again what is still on the hosts
	Lost                                           []string    // snapshots of which something is lost: of their host no run stores it again
	LostFiles                                      []LostFiles // of the same snapshots
	Repaired                                       []string    // index runs that were missing or damaged, and are replaced
	Spoiled                                        []string    // objects that are there and damaged, and that no kept snapshot needs; the next one must not
	Suspects                                       []string    // objects that are missing or damaged, those included that affect nothing
	Unneeded                                       []Unneeded
	Locks                                          uint64   // objects whose locks the store was asked for
	Notes                                          []string // what could not be looked into, and why; what is odd and affects nothing
	Duration                                       time.Duration
}

// LostFiles are the files of one snapshot, or more of it in words, that are lost:
// not in the store, and in no newest snapshot, so that no run stores them again.
type LostFiles struct {
	Ref   string   `json:"ref"`
	Files []string `json:"files"` // the first few, as Affected prints them without the reference
	Count int      `json:"count"`

	last string // that was counted
}

// Healing is a run that stores again some of what is missing or damaged, as far as
// the files did not change since.
type Healing struct {
	Host        string `json:"host"`
	Environment string `json:"environment"`
}

// maxAffected is how many files are named for each damaged object.
const maxAffected = 100

// checker checks one repository.
type checker struct {
	Options
	repo *repository.Repository

	findings authentic.Findings // of repo

	mu     sync.Mutex
	report Report
	byKey  map[string]int
	heals  map[Healing]bool
	lost   map[string]*LostFiles // by snapshot
}

// Run verifies roots, signatures and chains, manifests, the index against
// the packs, and that every chunk of every snapshot is there; with ReadData,
// what the packs hold, byte by byte.
func Run(ctx context.Context, repo *repository.Repository, o Options) (*Report, error) {
	started := time.Now()
	o.Progress = cmp.Or(o.Progress, &Progress{})
	c := &checker{Options: o, repo: repo, byKey: map[string]int{}, heals: map[Healing]bool{}, lost: map[string]*LostFiles{}}
	for _, f := range o.Found {
		c.findings.Add(f)
	}
	defer repo.Divert(c.findings.Add)()
	if o.Repair != nil {
		if err := c.repair(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.audit(repo.AuditKeys(ctx)); errors.Is(err, storage.ErrDenied) && o.Sealed {
		c.note("the keys of the repository were not looked at: these credentials may not read them")
	} else if err != nil {
		return nil, err
	}
	hosts, err := repo.AllHosts(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if o.Host != "" && h != o.Host {
			continue
		}
		if err := c.host(ctx, h); err != nil {
			return nil, err
		}
	}
	found := c.findings.Take() // in the order in which replies came
	slices.SortFunc(found, func(a, b authentic.Finding) int { return strings.Compare(a.Err.Error(), b.Err.Error()) })
	for _, f := range found {
		c.warning(f.Err)
	}
	slices.SortFunc(c.report.Damage, func(a, b Damage) int { return strings.Compare(a.Object, b.Object) })
	c.report.Heals = slices.SortedFunc(maps.Keys(c.heals), func(a, b Healing) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.Environment, b.Environment))
	})
	c.report.Lost = slices.Sorted(maps.Keys(c.lost))
	for _, ref := range c.report.Lost {
		c.report.LostFiles = append(c.report.LostFiles, *c.lost[ref])
	}
	slices.Sort(c.report.Spoiled)
	slices.Sort(c.report.Suspects)
	c.report.Duration = time.Since(started)
	return &c.report, nil
}

// audit notes the damage that an audit finds.
func (c *checker) audit(found iter.Seq[error]) error {
	for err := range found {
		object, ok := damagedObject(err)
		if !ok {
			return err
		}
		c.damage(object, err)
	}
	return nil
}

// warning records what the repository warned of.
func (c *checker) warning(w error) {
	if object, ok := damagedObject(w); ok {
		c.damage(object, w)
	} else {
		c.note(w.Error())
	}
}

func (c *checker) note(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Notes = append(c.report.Notes, s)
}

// damage notes a damaged object once.
func (c *checker) damage(object string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[object]; ok {
		return
	}
	c.byKey[object] = len(c.report.Damage)
	c.report.Damage = append(c.report.Damage, Damage{Object: object, Err: err})
}

func (c *checker) affects(object string, h Affected) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.byKey[object]
	if !ok {
		return
	}
	if h.Lost {
		c.loses(h)
	}
	d := &c.report.Damage[i]
	d.Count++
	if h.Lost {
		d.Lost++
	}
	if len(d.Affected) == maxAffected && d.Lost <= maxAffected && h.Lost { // in the place of one that is not
		d.Affected = d.Affected[:maxAffected-1]
	}
	if len(d.Affected) < maxAffected {
		h.Path = strings.Clone(h.Path)
		at := len(d.Affected)
		if h.Lost {
			at = d.Lost - 1
		}
		d.Affected = slices.Insert(d.Affected, at, h)
	}
	if c.Progress.Affected != nil {
		c.Progress.Affected(object, h)
	}
}

// loses notes a file that is lost. One that lacks something of several objects is
// named with each of these, one after the other, and counts once.
func (c *checker) loses(h Affected) {
	l := c.lost[h.Ref]
	if l == nil {
		l = &LostFiles{Ref: h.Ref}
		c.lost[h.Ref] = l
	}
	name := strings.TrimPrefix(strings.TrimPrefix(h.String(), h.Ref+":"), " ")
	if name == l.last {
		return
	}
	l.last = name
	if l.Count++; len(l.Files) < maxAffected {
		l.Files = append(l.Files, name)
	}
}

// host checks all environments of a host, and each of its domains.
func (c *checker) host(ctx context.Context, host string) error {
	envs, err := c.repo.EveryEnvironment(ctx, host)
	if err != nil {
		return err
	}
	domains := map[seal.DomainID]*domainCheck{}
	unknown := &strangers{}
	closed, serial := 0, uint64(0)
	for _, env := range envs {
		tombstone, err := c.repo.Tombstone(ctx, host, env)
		if err != nil {
			return err
		}
		if _, err := c.repo.Acceptances(ctx, host, env); err != nil { // which warns of those that do not verify
			return err
		}
		newest := true
		var rubbish []error
		for s, err := range c.repo.Reread(ctx, host, env) {
			if err != nil {
				object, ok := damagedObject(err)
				if !ok {
					return err
				}
				forgotten, ferr := c.forgotten(ctx, err, object, tombstone)
				if ferr != nil {
					return ferr
				}
				if forgotten {
					rubbish = append(rubbish, err)
					continue
				}
				c.damage(object, err)
				unknown.unread = true
				continue
			}
			c.report.Snapshots++
			serial = max(serial, s.Root.Certificate.Serial)
			if tombstone != nil && !newest && tombstone.Forgotten.Has(s.Number) {
				c.report.Forgotten++
				continue
			}
			newest = false
			if err := c.opens(ctx, s); err != nil {
				if object, ok := damagedObject(err); ok {
					c.damage(object, err)
					c.affects(object, Affected{Ref: s.Ref(), Part: "all of it"})
					unknown.unread = true
					continue
				}
				if s.Body == nil && errors.Is(err, trust.ErrNoUsableIdentity) {
					closed++
					unknown.unread = true
					continue
				}
				return err
			}
			d := domains[s.Domain.ID]
			if d == nil {
				d = c.newDomain(host, s.Domain, unknown)
				domains[s.Domain.ID] = d
			}
			d.snapshots = append(d.snapshots, s)
		}
		for _, err := range rubbish[:min(len(rubbish), maxNamed)] {
			c.note(fmt.Sprintf("forgotten, and affects nothing: %v", err))
		}
		if n := len(rubbish) - maxNamed; n > 0 {
			c.note(fmt.Sprintf("%d more roots of %s of host %s do not verify and are forgotten", n, env, host))
		}
	}
	if err := c.audit(c.repo.AuditCertificates(ctx, host, serial)); err != nil {
		return err
	}
	if closed > 0 {
		c.note(fmt.Sprintf("%s of host %s could not be looked into: none of the given identities opens %s", english.Plural(closed, "snapshot", ""), host, english.PluralWord(closed, "it", "them")))
	}
	for _, d := range domains {
		if err := d.check(ctx); err != nil {
			return err
		}
	}
	return c.unknown(ctx, host, domains, unknown)
}

// forgotten reports whether err is about a root that does not verify and that is
// forgotten: by the owner, or by the host where that checks itself. Another host is not
// believed: whoever took it could hide so what was done to its roots.
func (c *checker) forgotten(ctx context.Context, err error, object string, x *statement.Tombstone) (bool, error) {
	host, env, number, ok := layout.ParseRootKey(object)
	if !ok || !authentic.Unverified(err) || x == nil || !x.Forgotten.Has(number) {
		return false, nil
	}
	if this, err := c.repo.Host(ctx); err == nil && this.Name == host {
		return true, nil
	}
	owners, err := c.repo.OwnerForgot(ctx, host, env)
	return owners.Has(number), err
}

// opens reports why what a snapshot holds cannot be looked into; nil when it can.
func (c *checker) opens(ctx context.Context, s *history.Snapshot) error {
	if !c.Sealed {
		_, err := c.repo.EpochSecret(ctx, s.Root.Epoch)
		return err
	}
	if s.Body == nil {
		return trust.ErrNoUsableIdentity
	}
	return nil
}

// damagedObject returns the damaged object that an error is about; ok is false for
// other errors.
func damagedObject(err error) (string, bool) {
	var damage *authentic.DamageError
	var tamper *authentic.TamperError
	switch {
	case errors.As(err, &damage):
		return damage.Key, true
	case errors.As(err, &tamper):
		return tamper.What, true
	}
	return "", false
}
