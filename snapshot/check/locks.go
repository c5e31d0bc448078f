package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize/english"
	"golang.org/x/sync/errgroup"

	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
)

const (
	// lockSample is how many packs and containers of a domain are asked for their
	// locks unless Options.Locks is set. Which these are changes each day.
	lockSample    = 1000
	locksInFlight = 16
	// lockSlack is what stores round the end of a lock by, at most.
	lockSlack = time.Minute
)

// lockClaim is what a root claims of the locks of all that its snapshot needs.
type lockClaim struct {
	until time.Time
	by    *history.Snapshot
}

// lockOf is an object with the longest claim about it.
type lockOf struct {
	lockClaim
	size uint64 // 0: any
}

// lockCheck checks the locks of what the snapshots of a domain need.
type lockCheck struct {
	*domainOf
	wanted   map[deletion.ObjectID]lockOf // what roots claim of the locks of objects
	claiming lockClaim                    // of the snapshot whose objects are added now
}

// claims are what roots claim of locks that have not ended: the newest ones of each
// environment, or all, by the table that they have.
func (d *lockCheck) claims() map[tableKey]lockClaim {
	if d.repo.Descriptor().LockMode == "" {
		return nil
	}
	list := d.newest()
	if d.Locks {
		list = d.snapshots
	}
	out := map[tableKey]lockClaim{}
	for _, s := range list {
		until := s.Body.ProtectedUntil
		if key := keyOfTable(s.Body); until.After(time.Now()) && until.After(out[key].until) {
			out[key] = lockClaim{until, s}
		}
	}
	return out
}

// add adds an object that the snapshot of the claim needs.
func (d *lockCheck) add(id deletion.ObjectID, size uint64) {
	if d.claiming.until.After(d.wanted[id].until) {
		d.wanted[id] = lockOf{d.claiming, size}
	}
}

// check asks the store for the locks of what the claims are about, and notes as
// damage where they end before that. Each snapshot is named once.
func (d *lockCheck) check(ctx context.Context, claims map[tableKey]lockClaim) error {
	if len(claims) == 0 {
		return nil
	}
	retainer, ok := storage.Capability[storage.Retainer](d.repo.Store())
	if !ok {
		d.note(fmt.Sprintf("host %s: whether objects are locked could not be asked: this store has no locks", d.host))
		return nil
	}
	asked, err := d.lockedObjects(ctx, claims)
	if err != nil {
		return err
	}

	short := map[*history.Snapshot]*shortLocks{}
	var mu sync.Mutex
	var refused atomic.Pointer[error]
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(locksInFlight)
	for key, want := range asked {
		if refused.Load() != nil {
			break
		}
		g.Go(func() error {
			lock, err := d.lock(gctx, retainer, key, want)
			switch {
			case errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrUnsupported):
				refused.Store(&err)
				return nil
			case errors.Is(err, storage.ErrNotFound):
				return nil // which is damage of its own, if something needs it
			case err != nil:
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			d.report.Locks++
			if !d.falls(lock, want) {
				return nil
			}
			short[want.by] = cmp.Or(short[want.by], &shortLocks{})
			short[want.by].add(key, lock)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := refused.Load(); err != nil {
		d.note(fmt.Sprintf("host %s: how long objects are locked could not be asked: %v", d.host, *err))
	}
	for s, found := range short {
		d.tooShort(s, found)
	}
	return nil
}

// lockedObjects are the objects to be asked about, by their keys: of packs and
// containers a sample, unless all are wanted, and what every snapshot needs.
func (d *lockCheck) lockedObjects(ctx context.Context, claims map[tableKey]lockClaim) (map[string]lockOf, error) {
	out := map[string]lockOf{}
	share := 1.0
	if len(d.wanted) > lockSample && !d.Locks {
		share = float64(lockSample) / float64(len(d.wanted))
	}
	for id, want := range d.wanted {
		if drawn(id.Hash, share) {
			out[d.key(id)] = want
		}
	}

	var longest lockClaim
	for _, c := range claims {
		out[layout.KeyRoot(c.by.Host, c.by.Environment, c.by.Number)] = lockOf{lockClaim: c}
		if c.until.After(longest.until) {
			longest = c
		}
	}
	out[layout.KeyDescriptor] = lockOf{lockClaim: longest}
	for _, prefix := range []string{layout.PrefixEpochs, layout.PrefixKeys, layout.PrefixCertificates(d.host)} {
		for o, err := range d.repo.Store().List(ctx, storage.ListOptions{Prefix: prefix}) {
			if errors.Is(err, storage.ErrDenied) {
				break
			}
			if err != nil {
				return nil, err
			}
			if o.Modified.Before(longest.by.Stored) || o.Modified.IsZero() { // else no capture has seen to it yet
				out[o.Key] = lockOf{lockClaim: longest}
			}
		}
	}
	return out, nil
}

// lock is the longest lock of the versions of an object that have its size. The
// current one is asked first: where that is locked for long enough nothing more is
// asked of the store.
func (d *lockCheck) lock(ctx context.Context, retainer storage.Retainer, key string, want lockOf) (storage.Retention, error) {
	lock, err := retainer.Retention(ctx, key, "")
	if err != nil && !errors.Is(err, storage.ErrNotFound) || err == nil && !d.falls(lock, want) {
		return lock, err
	}
	all, verr := d.repo.Read.Versions(ctx, key)
	if verr != nil {
		return lock, verr
	}
	for _, v := range all {
		if v.Marker || want.size > 0 && uint64(v.Size) != want.size {
			continue
		}
		of, verr := retainer.Retention(ctx, key, v.ID)
		if verr != nil {
			return lock, verr
		}
		lock, err = lock.Join(of), nil
	}
	return lock, err
}

// falls reports whether a lock falls short of a claim.
func (d *lockCheck) falls(lock storage.Retention, want lockOf) bool {
	weaker := lock.Mode == "" || d.repo.Descriptor().LockMode == string(storage.Compliance) && lock.Mode != storage.Compliance
	return weaker || lock.Until.Before(want.until.Add(-lockSlack))
}

// shortLocks are the objects of one snapshot whose locks fall short.
type shortLocks struct {
	n     int
	key   string // of the one whose lock ends first
	first storage.Retention
}

func (s *shortLocks) add(key string, lock storage.Retention) {
	if s.n++; s.n == 1 || lock.Until.Before(s.first.Until) || lock.Until.Equal(s.first.Until) && key < s.key {
		s.key, s.first = key, lock
	}
}

// tooShort notes that what a snapshot needs is locked for less than its root claims.
func (d *lockCheck) tooShort(s *history.Snapshot, found *shortLocks) {
	until := "is not locked"
	switch {
	case found.first.Mode != "" && found.first.Until.Before(s.Body.ProtectedUntil.Add(-lockSlack)):
		until = "is locked until " + found.first.Until.UTC().Format(time.RFC3339) + " only"
	case found.first.Mode != "":
		until = "is locked in " + strings.ToLower(string(found.first.Mode)) + " mode only"
	}
	more := ""
	if found.n > 1 {
		more = fmt.Sprintf(" (and %s besides)", english.Plural(found.n-1, "object", ""))
	}
	object := fmt.Sprintf("locks of %s/%s", s.Host, s.Ref())
	d.damage(object, fmt.Errorf("%s %s%s, though %s says that all it needs is locked until %s: find out who changes or removes locks",
		found.key, until, more, s.Ref(), s.Body.ProtectedUntil.UTC().Format(time.RFC3339)))
	d.lockDamage(object)
}

// lockDamage marks damage as that of locks.
func (c *checker) lockDamage(object string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Damage[c.byKey[object]].Lock = true
}
