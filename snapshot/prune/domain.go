package prune

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

const (
	manifestsInFlight = 4  // containers read whole at once
	deletesInFlight   = 16 // objects deleted at once
)

// domain prunes one domain.
type domain struct {
	*host
	*inventory
	id     seal.DomainID
	domain *seal.Domain                        // nil when no kept snapshot opens it
	own    bool                                // it is this machine's own
	dooms  map[deletion.ObjectID]deletion.Doom // that bind this machine
	needed map[deletion.ObjectID]bool
	held   map[deletion.ObjectID]bool // see hold
	spoilt map[deletion.ObjectID]bool // objects that this host found to be damaged
	out    Domain

	mu        sync.Mutex
	announced []statement.Object
	deleted   []statement.Object
	spared    []statement.Object
	repacks   []statement.Repack
	manifests []*manifest       // of kept snapshots, each once
	rewrites  deletion.Rewrites // nil until needed
}

func (h *host) domain(ctx context.Context, id seal.DomainID) error {
	d := &domain{host: h, inventory: h.inventory[id], dooms: h.inventory[id].deletions.Binding(h.own), id: id, needed: map[deletion.ObjectID]bool{}, held: map[deletion.ObjectID]bool{}, out: Domain{Host: h.name, ID: id}}
	for _, s := range h.snapshots[id] {
		if s.Body == nil {
			return fmt.Errorf("what a snapshot needs takes an identity to tell: %w", d.repo.Closed(ctx, s.Root))
		}
		d.domain = s.Domain
	}
	var err error
	if d.own, err = d.ownDomain(ctx); err != nil {
		return err
	}
	if d.own {
		d.spoilt = d.repo.DamagedObjects(id)
	}
	if err := d.need(ctx); err != nil {
		return err
	}
	err = d.prune(ctx)
	h.report.Domains = append(h.report.Domains, d.out)
	return err
}

