package repository

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/inventory"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// ObjectID names a pack or a manifest container of a domain.
type ObjectID = inventory.ID

// Fate is what the pending deletions of a domain say of an object.
type Fate uint8

// Fates.
const (
	Announced Fate = iota + 1 // to be deleted
	Deleted
	Spared // needed again
)

// Doom is the fate of one object.
type Doom struct {
	Fate   Fate
	Serial uint64    // of the statement that says so
	At     time.Time // when the store took that statement
	Size   uint64    // in stored bytes, of an announced one
}

// Deletions are what was announced and deleted in a domain.
type Deletions struct {
	Dooms  map[ObjectID]Doom
	Newest uint64 // the highest serial that counts; 0 for none
	// Repacks say what packs were rewritten into, the newest first.
	Repacks []Repack

	serials   serials
	since     uint64             // what statements before it say counts no more
	rewritten map[[32]byte][]int // positions in Repacks, by old pack
}

// Absent tells whether a writer must take the object for not there. It may be
// asked of nil.
func (d *Deletions) Absent(o ObjectID) bool {
	if d == nil {
		return false
	}
	f := d.Dooms[o].Fate
	return f == Announced || f == Deleted
}

// packs are those with one of the fates.
func (d *Deletions) packs(fates ...Fate) map[[32]byte]bool {
	out := map[[32]byte]bool{}
	for o, doom := range d.Dooms {
		if o.Kind == wire.KindPack && slices.Contains(fates, doom.Fate) {
			out[o.Hash] = true
		}
	}
	return out
}

