package objects

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"knowngood/internal/userdir"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/replay"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

const (
	// maxIndexRun is the longest index run that is read, in bytes.
	maxIndexRun = statement.MaxIndexRunPayload + 256
	// runsInFlight is how many index runs are fetched at once, fetchBudget how many
	// bytes of them.
	runsInFlight = 16
	fetchBudget  = 192 << 20
)

// runs are the index runs of a domain, in a table that also holds what captures
// of this process added. They are cached in a directory and mapped, not loaded
// into memory.
type runs struct {
	domain
	cache *index.Cache
	table *index.Table
	// again is set for readers: copies in the cache are verified whole, and those that
	// it chooses are fetched again.
	again   func(hash [32]byte) bool
	foreign bool // not of this host: nobody here publishes again what the store lost
	bytes   *semaphore.Weighted
	parsing sync.Mutex

	mu     sync.Mutex        // held while runs are loaded or published
	listed map[[32]byte]bool // by the store when they were loaded, or published since
	// superseded are runs that the next publication replaces: those that the
	// store lost, whose entries are published again, and those that are damaged
	// there, once the packs themselves were read.
	superseded [][32]byte
}

// loaded is what the store showed when runs were loaded.
type loaded struct {
	// complete is false when the table may lack something: when nothing was
	// cached before, or when a run is damaged.
	complete bool
	seen     map[[32]byte]bool // runs that the store lists, or that a listed one replaces
	damaged  [][32]byte        // runs that could not be read: they may name anything
}

func (d domain) openRuns(dir userdir.Dir) (*runs, error) {
	cache, err := index.OpenCache(dir)
	if err != nil {
		return nil, err
	}
	cache.Note = d.repo.t.Warn
	return &runs{domain: d, cache: cache, table: index.NewTable(cache), bytes: semaphore.NewWeighted(fetchBudget)}, nil
}

// hashes are those of the live runs, sorted.
func (r *runs) hashes() (live [][32]byte) {
	for _, run := range r.table.Runs() {
		live = append(live, run.Hash)
	}
	slices.SortFunc(live, deletion.CompareHashes)
	return live
}

// close releases the runs. Copies that turned out to be damaged are removed.
func (r *runs) close() {
	_ = r.table.DropDamaged() // what stays is found to be damaged again
	r.table.Close()
}

// missing returns those of the named runs that the store neither lists nor has
// replaced.
func (l *loaded) missing(named [][32]byte) (missing [][32]byte) {
	for _, hash := range named {
		if !l.seen[hash] {
			missing = append(missing, hash)
		}
	}
	return missing
}

// excludeDeleted reads the pending deletions. What lies in deleted packs counts
// as not stored from now on; with announced set, also what lies in packs that are
// announced for deletion.
func (r *runs) excludeDeleted(ctx context.Context, announced bool) (*deletion.Deletions, error) {
	d, err := r.repo.d.Deletions(ctx, r.host, r.ID)
	if err != nil {
		return nil, err
	}
	deleted := d.Packs(deletion.Deleted)
	absent := deleted
	if announced {
		absent = d.Packs(deletion.Announced, deletion.Deleted)
	}
	r.table.PassOver(absent, deleted)
	return d, nil
}

// load adds the runs that the store has to the table. With restore set, the next
// publication publishes again what copies hold of runs that the store lost.
func (r *runs) load(ctx context.Context, restore bool) (*loaded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.table.DropDamaged(); err != nil {
		return nil, err
	}
	cached, err := r.cache.Runs()
	if err != nil {
		return nil, err
	}
	held := 0
	if !r.foreign {
		if held, err = r.table.TakeHeld(); err != nil {
			return nil, err
		}
	}
	l := &loaded{complete: len(cached)+held > 0}
	replaced, damaged, err := r.fetchAll(ctx, cached)
	if errors.Is(err, errOutdated) {
		replaced, damaged, err = r.fetchAll(ctx, cached)
	}
	if err != nil {
		return nil, err
	}

	for hash, err := range damaged {
		if !replaced[hash] { // by one that may be of a lower generation
			r.repo.t.Warn(err)
			l.complete, l.damaged = false, append(l.damaged, hash)
		}
	}
	if restore {
		restored, err := r.restoreLost(cached, r.listed, replaced)
		if err != nil {
			return nil, err
		}
		l.complete = l.complete && restored
	}
	l.seen = replaced
	maps.Copy(l.seen, r.listed)
	if err := r.dropCopies(cached, l.seen); err != nil {
		return nil, err
	}
	return l, r.table.Cover()
}

// errOutdated is that a listing was replayed, and that another process of this host
// has published since: the cache has other runs.
var errOutdated = errors.New("the listing of index runs is outdated")