// need finds out what kept snapshots need.
func (d *domain) need(ctx context.Context) error {
	byHash := map[[32]byte]*manifest{}
	for _, s := range d.snapshots[d.id] {
		d.out.Snapshots++
		m := byHash[s.Body.Manifest.Hash]
		if m == nil {
			byHash[s.Body.Manifest.Hash] = &manifest{kept: s}
		} else if !s.forgotten {
			m.forgotten = false
		}
	}
	var g errgroup.Group
	g.SetLimit(manifestsInFlight)
	for _, m := range byHash {
		g.Go(func() error {
			m.objects, m.err = d.objectsOf(ctx, m.Snapshot)
			d.Progress.Manifests.Add(1)
			if authentic.Damaged(m.err) && m.forgotten {
				return nil // deleted before the policy could speak for it
			}
			return m.err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, m := range byHash {
		if m.err != nil {
			d.note("%s of host %s was forgotten, and its content is deleted already, though the policy of this run keeps it", m.Ref(), d.name)
			continue
		}
		d.manifests = append(d.manifests, m)
		for _, o := range m.objects {
			stand := d.resolve(m, o)
			for _, id := range stand {
				there, err := d.there(ctx, id)
				if err != nil {
					return err
				}
				if there && d.spoilt[id] && !m.forgotten {
					// What took its place is not in the list of this manifest.
					return &authentic.DamageError{Key: d.key(id), What: o.Kind.String(), Err: fmt.Errorf("needed by %s: nothing is deleted while a snapshot is kept that needs it; `knowngood check` tells whether what it held is stored elsewhere", m.Ref())}
				}
				if !there && !m.forgotten {
					return &authentic.DamageError{Key: d.key(id), What: o.Kind.String(), Err: fmt.Errorf("missing, needed by %s: nothing is deleted while a snapshot is kept that needs it; `knowngood check` tells whether what it held is stored elsewhere", m.Ref())}
				}
				if !d.needed[id] {
					d.needed[id] = true
					d.out.Needed.add(d.objects[id].size)
				}
			}
			if err := d.hold(ctx, o, stand); err != nil {
				return err
			}
		}
	}
	for id := range d.held {
		if !d.needed[id] {
			d.out.Needed.add(d.objects[id].size)
		}
	}
	return nil
}

// there tells whether an object exists: one that the inventory does not have
// may have been put since, by a capture that ended in between.
func (d *domain) there(ctx context.Context, id deletion.ObjectID) (bool, error) {
	if _, ok := d.objects[id]; ok {
		return true, nil
	}
	for o, err := range d.repo.Store().List(ctx, storage.ListOptions{Prefix: d.key(id), Hidden: true, Limit: 1}) {
		if err != nil {
			return false, err
		}
		d.objects[id] = object{uint64(o.Size), o.Modified}
		return true, nil
	}
	return false, nil
}

// objectsOf reads the list of objects of a manifest, whose container is read
// whole and verified by its name: who can replace objects must not be able to
// have others deleted.
func (d *domain) objectsOf(ctx context.Context, s *history.Snapshot) ([]pack.Object, error) {
	m := &s.Body.Manifest
	r := d.repo.NewReader(s.Host, s.Domain)
	defer r.Close()
	object, err := r.Whole(ctx, nil, wire.KindManifest, m.Hash)
	var tail *pack.Tail
	var contents *pack.Contents
	if err == nil {
		tail, err = pack.ParseTail(wire.KindManifest, object, int64(len(object)))
	}
	if err == nil {
		contents, err = tail.Contents(wire.KindManifest, s.Domain)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", s.Ref(), err)
	}
	return append(contents.Objects, pack.Object{Kind: wire.KindManifest, Hash: m.Hash, Size: m.Size}), nil
}

func (d *domain) key(id deletion.ObjectID) string {
	if id.Kind == wire.KindManifest {
		return layout.KeyManifest(d.name, d.id, id.Hash)
	}
	return layout.KeyPack(d.name, d.id, id.Hash)
}

// prune spares, deletes and announces, and tells so in a statement.
func (d *domain) prune(ctx context.Context) error {
	indexed, mayName, err := d.index(ctx)
	if err != nil {
		return err
	}
	candidates, since := d.settle()
	due, err := d.due(ctx, candidates, &since)
	if err != nil {
		return err
	}
	if err := d.repack(ctx); err != nil {
		return err
	}
	d.announce(indexed)
	if d.DryRun {
		for _, id := range due {
			d.out.Deleted.add(d.objects[id].size)
		}
		return nil
	}
	if len(due) > 0 {
		if err := d.same(ctx); err != nil {
			return err
		}
	}
	if len(due)+len(d.announced)+len(d.deleted)+len(d.spared)+len(d.repacks) == 0 {
		return nil
	}
	if d.own {
		d.repacks = append(d.repacks, d.told(since)...)
	} else { // nobody else's word becomes this machine's
		for _, x := range d.deletions.Repacks {
			since = min(since, x.Serial)
		}
	}
	d.deleted = append(d.deleted, d.carried(since, indexed, mayName)...)
	// What is deleted is published before, and a statement put in any case: of two
	// pruners the one that is first deletes, and the other finds its statement's
	// number taken.
	if err := d.repo.Publish(ctx, d.name, d.id, d.deletions, d.announced, d.deleted, d.spared, d.repacks, since, time.Now()); err != nil {
		return err
	}
	return d.delete(ctx, due)
}

// settle looks at what became of what was announced, and returns what was
// announced long enough ago and is still not needed, and the lowest serial that
// still has something to say.
func (d *domain) settle() (candidates map[deletion.ObjectID]deletion.Doom, since uint64) {
	candidates, since = map[deletion.ObjectID]deletion.Doom{}, d.deletions.Newest+1
	for id, doom := range d.dooms {
		o, listed := d.objects[id]
		switch {
		case doom.Fate != deletion.Announced && !(doom.Fate == deletion.Deleted && listed):
		case !listed:
			d.deleted = append(d.deleted, statement.Object{Kind: id.Kind, Hash: id.Hash})
		case d.needed[id]:
			d.spared = append(d.spared, statement.Object{Kind: id.Kind, Hash: id.Hash})
			d.out.Spared.add(o.size)
		case d.held[id]: // until its host deletes it, or no kept snapshot names it
			since = min(since, doom.Serial)
		case d.now.Sub(doom.At) < d.Announce:
			d.wait(o, doom.At.Add(d.Announce))
			since = min(since, doom.Serial)
		default:
			candidates[id] = doom
		}
	}
	return candidates, since
}

// wait counts an object that is to be deleted at a time.
func (d *domain) wait(o object, at time.Time) {
	d.out.Waiting.add(o.size)
	if d.out.Due.IsZero() || at.Before(d.out.Due) {
		d.out.Due = at
	}
}

// due are the candidates that are to be deleted now. Those that a snapshot needs
// which was forgotten only since they were announced wait, for as long as an
// announcement does: until then it may be taken back.
func (d *domain) due(ctx context.Context, candidates map[deletion.ObjectID]deletion.Doom, since *uint64) (due []deletion.ObjectID, err error) {
	recent, err := d.recent(ctx, candidates)
	if err != nil {
		return nil, err
	}
	for id, doom := range candidates {
		if recent[id] {
			d.wait(d.objects[id], d.now.Add(d.Announce))
			*since = min(*since, doom.Serial)
			continue
		}
		due = append(due, id)
		if doom.Fate == deletion.Deleted { // a run said so and died, or it was locked
			*since = min(*since, doom.Serial)
			continue
		}
		d.deleted = append(d.deleted, statement.Object{Kind: id.Kind, Hash: id.Hash})
	}
	return due, nil
}

// carried are packs that are gone, that an index run may still name, and that
// the statements read from now on would not tell of.
func (d *domain) carried(since uint64, indexed map[[32]byte]uint64, mayName bool) []statement.Object {
	var out []statement.Object
	for id, doom := range d.deletions.Dooms {
		if _, there := d.objects[id]; there || doom.Fate != deletion.Deleted || id.Kind != wire.KindPack || doom.Serial >= since {
			continue
		}
		if _, named := indexed[id.Hash]; named || mayName {
			out = append(out, statement.Object{Kind: id.Kind, Hash: id.Hash})
		}
	}
	return out
}

// index deletes index runs that were replaced long ago, and gives the packs
// that the live ones name. mayName tells that others are there, which may
// name more.
func (d *domain) index(ctx context.Context) (indexed map[[32]byte]uint64, mayName bool, err error) {
	if d.domain == nil {
		return nil, true, nil
	}
	x, err := d.repo.OpenRuns(ctx, d.name, d.domain)
	if err != nil {
		return nil, false, err
	}
	defer x.Close()
	old, mayName, err := x.Replaced(ctx, d.now.Add(-young))
	if err != nil {
		return nil, false, err
	}
	for _, o := range old {
		if !d.DryRun {
			err = d.repo.Purge(ctx, o.Key)
		}
		switch {
		case errors.Is(err, storage.ErrLocked):
			d.out.Locked.add(uint64(o.Size))
			mayName = true
		case err != nil:
			return nil, false, err
		default:
			d.out.Deleted.add(uint64(o.Size))
		}
	}
	return x.PackSizes(), mayName || d.DryRun, nil
}

// doomed reports whether an object is announced, or deleted, as far as this machine
// is bound by that.
func (d *domain) doomed(id deletion.ObjectID) bool {
	f := d.dooms[id].Fate
	return f == deletion.Announced || f == deletion.Deleted
}

// announce chooses what is not needed and old enough. Packs that no index run
// names, while there are young ones, look like those of a run that takes days:
// they are left alone, and so are containers that it may have written.
func (d *domain) announce(indexed map[[32]byte]uint64) {
	var old []deletion.ObjectID
	underway, began := false, d.now
	for id, o := range d.objects {
		if d.needed[id] || d.held[id] || d.doomed(id) {
			continue
		}
		recent := d.now.Sub(o.at) < young
		if _, named := indexed[id.Hash]; !named && id.Kind == wire.KindPack {
			underway = underway || recent
			if o.at.Before(began) {
				began = o.at
			}
		}
		if recent {
			d.out.Young.add(o.size)
			continue
		}
		old = append(old, id)
	}
	for _, id := range old {
		o := d.objects[id]
		_, named := indexed[id.Hash]
		if underway && (id.Kind == wire.KindPack && !named || id.Kind == wire.KindManifest && o.at.After(began.Add(-young))) {
			d.out.Young.add(o.size)
			continue
		}
		d.tell(id, o)
	}
}

func (d *domain) tell(id deletion.ObjectID, o object) {
	d.announced = append(d.announced, statement.Object{Kind: id.Kind, Hash: id.Hash, Size: o.size})
	d.out.Announced.add(o.size)
}

// delete deletes what is due, and goes on past what is locked.
func (d *domain) delete(ctx context.Context, due []deletion.ObjectID) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesInFlight)
	for _, id := range due {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := d.repo.Purge(gctx, d.key(id))
			d.mu.Lock()
			defer d.mu.Unlock()
			size := d.objects[id].size
			if errors.Is(err, storage.ErrLocked) {
				d.out.Locked.add(size)
				return nil
			}
			if err != nil {
				return err
			}
			d.out.Deleted.add(size)
			d.Progress.Deleted.Add(1)
			d.Progress.Bytes.Add(size)
			return nil
		})
	}
	return g.Wait()
}
