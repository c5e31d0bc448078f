package prune

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/ledger"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

const (
	manifestsInFlight = 16 // lists of objects read at once
	deletesInFlight   = 16 // objects deleted at once
)

// domain prunes one domain: it gathers the facts, has a plan made, and carries
// that out.
type domain struct {
	*host
	facts  *facts
	opened *seal.Domain // nil when no kept snapshot opens it
	lists  sync.Once
	reader *objects.Reader // of lists of objects
	// damaged has the objects that the store lists with another size than a kept
	// snapshot names, and whether they are damaged.
	damaged map[deletion.ObjectID]bool
	found   Domain
}

// domain prunes a domain, and returns what it found unless an error came first.
func (h *host) domain(ctx context.Context, id seal.DomainID) (*Domain, error) {
	d := &domain{host: h, facts: h.facts[id], damaged: map[deletion.ObjectID]bool{}, found: Domain{Host: h.name, ID: id}}
	for _, s := range h.snapshots[id] {
		if s.Body == nil {
			return nil, fmt.Errorf("finding out what a snapshot needs takes an identity: %w", d.repo.Closed(ctx, s.Root))
		}
		d.opened = s.Domain
	}
	if err := d.readManifests(ctx); err != nil {
		return nil, err
	}
	if d.facts.own { // what was damaged once may be whole again
		if err := d.repo.ExamineDamaged(ctx, d.name, id, d.facts.wanted); err != nil {
			return nil, err
		}
		maps.Copy(d.damaged, d.repo.DamagedObjects(id))
	}
	d.facts.damaged = d.damaged
	if err := d.facts.findNeeds(); err != nil {
		return nil, err
	}
	return &d.found, d.prune(ctx)
}

// readManifests reads the lists of objects of the kept snapshots.
func (d *domain) readManifests(ctx context.Context) error {
	byHash, byEnv := map[[32]byte]*kept{}, map[string][]*kept{}
	for _, s := range d.snapshots[d.facts.domain] {
		d.found.Snapshots++
		hash := s.Body.Manifest.Hash
		if known := byHash[hash]; known != nil {
			known.forgotten = known.forgotten && s.forgotten
			continue
		}
		byHash[hash] = &s
		byEnv[s.Environment] = append(byEnv[s.Environment], &s)
	}
	for _, env := range d.environments {
		if err := d.readLists(ctx, env, byEnv[env]); err != nil {
			return err
		}
	}
	return nil
}

// readLists reads the lists of objects of snapshots of an environment, those from the
// store that are not remembered. Of a snapshot without its container nothing is.
func (d *domain) readLists(ctx context.Context, env string, snapshots []*kept) (err error) {
	signed := map[[32]byte][]*kept{} // by what their roots were signed for
	for _, s := range snapshots {
		if d.facts.exists(deletion.ObjectID{Kind: s.Body.Manifest.Kind, Hash: s.Body.Manifest.Hash}) {
			signed[s.Body.Objects] = append(signed[s.Body.Objects], s)
		}
	}
	lists := openLists(d.repo.State.Dir().In("lists", d.name, d.facts.domain.String()), env)
	done := map[*kept]bool{}
	for digest, objects := range lists.all() {
		for i, s := range signed[digest] {
			if i == 0 {
				lists.add(digest, objects)
			}
			done[s] = true
			if err := d.manifest(ctx, s, objects); err != nil {
				return err
			}
		}
		delete(signed, digest)
	}
	defer func() {
		if serr := lists.save(); serr != nil {
			d.note("the lists of objects of %s of host %s are all read again by the next prune: %v", env, d.name, serr)
		}
	}()

	type list struct {
		*kept
		objects []pack.Object // nil when it is deleted
	}
	read := func(ctx context.Context, s *kept) (list, error) {
		objects, err := d.objectsOf(ctx, s.Snapshot)
		if authentic.Damaged(err) && s.forgotten {
			return list{kept: s}, nil // deleted before the policy could protect it
		}
		return list{s, objects}, err
	}
	rest := func(context.Context) iter.Seq2[*kept, error] {
		return func(yield func(*kept, error) bool) {
			for _, s := range slices.Backward(snapshots) { // each differs little from the one before
				if !done[s] && !yield(s, nil) {
					return
				}
			}
		}
	}
	for l, err := range ledger.Ordered(ctx, manifestsInFlight, rest, read) {
		if err != nil {
			return err
		}
		if l.objects == nil {
			d.note("%s of host %s was forgotten, and its content is deleted already, though the policy of this run keeps it", l.Ref(), d.name)
			continue
		}
		objects := l.objects[:len(l.objects)-1] // without its own container
		lists.add(l.Body.Objects, objects)
		if err := d.manifest(ctx, l.kept, objects); err != nil {
			return err
		}
	}
	return nil
}