// fetchAll adds the runs that the store lists to the table, except those that others
// replace. Those that are damaged it returns with the reason.
func (r *runs) fetchAll(ctx context.Context, cached [][32]byte) (replaced map[[32]byte]bool, damaged map[[32]byte]error, err error) {
	r.listed = map[[32]byte]bool{}
	distrust := func() bool {
		return replay.Distrust(r.repo.t.Store(), layout.PrefixIndexRuns(r.host, r.ID))
	}
	replayed := false
	replaced, damaged = map[[32]byte]bool{}, map[[32]byte]error{}
	var mu sync.Mutex // guards the rest
	var files []*index.File
	var absent [][32]byte // from the cache, of a listing that was replayed
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runsInFlight)
	for o, err := range r.listRuns(ctx) { // the newest first
		if err != nil {
			g.Go(func() error { return err })
			break
		}
		r.listed[o.hash] = true
		replayed = replayed || distrust()
		here := !replayed || slices.Contains(cached, o.hash)
		g.Go(func() error {
			mu.Lock()
			skip := replaced[o.hash]
			mu.Unlock()
			if skip {
				return nil
			}
			if !here {
				mu.Lock()
				defer mu.Unlock()
				absent = append(absent, o.hash)
				return nil
			}
			f, err := r.fetch(gctx, o)
			mu.Lock()
			defer mu.Unlock()
			if authentic.Damaged(err) {
				damaged[o.hash] = err
				return nil
			}
			if err != nil {
				return err
			}
			files = append(files, f)
			for _, h := range f.Info().Replaces {
				replaced[h] = true
			}
			return nil
		})
	}
	err = g.Wait()
	r.table.Adopt(files...)
	other := func(hash [32]byte) bool { return !replaced[hash] && !(r.listed[hash] && slices.Contains(cached, hash)) }
	if err == nil && (replayed || distrust()) && slices.ContainsFunc(append(absent, cached...), other) {
		err = errOutdated
	}
	return replaced, damaged, err
}

// dropCopies removes the copies of runs that are not live any more. Those that
// the store lost stay on the host until they are published again.
func (r *runs) dropCopies(cached [][32]byte, seen map[[32]byte]bool) error {
	keep := r.table.Runs()
	for _, hash := range cached {
		if !seen[hash] && !r.foreign {
			keep = append(keep, index.Info{Hash: hash})
		}
	}
	return r.cache.Keep(keep)
}

// fetch opens a run from the cache, or reads it from the store.
func (r *runs) fetch(ctx context.Context, o listedRun) (*index.File, error) {
	f, err := r.cache.Open(o.hash)
	if err == nil {
		if r.again == nil || f.Whole() && f.Info().Size == uint64(o.Size) && !r.again(o.hash) {
			return f, nil
		}
		f.Close()
	}
	if !errors.Is(err, os.ErrNotExist) {
		if err := r.cache.Remove(o.hash); err != nil {
			return nil, err
		}
	}

	weight := min(max(o.Size, 0), fetchBudget)
	if err := r.bytes.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	defer r.bytes.Release(weight)
	object, err := r.repo.t.Read.Hashed("index run", maxIndexRun).Whole(ctx, nil, o.Key, o.hash, o.Size)
	if err != nil {
		return nil, err
	}
	r.parsing.Lock() // which takes twice the memory
	defer r.parsing.Unlock()
	run, body, err := r.parse(object)
	if err == nil && run.Generation != o.generation {
		err = fmt.Errorf("it says generation %d", run.Generation)
	}
	if err != nil {
		return nil, &authentic.DamageError{Key: o.Key, What: "index run", Err: err}
	}
	return r.cache.Adopt(index.Info{Hash: o.hash, Generation: o.generation, Size: uint64(len(object)), Replaces: run.Replaces}, body)
}

// parse verifies and opens an index run.
func (r *runs) parse(object []byte) (*statement.IndexRun, *index.Body, error) {
	run, err := statement.ParseIndexRun(object)
	if err != nil {
		return nil, nil, err
	}
	if run.Host != r.host || run.Domain != r.ID {
		return nil, nil, errors.New("it belongs elsewhere")
	}
	if err := run.Verify(r.repo.t.ID(), r.repo.t.Descriptor().Owner); err != nil {
		return nil, nil, err
	}
	b, err := seal.OpenOnce(r.RunKey(run.Salt), run.SealedBody, nil)
	if err != nil {
		return nil, nil, err
	}
	body, err := index.Parse(b)
	return run, body, err
}

// restoreLost makes what is held by runs that are known here, and that the store
// neither lists nor has replaced, count as not published. complete is false when
// one of them has no usable copy here either: then the packs must be read.
func (r *runs) restoreLost(cached [][32]byte, listed, replaced map[[32]byte]bool) (complete bool, err error) {
	complete = true
	var lost [][32]byte
	for _, run := range r.table.Runs() {
		if !listed[run.Hash] && !replaced[run.Hash] {
			lost = append(lost, run.Hash)
		}
	}
	for _, hash := range cached {
		if listed[hash] || replaced[hash] || slices.Contains(lost, hash) {
			continue
		}
		f, err := r.cache.Open(hash)
		if err == nil && !f.Whole() {
			f.Close()
			err = index.ErrDamaged
		}
		if err != nil {
			complete = false
			if err := r.cache.Remove(hash); err != nil {
				return false, err
			}
			continue
		}
		r.table.Adopt(f)
		lost = append(lost, hash)
	}
	if len(lost) == 0 {
		return complete, nil
	}
	r.table.Unsave(lost)
	r.superseded = append(r.superseded, lost...)
	r.repo.t.Warn(fmt.Errorf("%d index runs of host %s are not in the store any more: what they held is published again; find out what became of them", len(lost), r.host))
	return complete, nil
}

// supersede has the next publication replace runs.
func (r *runs) supersede(hashes [][32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.superseded = append(r.superseded, hashes...)
}
