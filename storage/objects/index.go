package objects

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/inventory"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// tailsInFlight is how many packs' contents are read at once.
const tailsInFlight = 16

// maxIndexRun is the longest index run that is read, in bytes.
const maxIndexRun = statement.MaxIndexRunPayload + 256

// Index tells where the chunks of a domain lie. What is in the store is
// cached in the state directory and mapped, not loaded.
type Index struct {
	repo   *Objects
	host   string
	domain *seal.Domain
	cache  *index.Cache
	table  *index.Table
	remove string // a temporary cache directory
	shared *warm  // whose table it is; nil: its own
	synced time.Time
	began  time.Time // of a run that writes

	verified time.Time // see Verified

	inventory  *ownInventory
	unopenable []error // see Unopenable

	deletions *deletion.Deletions // as of synced
	stored    *authentic.Hashed   // packs, whose contents are read
	reading   bool                // nothing is written: what is only announced still counts

	unread     [][32]byte        // runs that could not be read: they may name anything
	seen       map[[32]byte]bool // runs that the store lists, or has replaced
	superseded *superseded

	marker *os.File // of this run
	stale  []string // names of the markers of runs that died
}

// OpenIndex opens the index of the host's own domain for a run that writes.
// Packs that a killed run left, or that no index names because everything
// local was lost, are found by listing and taken in.
//
// The packs that it knows are compared with a listing that is less than a day
// old, or as v says. What lies in packs that the store lost, or that are
// damaged, counts as not stored.
func (r *Objects) OpenIndex(ctx context.Context, host *trust.Host, v Verification) (*Index, error) {
	began := time.Now()
	if v.Data && r.keepIndex == 0 {
		if err := r.forgetRuns(r.indexDir(host.Domain.ID)); err != nil {
			return nil, err
		}
	}
	x, complete, err := r.ownIndex(ctx, host)
	if err != nil {
		return nil, err
	}
	x.began = began
	err = x.mark()
	adopt := !complete || len(x.stale) > 0
	if err == nil {
		v.Listing = v.Listing || adopt
		err = x.compareWithStore(ctx, v)
	}
	if err == nil && adopt {
		if err = x.adoptPacks(ctx); err == nil {
			x.supersede(x.unread)
		}
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// ownIndex is the index of the host's domain as the store shows it: the one
// that is kept open, if one may be. It tells whether it is known to be complete.
func (r *Objects) ownIndex(ctx context.Context, host *trust.Host) (x *Index, complete bool, err error) {
	if r.keepIndex > 0 {
		return r.warmIndex(ctx, host)
	}
	x, err = r.openIndex(ctx, host.Name, host.Domain, r.indexDir(host.Domain.ID))
	if err != nil {
		return nil, false, err
	}
	x.synced = time.Now()
	if complete, err = x.sync(ctx); err != nil {
		x.Close()
	}
	return x, complete, err
}

// ReadIndex opens the index of any domain for reading; a temporary directory
// caches it.
func (r *Objects) ReadIndex(ctx context.Context, host string, domain *seal.Domain) (*Index, error) {
	x, err := r.ReadRuns(ctx, host, domain)
	if err != nil {
		return nil, err
	}
	if err := x.adoptPacks(ctx); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

func (r *Objects) openIndex(ctx context.Context, host string, domain *seal.Domain, dir userdir.Dir) (*Index, error) {
	cache, err := index.OpenCache(dir)
	if err != nil {
		return nil, err
	}
	return &Index{repo: r, host: host, domain: domain, cache: cache, table: index.NewTable(cache), stored: r.t.Read.Hashed(wire.KindPack.String(), pack.MaxObject), inventory: r.inventoryOf(domain.ID), superseded: &superseded{}}, nil
}

// Close releases the index. A run that was not completed is told by its
// marker to the next one.
func (x *Index) Close() {
	if x.shared == nil {
		x.table.Close()
	}
	if x.marker != nil {
		x.marker.Close()
	}
	if x.remove != "" {
		os.RemoveAll(x.remove)
	}
}

// Lookup finds a chunk.
func (x *Index) Lookup(id [32]byte) (index.Location, bool) { return x.table.Lookup(id) }

// PackSizes are the stored bytes of every pack that the index knows.
func (x *Index) PackSizes() map[[32]byte]uint64 { return x.table.PackSizes() }

func (x *Index) add(info index.PackInfo, c *pack.Contents) error { return x.table.Add(info, c.Frames) }

// sync takes in the runs that the store has. It tells whether the index is
// known to be complete: not when nothing was cached before, nor when a run is
// damaged.
func (x *Index) sync(ctx context.Context) (complete bool, err error) {
	if err := x.heed(ctx); err != nil {
		return false, err
	}
	cached, err := x.cache.Runs()
	if err != nil {
		return false, err
	}
	complete = len(cached) > 0
	listed, replaced := map[[32]byte]bool{}, map[[32]byte]bool{}
	damaged := map[[32]byte]error{}
	for o, err := range x.repo.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixIndexRuns(x.host, x.domain.ID)}) {
		if err != nil {
			return false, err
		}
		_, _, generation, hash, ok := layout.ParseIndexRunKey(o.Key)
		if !ok {
			continue
		}
		listed[hash] = true
		if replaced[hash] {
			continue
		}
		f, err := x.run(ctx, o.Key, generation, hash)
		var damage *authentic.DamageError
		if errors.As(err, &damage) {
			damaged[hash] = err
			continue
		}
		if err != nil {
			return false, err
		}
		for _, h := range f.Info().Replaces {
			replaced[h] = true
		}
		x.table.Adopt(f)
	}
	x.unread = nil
	for hash, err := range damaged {
		if !replaced[hash] { // by one that may be of a lower generation
			x.repo.t.Warn(err)
			complete, x.unread = false, append(x.unread, hash)
		}
	}
	if !x.reading {
		restored, err := x.restoreRuns(cached, listed, replaced)
		if err != nil {
			return false, err
		}
		complete = complete && restored
	}
	maps.Copy(listed, replaced)
	x.seen = listed
	return complete, x.keepRuns(cached)
}

// keepRuns removes copies of runs that count no more. Those that the store lost
// stay until they are published again.
func (x *Index) keepRuns(cached [][32]byte) error {
	keep := x.table.Runs()
	for _, hash := range cached {
		if !x.seen[hash] {
			keep = append(keep, index.Info{Hash: hash})
		}
	}
	return x.cache.Keep(keep)
}

// run opens a run from the cache, or fetches it.
func (x *Index) run(ctx context.Context, key string, generation uint64, hash [32]byte) (*index.File, error) {
	f, err := x.cache.Open(hash)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		if err := x.cache.Remove(hash); err != nil {
			return nil, err
		}
	}
	object, err := x.repo.t.Read.Hashed("index run", maxIndexRun).Whole(ctx, nil, key, hash)
	if err != nil {
		return nil, err
	}
	run, body, err := x.open(object)
	if err == nil && run.Generation != generation {
		err = fmt.Errorf("it says generation %d", run.Generation)
	}
	if err != nil {
		return nil, &authentic.DamageError{Key: key, What: "index run", Err: err}
	}
	return x.cache.Adopt(index.Info{Hash: hash, Generation: generation, Replaces: run.Replaces}, body)
}

