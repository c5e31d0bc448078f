package check

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/objects"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// domainOf is a domain of a host, with the kept snapshots in it: of each
// environment the newest first.
type domainOf struct {
	*checker
	host      string
	domain    *seal.Domain
	reader    *objects.Reader
	snapshots []*history.Snapshot
}

// listing is what the store lists of a domain.
type listing struct {
	packs      map[[32]byte]int64 // stored sizes
	containers map[[32]byte]int64
	put        map[deletion.ObjectID]time.Time // when the store took them
}

// domainCheck checks what lies under one domain of a host.
type domainCheck struct {
	*domainOf
	*evidence
	listing
	strangers *strangers // of the host
	deletions *deletion.Deletions
	locks     *lockCheck
	noted     map[deletion.ObjectID]bool // to be damaged, on this host; they are read whole
	sizes     map[[32]byte]uint64        // of packs, as the index has them

	tables   map[tableKey]bool              // of manifests that were looked into
	tablesIn map[deletion.ObjectID]bool     // objects that hold one
	segments map[[32]byte][]link            // of ID, those that were looked into, with their hard links
	linked   map[[32]byte]bool              // sets of such segments that were looked into; see links
	listed   map[deletion.ObjectID]bool     // objects that a kept snapshot lists
	indexed  map[[32]byte]deletion.ObjectID // chunks that the index has only in one of them
	affected bool                           // some file is

	affectedSegments map[[32]byte]bool // by ID, those in which one may be
	affectedTables   map[tableKey]bool
}

func (c *checker) newDomain(host string, domain *seal.Domain, unknown *strangers) *domainCheck {
	of := &domainOf{checker: c, host: host, domain: domain, reader: c.repo.NewReader(host, domain)}
	return &domainCheck{domainOf: of, strangers: unknown, listing: listing{put: map[deletion.ObjectID]time.Time{}},
		evidence: &evidence{suspects: map[deletion.ObjectID]*suspect{}, tabled: map[[32]byte]bool{}, filesOnly: map[[32]byte]bool{}, remnants: map[[32]byte]remnant{}, bad: map[[32]byte]string{}},
		locks:    &lockCheck{domainOf: of, wanted: map[deletion.ObjectID]lockOf{}},
		tables:   map[tableKey]bool{}, tablesIn: map[deletion.ObjectID]bool{}, segments: map[[32]byte][]link{}, linked: map[[32]byte]bool{},
		listed: map[deletion.ObjectID]bool{}, indexed: map[[32]byte]deletion.ObjectID{},
		affectedSegments: map[[32]byte]bool{}, affectedTables: map[tableKey]bool{}}
}

// key of a pack or container.
func (d *domainOf) key(id deletion.ObjectID) string { return deletion.Key(d.host, d.domain.ID, id) }

// newest are the newest snapshots of the environments of the domain.
func (d *domainOf) newest() (list []*history.Snapshot) {
	seen := map[string]bool{}
	for _, s := range d.snapshots {
		if !seen[s.Environment] {
			seen[s.Environment] = true
			list = append(list, s)
		}
	}
	return list
}

// heal notes that the next run of an environment heals something.
func (d *domainOf) heal(env string) { d.heals[Healing{d.host, env}] = true }

// lostKey notes what is wrong with a wrapped key, and reports whether err is about
// one: what that opens is no less whole for it.
func (d *domainOf) lostKey(err error) bool {
	object, ok := damagedObject(err)
	if !ok || !strings.HasPrefix(object, layout.PrefixKeys) {
		return false
	}
	d.damage(object, err)
	return true
}

// passOn calls note with damage to an object, and returns other errors.
func (d *domainOf) passOn(err error, note func(error)) error {
	if err == nil || d.lostKey(err) {
		return nil
	}
	if _, ok := damagedObject(err); ok || errors.Is(err, seal.ErrWrongKey) || errors.Is(err, wire.ErrMalformed) || errors.Is(err, storage.ErrNotFound) {
		note(err)
		return nil
	}
	if errors.Is(err, trust.ErrNoUsableIdentity) { // nor does it end what else there is to check
		d.note(fmt.Sprintf("host %s: not all could be looked into: %v", d.host, err))
		return nil
	}
	return err
}

