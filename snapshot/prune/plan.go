package prune

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// facts are all that the plan for a domain rests on. They are gathered in the
// order that makes this safe: the clock, the objects, what was announced, and
// only then what is needed.
type facts struct {
	host     string
	domain   seal.DomainID
	own      bool          // this machine is the host, and this is the domain that it has now
	now      time.Time     // by the store's clock, read before anything was listed
	announce time.Duration // between an announcement and the deletion

	objects map[deletion.ObjectID]object // the packs and containers in the store
	damaged map[deletion.ObjectID]bool   // those that this host knows to be damaged

	// What was published: by anybody, and the part that binds this machine.
	deletions *deletion.Deletions
	published statuses
	binding   statuses
	// What packs were ever rewritten into; only where somebody else is the host
	// and such a pack is gone.
	rewrites deletion.Rewrites

	manifests []*manifest // of the kept snapshots, each once
	names     names       // what these name
	// live is how many bytes of each object the manifest needs that needs the most of it.
	live map[deletion.ObjectID]uint64
	// recent are the objects that a snapshot needs which was forgotten less than
	// the time of an announcement ago.
	recent map[deletion.ObjectID]bool

	indexed     map[[32]byte]uint64 // packs that the live index runs name
	moreIndexed bool                // there are other index runs, which may name more
	running     bool                // one of the packs of unindexed verifies: a capture is under way

	// Found by findNeeds.
	needed map[deletion.ObjectID]bool
	held   map[deletion.ObjectID]bool // see hold
}

// statuses are what was published of objects.
type statuses interface {
	Of(deletion.ObjectID) deletion.Status // the zero Status when nothing was
	All() iter.Seq2[deletion.ObjectID, deletion.Status]
}

type object struct {
	size uint64
	at   time.Time // when the store took it
}

// manifest is a list of objects that a kept snapshot needs.
type manifest struct {
	*history.Snapshot
	forgotten bool // by the host; only the policy of this run keeps it
	objects   set  // that it names, its own container included
	// stands are the objects that are needed in the place of those that were rewritten.
	stands map[deletion.ObjectID][]deletion.ObjectID
}

// needs are the objects that the manifest needs in the place of one that it names.
func (m *manifest) needs(id deletion.ObjectID) []deletion.ObjectID {
	if stands, rewritten := m.stands[id]; rewritten {
		return stands
	}
	return []deletion.ObjectID{id}
}

// needsOne reports whether the manifest needs an object for which of returns true.
func (m *manifest) needsOne(of func(deletion.ObjectID) bool) bool {
	for id := range m.objects.all() {
		if slices.ContainsFunc(m.needs(id), of) {
			return true
		}
	}
	return false
}

// add adds a manifest that names the objects.
func (f *facts) add(m *manifest, objects []pack.Object) {
	m.objects = f.names.set(objects)
	f.manifests = append(f.manifests, m)
	live := map[deletion.ObjectID]uint64{}
	for _, o := range objects {
		in := m.needs(deletion.ObjectID{Kind: o.Kind, Hash: o.Hash})
		for _, id := range in { // each is taken to have its part
			live[id] += o.Live / uint64(len(in))
		}
	}
	if f.live == nil {
		f.live = map[deletion.ObjectID]uint64{}
	}
	for id, n := range live {
		f.live[id] = max(f.live[id], n)
	}
}

// plan is what a run does in a domain.
type plan struct {
	// What the statement names that is put before anything is deleted.
	announced, deleted, spared []statement.Object
	since                      uint64 // lowest serial of the statements that are still read afterwards
	remove                     []deletion.ObjectID
	changes                    bool // there is something to publish

	needed, announcing, waiting, sparing, young Amount
	due                                         time.Time // of the first that waits
}

// findNeeds finds out what the kept snapshots need. The error is of an object
// that is missing or damaged: nothing of the domain is deleted then.
func (f *facts) findNeeds() error {
	f.needed, f.held = map[deletion.ObjectID]bool{}, map[deletion.ObjectID]bool{}
	for _, m := range f.manifests {
		for named := range m.objects.all() {
			needs := m.needs(named)
			for _, id := range needs {
				there := f.exists(id)
				// Of a damaged one a copy may exist, but not in the list of this manifest.
				if !m.forgotten && (!there || f.damaged[id]) {
					missing := ""
					if !there {
						missing = "missing, "
					}
					return &authentic.DamageError{Key: deletion.Key(f.host, f.domain, id), What: id.Kind.String(), Err: fmt.Errorf("%sneeded by %s: nothing is deleted while a snapshot is kept that needs it; `knowngood check` shows whether what it held is stored elsewhere; when newer snapshots are enough, forget that one", missing, m.Ref())}
				}
				f.needed[id] = true
			}
			f.hold(named, needs)
		}
	}
	return nil
}

// wanted reports whether a snapshot needs an object that its host keeps.
func (f *facts) wanted(id deletion.ObjectID) bool {
	return slices.ContainsFunc(f.manifests, func(m *manifest) bool {
		return !m.forgotten && m.needsOne(func(needed deletion.ObjectID) bool { return needed == id })
	})
}

// hold keeps what a repack calls unneeded of an object that a kept snapshot names:
// who took a host over could have anything deleted by a repack. Only in its present
// domain the host believes its own. It is the object itself, or, once that is gone,
// all that it was ever said to be rewritten into.
func (f *facts) hold(id deletion.ObjectID, needs []deletion.ObjectID) {
	if f.own || slices.Contains(needs, id) {
		return
	}
	if f.exists(id) {
		f.held[id] = true
		return
	}
	for _, h := range f.rewrites.Beyond(id.Hash) {
		if id.Hash = h; f.exists(id) {
			f.held[id] = true
		}
	}
}