// open verifies and opens an index run.
func (x *Index) open(object []byte) (*statement.IndexRun, *index.Body, error) {
	run, err := statement.ParseIndexRun(object)
	if err != nil {
		return nil, nil, err
	}
	if run.Host != x.host || run.Domain != x.domain.ID {
		return nil, nil, errors.New("it belongs elsewhere")
	}
	if err := run.Verify(x.repo.t.ID(), x.repo.t.Descriptor().Owner); err != nil {
		return nil, nil, err
	}
	b, err := seal.OpenOnce(x.domain.RunKey(run.Salt), run.SealedBody, nil)
	if err != nil {
		return nil, nil, err
	}
	body, err := index.Parse(b)
	return run, body, err
}

// runs is the folder of the markers of runs.
func (x *Index) runs() userdir.Dir { return x.repo.t.State.Dir().In("runs") }

// mark leaves a sign that a run is under way, and finds those of runs that
// died.
func (x *Index) mark() error {
	dir := x.runs()
	fail := func(err error) error {
		return fmt.Errorf("state directory: %w (free some space in %s, or choose another place with --state-dir)", err, dir)
	}
	if err := dir.Make(); err != nil {
		return fail(err)
	}
	names, err := dir.Names()
	if err != nil {
		return fail(err)
	}
	for _, n := range names {
		if x.abandoned(n) {
			x.stale = append(x.stale, n)
		}
	}
	if x.marker, err = dir.CreateTemp(x.domain.ID.String() + "-"); err != nil {
		return fail(err)
	}
	if err := unix.Flock(int(x.marker.Fd()), unix.LOCK_EX); err != nil {
		return fail(err)
	}
	return nil
}