// object notes damage to an object, and returns other errors.
func (d *domainOf) object(key string, err error) error {
	return d.passOn(err, func(err error) { d.damage(key, err) })
}

// tableKey is all that a root claims of its manifest's table: where it lies, and
// its digest. Snapshots between which nothing changed share it.
type tableKey [32]byte

// tableOf is the object that holds the table of a root's manifest.
func tableOf(b *statement.RootBody) deletion.ObjectID {
	return deletion.ObjectID{Kind: b.Manifest.Kind, Hash: b.Manifest.Hash}
}

func keyOfTable(b *statement.RootBody) tableKey {
	m := &b.Manifest
	h := sha256.New()
	fmt.Fprintf(h, "%d %x %d %d %d %x", m.Kind, m.Hash, m.Size, m.Offset, m.Length, b.Content)
	return tableKey(h.Sum(nil))
}

func (d *domainCheck) check(ctx context.Context) error {
	x, err := d.repo.ReadIndex(ctx, d.host, d.domain, func(hash [32]byte) bool { return drawn(hash, d.ReadData) })
	if err != nil {
		return err
	}
	defer x.Close()
	defer d.reader.Close()
	if !d.Sealed {
		d.reader.Keep(containerMemory)
	}
	d.actual = x.Scratch()
	defer d.actual.Close()
	if d.packs, err = d.list(ctx, layout.PrefixPacks(d.host, d.domain.ID)); err != nil {
		return err
	}
	if d.containers, err = d.list(ctx, layout.PrefixManifests(d.host, d.domain.ID)); err != nil {
		return err
	}
	if d.deletions, err = d.repo.Deletions(ctx, d.host, d.domain.ID); err != nil {
		return err
	}
	if d.noted, err = d.repo.NotedDamage(d.domain.ID); err != nil {
		return err
	}
	d.sizes = x.PackSizes()
	d.report.Packs += uint64(len(d.packs))
	d.report.Containers += uint64(len(d.containers))

	different := d.different()
	claims := d.locks.claims()
	for l, err := range ledger.Ordered(ctx, inFlight, each(different), d.readList) {
		if err != nil {
			return err
		}
		d.locks.claiming = claims[keyOfTable(l.Body)]
		if err := d.needed(ctx, l); err != nil {
			return err
		}
	}
	d.indexSizes()
	if err := (&packCheck{d.domainOf, d.evidence, d.noted}).run(ctx, &d.listing); err != nil {
		return err
	}
	if err := d.repo.ExamineDamaged(ctx, d.host, d.domain.ID, func(id deletion.ObjectID) bool { return !d.suspected(id) }); err != nil {
		return err
	}
	d.index(x)
	d.runs(x)
	d.unneeded()
	if err := d.locks.check(ctx, claims); err != nil {
		return err
	}
	if d.Sealed {
		d.judge()
		return nil
	}
	if err := d.files(ctx, different); err != nil {
		return err
	}
	d.judge()
	if d.affected || len(d.bad) > 0 {
		return (&naming{d.domainOf, d.bad, d.affectedTables}).run(ctx)
	}
	return nil
}

// different are the snapshots whose tables differ: a kept one of each table.
func (d *domainCheck) different() (out []*history.Snapshot) {
	for _, s := range d.snapshots {
		if key := keyOfTable(s.Body); !d.tables[key] {
			d.tables[key] = true
			out = append(out, s)
		}
	}
	return out
}

// list returns the stored sizes of the objects of a kind.
func (d *domainCheck) list(ctx context.Context, prefix string) (map[[32]byte]int64, error) {
	out := map[[32]byte]int64{}
	for o, err := range d.repo.Store().List(ctx, storage.ListOptions{Prefix: prefix, Foreign: d.strangers.add}) {
		if err != nil {
			return nil, err
		}
		id, ok := deletion.ParseKey(o.Key)
		if !ok {
			d.strangers.add(o.Key)
			continue
		}
		out[id.Hash] = o.Size
		d.put[id] = o.Modified
	}
	return out, nil
}