// manifest adds to the facts what a snapshot needs: the objects of its list, and its
// container.
func (d *domain) manifest(ctx context.Context, s *kept, list []pack.Object) error {
	d.Progress.Manifests.Add(1)
	own := s.Body.Manifest
	objects := append(slices.Clip(list), pack.Object{Kind: own.Kind, Hash: own.Hash, Size: own.Size})
	m := d.manifestOf(s.Snapshot, objects)
	m.forgotten = s.forgotten
	if err := d.complete(ctx, m, objects); err != nil {
		return err
	}
	if !s.forgotten {
		if err := d.compare(ctx, s.Snapshot, objects); err != nil {
			return err
		}
	}
	d.facts.add(m, objects)
	return nil
}

// complete completes the inventory by what a manifest needs: what it lacks may
// have been put since, by a capture that ended in between.
func (d *domain) complete(ctx context.Context, m *manifest, objects []pack.Object) error {
	for _, o := range objects {
		named := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
		for _, id := range m.needs(named) {
			if d.facts.exists(id) {
				continue
			}
			for o, err := range d.repo.Store().List(ctx, storage.ListOptions{Prefix: d.key(id), Hidden: true, Limit: 1}) {
				if err != nil {
					return err
				}
				d.facts.objects[id] = object{uint64(o.Size), o.Modified}
			}
		}
		if _, rewritten := m.stands[named]; rewritten && !d.facts.own && d.facts.rewrites == nil && !d.facts.exists(named) {
			var err error
			if d.facts.rewrites, err = d.repo.Rewrites(ctx, d.name, d.facts.domain); err != nil {
				return err
			}
		}
	}
	return nil
}

// manifestOf is the manifest of a snapshot that names the objects.
func (d *domain) manifestOf(s *history.Snapshot, objects []pack.Object) *manifest {
	m := &manifest{Snapshot: s, stands: map[deletion.ObjectID][]deletion.ObjectID{}}
	for _, o := range objects {
		if d.facts.deletions.Moved(o.Hash) {
			id := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
			m.stands[id] = d.facts.deletions.Resolve(s.Body.Manifest.Hash, id, d.facts.exists)
		}
	}
	return m
}

// objectsOf reads the list of objects of a snapshot. Who can replace objects must not
// be able to have others deleted: the root was signed for the list.
func (d *domain) objectsOf(ctx context.Context, s *history.Snapshot) ([]pack.Object, error) {
	if s.Body == nil {
		return nil, d.repo.Closed(ctx, s.Root)
	}
	objects, err := d.readerOf(s).Objects(ctx, s.Body)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", s.Ref(), err)
	}
	return objects, nil
}

// readerOf reads the objects of the domain, which is that of a snapshot.
func (d *domain) readerOf(s *history.Snapshot) *objects.Reader {
	d.lists.Do(func() { d.reader = d.repo.NewReader(d.name, s.Domain) })
	return d.reader
}

// compare compares those of the objects that a kept snapshot names with their hashes
// that the store lists with another size.
func (d *domain) compare(ctx context.Context, s *history.Snapshot, objects []pack.Object) error {
	for _, o := range objects {
		id := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
		listed, ok := d.facts.objects[id]
		if _, done := d.damaged[id]; done || !ok || listed.size == o.Size {
			continue
		}
		err := d.readerOf(s).Compare(ctx, id, int64(listed.size), nil)
		if err != nil && !authentic.Damaged(err) {
			return err
		}
		d.damaged[id] = err != nil
	}
	return nil
}

func (d *domain) key(id deletion.ObjectID) string { return deletion.Key(d.name, d.facts.domain, id) }