// exists reports whether the store has an object.
func (f *facts) exists(id deletion.ObjectID) bool {
	_, ok := f.objects[id]
	return ok
}

// pending reports whether an object is to be deleted as far as that binds this
// machine: it is announced, or named deleted and still there.
func (f *facts) pending(id deletion.ObjectID) bool {
	state := f.binding.Of(id).State
	return state == deletion.Announced || state == deletion.Deleted
}

// expired are the objects that were announced long enough ago and that no kept
// snapshot needs.
func (f *facts) expired() map[deletion.ObjectID]deletion.Status {
	out := map[deletion.ObjectID]deletion.Status{}
	for id, status := range f.binding.All() {
		if f.exists(id) && f.pending(id) && !f.needed[id] && !f.held[id] && f.now.Sub(status.At) >= f.announce {
			out[id] = status
		}
	}
	return out
}

// makePlan decides what becomes of every object of the domain, after findNeeds.
// It is pure: docs/FORMAT.md section 10 has its rules.
func makePlan(f *facts) *plan {
	p := &plan{since: f.deletions.Newest + 1}
	for id := range f.needed {
		p.needed.add(f.objects[id].size)
	}
	for id := range f.held {
		if !f.needed[id] {
			p.needed.add(f.objects[id].size)
		}
	}

	for id, status := range f.binding.All() {
		if f.pending(id) {
			p.settle(f, id, status)
		}
	}
	p.announce(f)
	p.changes = len(p.remove)+len(p.announced)+len(p.deleted)+len(p.spared) > 0

	if !f.own { // nobody else's word becomes this machine's
		for _, x := range f.deletions.Repacks {
			p.since = min(p.since, x.Serial)
		}
	}
	return p
}

// settle decides about an object that was announced, or named deleted.
func (p *plan) settle(f *facts, id deletion.ObjectID, status deletion.Status) {
	o, there := f.objects[id]
	named := statement.Object{Kind: id.Kind, Hash: id.Hash}
	wait := func(until time.Time) {
		p.waiting.add(o.size)
		if p.due.IsZero() || until.Before(p.due) {
			p.due = until
		}
		p.since = min(p.since, status.Serial)
	}
	switch {
	case !there && status.State == deletion.Deleted:
		// It is gone, as that statement has it.
	case !there:
		p.deleted = append(p.deleted, named)
	case f.needed[id]:
		p.spared = append(p.spared, named)
		p.sparing.add(o.size)
	case f.held[id]: // until its host deletes it, or no kept snapshot names it
		p.since = min(p.since, status.Serial)
	case f.now.Sub(status.At) < f.announce:
		wait(status.At.Add(f.announce))
	case f.recent[id]: // until then that snapshot may be taken back
		wait(f.now.Add(f.announce))
	case status.State == deletion.Deleted: // a run published that and died, or it was locked
		p.remove = append(p.remove, id)
		p.since = min(p.since, status.Serial)
	default:
		p.remove = append(p.remove, id)
		p.deleted = append(p.deleted, named)
	}
}

// unindexed are the young packs that nothing needs and no index run names: they
// look like those of a capture under way.
func (f *facts) unindexed() (out []deletion.ObjectID) {
	for id, o := range f.objects {
		if f.unclaimed(id) && f.isYoung(o) {
			out = append(out, id)
		}
	}
	return out
}

func (f *facts) isYoung(o object) bool { return f.now.Sub(o.at) < young }

// unclaimed reports whether it is a pack that no index run names and that nothing needs.
func (f *facts) unclaimed(id deletion.ObjectID) bool {
	_, indexed := f.indexed[id.Hash]
	return id.Kind == wire.KindPack && !indexed && !f.needed[id] && !f.held[id] && !f.pending(id)
}

// announce chooses what is not needed and old enough. While a capture is under
// way, the packs that no index run names are kept, because they may be
// those of days of its work; and so are containers that it may have written.
func (p *plan) announce(f *facts) {
	began := f.now // when the capture under way may have stored its first pack
	for id, o := range f.objects {
		if f.unclaimed(id) && o.at.Before(began) {
			began = o.at
		}
	}
	for id, o := range f.objects {
		if f.needed[id] || f.held[id] || f.pending(id) {
			continue
		}
		ofCapture := f.running && (f.unclaimed(id) || id.Kind == wire.KindManifest && o.at.After(began.Add(-young)))
		if f.isYoung(o) || ofCapture {
			p.young.add(o.size)
			continue
		}
		p.announced = append(p.announced, statement.Object{Kind: id.Kind, Hash: id.Hash, Size: o.size})
		p.announcing.add(o.size)
	}
}

// carried are packs that are gone, that an index run may still name, and that
// the statements that are read from now on would not name.
func (f *facts) carried(since uint64) []statement.Object {
	var out []statement.Object
	for id, status := range f.published.All() {
		if f.exists(id) || status.State != deletion.Deleted || id.Kind != wire.KindPack || status.Serial >= since {
			continue
		}
		if _, named := f.indexed[id.Hash]; named || f.moreIndexed {
			out = append(out, statement.Object{Kind: id.Kind, Hash: id.Hash})
		}
	}
	return out
}