// Deletions reads the pending deletions of a domain. Statements that do not
// verify are warned of, and count for nothing.
func (r *Repository) Deletions(ctx context.Context, host string, domain seal.DomainID) (*Deletions, error) {
	d := &Deletions{Dooms: map[ObjectID]Doom{}, rewritten: map[[32]byte][]int{}}
	in := func(ctx context.Context) iter.Seq2[storage.Object, error] {
		return r.store.List(ctx, storage.ListOptions{Prefix: layout.PrefixDeletions(host, domain), Hidden: true})
	}
	// Of a host that was enrolled anew, what the old key says counts only below
	// the first statement since; and in the domain that this machine has as the
	// host, nothing that it says is needed no more.
	certs, err := r.hostCertificates(ctx, host)
	if err != nil {
		return nil, err
	}
	own, err := r.ownDomain()
	if err != nil {
		return nil, err
	}
	present := own != nil && own.ID == domain
	counts := func(x *statement.Deletion) bool { return statement.CheckDeletionCertificate(x, certs) == nil }
	read := func(ctx context.Context, o storage.Object) (told, error) {
		_, _, serial, ok := layout.ParseDeletionKey(o.Key)
		if !ok {
			return told{}, nil
		}
		s := told{serial: serial, object: o}
		var err error
		s.Deletion, s.at, err = r.deletion(ctx, o, counts)
		return s, err
	}
	var ended []storage.Object // above the newest that counts
	var heeded time.Time       // since when what comes next is: below a statement that counts
	for s, err := range ordered(ctx, rootsInFlight, in, read) {
		if Damaged(err) {
			d.serials.pass(s.serial, false)
			r.warn(err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("pending deletions of host %s: %w", host, err)
		}
		if s.Deletion == nil {
			continue
		}
		if s.serial < d.since {
			break
		}
		counts := counts(s.Deletion)
		d.serials.pass(s.serial, counts)
		if counts || !present {
			d.repacked(s.Deletion)
		}
		switch {
		case counts:
			d.since = max(d.since, s.Since)
			ended, heeded = nil, s.at
		case d.serials.newest == 0:
			ended = append(ended, s.object)
			continue
		case s.at.Before(heeded): // no writer saw it before
			s.at = heeded
		}
		d.take(s)
	}
	d.Newest = d.serials.newest
	// There may be any number of them, so they are read again, not kept.
	again := func(context.Context) iter.Seq2[storage.Object, error] {
		return func(yield func(storage.Object, error) bool) {
			for _, o := range ended {
				if !yield(o, nil) {
					return
				}
			}
		}
	}
	for s, err := range ordered(ctx, rootsInFlight, again, read) {
		if err != nil && !Damaged(err) {
			return nil, fmt.Errorf("pending deletions of host %s: %w", host, err)
		}
		if err == nil {
			d.take(s)
		}
	}
	return d, nil
}

// told is a statement as the store shows it.
type told struct {
	*statement.Deletion
	serial uint64 // by its key
	at     time.Time
	object storage.Object
}

// take takes in what a statement says, but for what a newer one says
// otherwise; statements come the newest first.
func (d *Deletions) take(s told) {
	for _, of := range []struct {
		list []statement.Object
		fate Fate
	}{{s.Announced, Announced}, {s.Deleted, Deleted}, {s.Spared, Spared}} {
		for _, o := range of.list {
			id := ObjectID{Kind: o.Kind, Hash: o.Hash}
			if _, newer := d.Dooms[id]; !newer {
				d.Dooms[id] = Doom{of.fate, s.serial, s.at, o.Size}
			}
		}
	}
}

// deletion reads one statement, and when the store took it. Those that are to
// be kept it keeps in the state directory, as long as the store shows the same.
func (r *Repository) deletion(ctx context.Context, o storage.Object, keep func(*statement.Deletion) bool) (*statement.Deletion, time.Time, error) {
	check := func(object []byte) (*statement.Deletion, error) {
		x, err := statement.ParseDeletion(object)
		if err == nil {
			err = x.Verify(r.ID(), r.desc.Owner)
		}
		if err == nil && layout.KeyDeletion(x.Host, x.Domain, x.Serial) != o.Key {
			err = fmt.Errorf("it is number %d of domain %v of host %s", x.Serial, x.Domain, x.Host)
		}
		if err != nil {
			return nil, &DamageError{Key: o.Key, What: "pending deletion", Err: err}
		}
		return x, nil
	}
	host, domain, serial, _ := layout.ParseDeletionKey(o.Key)
	file := r.pendingFile(host, domain, serial)
	if !o.Hidden && !o.Older {
		if x, err := check(r.pending(file, o)); err == nil {
			return x, o.Modified, nil
		}
	}
	object, at, err := r.listedAt(ctx, o, func(b []byte) bool { _, err := check(b); return err == nil })
	if errors.Is(err, storage.ErrNotFound) {
		err = &DamageError{Key: o.Key, What: "pending deletion", Err: err}
	}
	if err != nil {
		return nil, at, err
	}
	x, err := check(object)
	if err == nil && r.local.stateDir != "" && keep(x) {
		if err := r.keepPending(file, object, at); err != nil {
			r.warn(err)
		}
	}
	return x, at, err
}

// pendingFile is where a statement is kept in the state directory.
func (r *Repository) pendingFile(host string, domain seal.DomainID, serial uint64) string {
	return ofStore(r.place, filepath.Join("pending", host, domain.String(), layout.Inverted(serial)))
}

// pending is what is kept of an object: nil when that is another than is
// listed, as where a copy of the repository took its place.
func (r *Repository) pending(file string, o storage.Object) []byte {
	if r.local.stateDir == "" {
		return nil
	}
	info, err := r.local.dir().Stat(file)
	if err != nil || info.Size() != o.Size || info.ModTime().Sub(o.Modified).Abs() > 2*time.Second { // file systems round
		return nil
	}
	b, err := r.local.read(file)
	if err != nil {
		return nil
	}
	return b
}

// keepPending keeps a statement under the time at which the store took it.
func (r *Repository) keepPending(file string, object []byte, at time.Time) error {
	if err := r.local.write(file, object); err != nil {
		return err
	}
	if err := r.local.dir().Chtimes(file, at, at); err != nil {
		return r.local.wrap(err)
	}
	return nil
}