// abandoned tells whether the run that left a marker is no more.
func (x *Index) abandoned(marker string) bool {
	f, err := x.runs().Open(marker)
	if err != nil {
		return false
	}
	defer f.Close() // which unlocks
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// adoptPacks takes in the contents of every pack in the store that no run
// names.
func (x *Index) adoptPacks(ctx context.Context) error {
	known := x.table.PackSizes()
	return x.readContents(ctx, func(hash [32]byte) bool {
		_, have := known[hash]
		return have || x.Absent(wire.KindPack, hash)
	}, x.add)
}

// readContents reads the contents of the packs in the store, but for some, and
// has them taken in, concurrently.
func (x *Index) readContents(ctx context.Context, skip func(hash [32]byte) bool, take func(index.PackInfo, *pack.Contents) error) error {
	var mu sync.Mutex
	var damaged []ID
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(tailsInFlight)
	for o, err := range x.packs(gctx) {
		if err != nil {
			g.Go(func() error { return err })
			break
		}
		if skip(o.Hash) {
			continue
		}
		g.Go(func() error {
			info, contents, err := x.contents(gctx, o)
			if err == nil {
				err = take(info, contents)
			}
			var damage *authentic.DamageError
			if errors.As(err, &damage) {
				x.repo.t.Warn(err) // what it held is stored again
				mu.Lock()
				damaged = append(damaged, o.ID)
				mu.Unlock()
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil || x.reading {
		return err
	}
	_, err := x.examine(ctx, damaged, nil)
	return err
}

// packs are those in the store: by the inventory of a run that writes, which
// was just taken, else by a listing.
func (x *Index) packs(ctx context.Context) iter.Seq2[inventory.Object, error] {
	return func(yield func(inventory.Object, error) bool) {
		var known []inventory.Object
		if !x.reading {
			x.inventory.with(func(v *inventory.Inventory) { known = slices.Collect(v.Objects(wire.KindPack)) })
			for _, o := range known {
				if !yield(o, nil) {
					return
				}
			}
			return
		}
		for o, err := range x.repo.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixPacks(x.host, x.domain.ID)}) {
			id, ok := deletion.ParseKey(o.Key)
			if err == nil && !ok {
				continue
			}
			if !yield(inventory.Object{ID: id, Size: uint64(max(o.Size, 0))}, err) || err != nil {
				return
			}
		}
	}
}

func (x *Index) contents(ctx context.Context, o inventory.Object) (index.PackInfo, *pack.Contents, error) {
	key := layout.KeyPack(x.host, x.domain.ID, o.Hash)
	tail, err := x.repo.tail(ctx, x.stored, wire.KindPack, key, o.Hash, int64(o.Size))
	if err != nil {
		return index.PackInfo{}, nil, err
	}
	c, err := tail.Contents(wire.KindPack, x.domain)
	if err != nil {
		return index.PackInfo{}, nil, &authentic.DamageError{Key: key, What: "pack", Err: err}
	}
	return index.PackInfo{Ref: pack.Ref{Hash: o.Hash, Session: tail.Session.ID, Salt: tail.Salt}, Size: o.Size}, c, nil
}

// Publish writes what the run added as index runs, merges small ones, and
// returns the hashes of all live runs, sorted. It may be called repeatedly.
func (x *Index) Publish(ctx context.Context, host *trust.Host, w *Writer) ([][32]byte, error) {
	if x.shared != nil {
		x.shared.mu.Lock()
		defer x.shared.mu.Unlock()
	}
	if err := x.publishUnsaved(ctx, host, w); err != nil {
		return nil, err
	}
	for {
		some := index.Plan(x.table.Runs())
		if len(some) == 0 {
			break
		}
		generation := x.table.Generation() + 1
		var bodies []*index.Body
		for body := range x.table.Merge(some) {
			bodies = append(bodies, body)
		}
		var merged []*index.File
		for i, body := range bodies {
			var replaces [][32]byte
			if i == len(bodies)-1 {
				replaces = index.Replaced(some)
			}
			f, err := x.publish(ctx, host, w, generation, replaces, body)
			if err != nil {
				return nil, err
			}
			merged = append(merged, f)
		}
		x.table.Adopt(merged...)
	}
	if err := x.cache.Keep(x.table.Runs()); err != nil {
		return nil, err
	}
	for _, m := range x.stale {
		// One that was made but not yet locked when it was looked at is by now.
		if x.abandoned(m) {
			_ = x.runs().Remove(m) // what stays is looked at by the next run
		}
	}
	x.stale = nil

	var live [][32]byte
	for _, run := range x.table.Runs() {
		live = append(live, run.Hash)
	}
	slices.SortFunc(live, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	return live, nil
}

// Done says that the run is complete: nothing of it has to be looked for.
func (x *Index) Done() {
	x.saveInventory()
	if x.marker != nil {
		_ = x.runs().Remove(filepath.Base(x.marker.Name()))
	}
}

func (x *Index) publish(ctx context.Context, host *trust.Host, w *Writer, generation uint64, replaces [][32]byte, body *index.Body) (*index.File, error) {
	plain, err := body.Append(nil)
	if err != nil {
		return nil, err
	}
	run := &statement.IndexRun{Repository: x.repo.t.ID(), Host: x.host, Domain: x.domain.ID, Generation: generation, Salt: seal.NewSalt(), Replaces: replaces, Certificate: host.Certificate}
	run.SealedBody = seal.Once(x.domain.RunKey(run.Salt), plain, nil)
	object, err := run.Encode(host.SigningKey())
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(object)
	if err := x.repo.t.Put(ctx, layout.KeyIndexRun(x.host, x.domain.ID, generation, hash), object, time.Now()); err != nil {
		return nil, err
	}
	w.countStored(len(object))
	return x.cache.Adopt(index.Info{Hash: hash, Generation: generation, Replaces: replaces}, body)
}

// ReadRuns opens the index of any domain as its runs say it, without looking
// into packs.
func (r *Objects) ReadRuns(ctx context.Context, host string, domain *seal.Domain) (*Index, error) {
	dir, err := os.MkdirTemp("", "knowngood-index-")
	if err != nil {
		return nil, fmt.Errorf("cache of the index: %w (set TMPDIR to a place with room)", err)
	}
	x, err := r.openIndex(ctx, host, domain, userdir.At(dir))
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	x.remove, x.reading = dir, true
	if _, err = x.sync(ctx); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// All yields every chunk that the runs name, with where they say it lies.
func (x *Index) All(yield func(id [32]byte, loc index.Location) bool) { x.table.All(yield) }

// Scratch makes an empty table that spills into the index's cache directory.
func (x *Index) Scratch() *index.Table { return index.NewTable(x.cache) }