// prune gathers the other facts, and carries out the plan.
func (d *domain) prune(ctx context.Context) error {
	if err := d.index(ctx); err != nil {
		return err
	}
	repacks, err := d.repack(ctx)
	if err != nil {
		return err
	}
	if d.facts.recent, err = d.readForgotten(ctx); err != nil {
		return err
	}
	if err := d.datePutAgain(ctx); err != nil {
		return err
	}
	if d.facts.running, err = d.captureUnderWay(ctx); err != nil {
		return err
	}

	p := makePlan(d.facts)
	d.found.Needed, d.found.Announced, d.found.Waiting, d.found.Due = p.needed, p.announcing, p.waiting, p.due
	d.found.Spared, d.found.Young = p.sparing, p.young
	if d.DryRun {
		for _, id := range p.remove {
			d.found.Deleted.add(d.facts.objects[id].size)
		}
		return nil
	}
	if len(p.remove) > 0 {
		if err := d.same(ctx); err != nil {
			return err
		}
	}
	if !p.changes && len(repacks) == 0 {
		return nil
	}
	if d.facts.own {
		repacks = append(repacks, d.facts.restated(p.since)...)
	}
	// What is deleted is published before, and a statement put in any case: of two
	// pruners the one that is first deletes, and the other finds its statement's
	// number taken.
	deleted := append(p.deleted, d.facts.carried(p.since)...)
	if err := d.repo.Publish(ctx, d.name, d.facts.domain, d.facts.deletions, p.announced, deleted, p.spared, repacks, p.since, time.Now()); err != nil {
		return err
	}
	return d.delete(ctx, p.remove)
}

// index deletes index runs that were replaced long ago, and reads which packs
// the live ones name.
func (d *domain) index(ctx context.Context) error {
	if d.opened == nil {
		d.facts.moreIndexed = true
		return nil
	}
	x, err := d.repo.ReadIndex(ctx, d.name, d.opened, nil)
	if err != nil {
		return err
	}
	defer x.Close()
	// Runs merged later need not name those of the newest snapshot when they are gone.
	old, more, err := x.Replaced(ctx, d.now.Add(-young), d.runs[d.facts.domain].named)
	if err != nil {
		return err
	}
	for _, o := range old {
		if !d.DryRun {
			err = d.repo.Purge(ctx, o.Key)
		}
		switch {
		case errors.Is(err, storage.ErrLocked):
			d.found.Locked.add(uint64(o.Size))
			more = true
		case err != nil:
			return err
		default:
			d.found.Deleted.add(uint64(o.Size))
		}
	}
	d.facts.indexed, d.facts.moreIndexed = x.PackSizes(), more
	return nil
}

// maxRead is how many objects are read, or asked for, to find out whether they
// are what they seem to be: whoever can put objects can put any number.
const maxRead = 256

// captureUnderWay reports whether one of the young packs that nothing knows is
// one: any object can be put there.
func (d *domain) captureUnderWay(ctx context.Context) (bool, error) {
	young := d.facts.unindexed()
	if d.opened == nil {
		return len(young) > 0, nil
	}
	reader := d.repo.NewReader(d.name, d.opened)
	defer reader.Close()
	for _, id := range young[:min(len(young), maxRead)] {
		_, contents, err := reader.Contents(ctx, wire.KindPack, id.Hash, int64(d.facts.objects[id].size))
		if err == nil && len(contents.Manifest) == 0 { // else it was the last of its capture
			return true, nil
		}
		if err != nil && !authentic.Damaged(err) {
			return false, err
		}
	}
	return false, nil
}

// datePutAgain gives what is young and not needed the time of its first version:
// whoever has the host's key could keep it for ever by putting it again.
func (d *domain) datePutAgain(ctx context.Context) error {
	asked := 0
	for id, o := range d.facts.objects {
		if d.facts.needed[id] || d.facts.held[id] || d.facts.pending(id) || !d.facts.isYoung(o) {
			continue
		}
		if asked++; asked > maxRead {
			return nil
		}
		versions, err := d.repo.Read.Versions(ctx, d.key(id))
		if err != nil {
			return err
		}
		for _, v := range versions {
			if !v.Marker && v.Modified.Before(o.at) {
				o.at = v.Modified
			}
		}
		d.facts.objects[id] = o
	}
	return nil
}

// delete deletes what is due, and goes on past what is locked.
func (d *domain) delete(ctx context.Context, due []deletion.ObjectID) error {
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesInFlight)
	for _, id := range due {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := d.repo.Purge(gctx, d.key(id))
			mu.Lock()
			defer mu.Unlock()
			size := d.facts.objects[id].size
			if errors.Is(err, storage.ErrLocked) {
				d.found.Locked.add(size)
				return nil
			}
			if err != nil {
				return err
			}
			d.found.Deleted.add(size)
			d.Progress.Deleted.Add(1)
			d.Progress.Bytes.Add(size)
			return nil
		})
	}
	return g.Wait()
}
