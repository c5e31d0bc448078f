package objects

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"knowngood/internal/userdir"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// maxIndexRun is the longest index run that is read, in bytes.
const maxIndexRun = statement.MaxIndexRunPayload + 256

// runs are the index runs of a domain, in a table that also holds what captures
// of this process added. They are cached in a directory and mapped, not loaded
// into memory.
type runs struct {
	domain
	cache *index.Cache
	table *index.Table

	mu sync.Mutex // held while runs are loaded or published
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
	return &runs{domain: d, cache: cache, table: index.NewTable(cache)}, nil
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
	cached, err := r.cache.Runs()
	if err != nil {
		return nil, err
	}
	l := &loaded{complete: len(cached) > 0}
	listed, replaced := map[[32]byte]bool{}, map[[32]byte]bool{}
	damaged := map[[32]byte]error{}
	for o, err := range r.listRuns(ctx) {
		if err != nil {
			return nil, err
		}
		listed[o.hash] = true
		if replaced[o.hash] {
			continue
		}
		f, err := r.fetch(ctx, o)
		if authentic.Damaged(err) {
			damaged[o.hash] = err
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, h := range f.Info().Replaces {
			replaced[h] = true
		}
		r.table.Adopt(f)
	}

	for hash, err := range damaged {
		if !replaced[hash] { // by one that may be of a lower generation
			r.repo.t.Warn(err)
			l.complete, l.damaged = false, append(l.damaged, hash)
		}
	}
	if restore {
		restored, err := r.restoreLost(cached, listed, replaced)
		if err != nil {
			return nil, err
		}
		l.complete = l.complete && restored
	}
	maps.Copy(listed, replaced)
	l.seen = listed
	return l, r.dropCopies(cached, l.seen)
}

// dropCopies removes the copies of runs that are not live any more. Those that
// the store lost stay until they are published again.
func (r *runs) dropCopies(cached [][32]byte, seen map[[32]byte]bool) error {
	keep := r.table.Runs()
	for _, hash := range cached {
		if !seen[hash] {
			keep = append(keep, index.Info{Hash: hash})
		}
	}
	return r.cache.Keep(keep)
}

// fetch opens a run from the cache, or reads it from the store.
func (r *runs) fetch(ctx context.Context, o listedRun) (*index.File, error) {
	f, err := r.cache.Open(o.hash)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		if err := r.cache.Remove(o.hash); err != nil {
			return nil, err
		}
	}
	object, err := r.repo.t.Read.Hashed("index run", maxIndexRun).Whole(ctx, nil, o.Key, o.hash, o.Size)
	if err != nil {
		return nil, err
	}
	run, body, err := r.parse(object)
	if err == nil && run.Generation != o.generation {
		err = fmt.Errorf("it says generation %d", run.Generation)
	}
	if err != nil {
		return nil, &authentic.DamageError{Key: o.Key, What: "index run", Err: err}
	}
	return r.cache.Adopt(index.Info{Hash: o.hash, Generation: o.generation, Replaces: run.Replaces}, body)
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
