package repository

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// ObjectID names a pack or a manifest container of a domain.
type ObjectID struct {
	Kind wire.Kind
	Hash [32]byte
}

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
		return r.store.List(ctx, storage.ListOptions{Prefix: statement.PrefixDeletions(host, domain), Hidden: true})
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
		_, _, serial, ok := statement.ParseDeletionKey(o.Key)
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
			id := ObjectID{o.Kind, o.Hash}
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
		if err == nil && statement.KeyDeletion(x.Host, x.Domain, x.Serial) != o.Key {
			err = fmt.Errorf("it is number %d of domain %v of host %s", x.Serial, x.Domain, x.Host)
		}
		if err != nil {
			return nil, &DamageError{Key: o.Key, What: "pending deletion", Err: err}
		}
		return x, nil
	}
	host, domain, serial, _ := statement.ParseDeletionKey(o.Key)
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
	return ofStore(r.url, filepath.Join("pending", host, domain.String(), statement.Inverted(serial)))
}

// pending is what is kept of an object: nil when that is another than is
// listed, as where a copy of the repository took its place.
func (r *Repository) pending(file string, o storage.Object) []byte {
	if r.local.stateDir == "" {
		return nil
	}
	info, err := os.Stat(filepath.Join(r.local.dir(), file))
	if err != nil || info.Size() != o.Size || !info.ModTime().Equal(o.Modified) {
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
	if err := os.Chtimes(filepath.Join(r.local.dir(), file), at, at); err != nil {
		return r.local.wrap(err)
	}
	return nil
}

// signer is who may sign for a host here: this machine as that host, else the
// owner, which takes an identity.
func (r *Repository) signer(ctx context.Context, host string) (ed25519.PrivateKey, *statement.Certificate, error) {
	h, err := r.Host(ctx)
	if err == nil && h.Name == host {
		return h.key, h.Certificate, nil
	}
	if err != nil && !errors.Is(err, ErrNotEnrolled) && !errors.Is(err, ErrCloned) {
		return nil, nil, err
	}
	owner, err := r.OwnerKey(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("this machine is not host %s, so it takes the owner key: %w", host, err)
	}
	return owner, nil, nil
}

// MaySign tells whether this machine can sign for a host: as that host, or with
// an identity as the owner. The error is ErrNoUsableIdentity when it cannot.
func (r *Repository) MaySign(ctx context.Context, host string) error {
	_, _, err := r.signer(ctx, host)
	return err
}

// TellDeletions publishes what is announced, deleted and spared in a domain,
// as statements after d.Newest, one at least; what they say of order and size
// is seen to here. since is the lowest serial that still has something to say,
// of those before; 0 when nothing has. The last statement says so: until it is
// there, what they would say again counts.
func (r *Repository) TellDeletions(ctx context.Context, host string, domain seal.DomainID, d *Deletions, announced, deleted, spared []statement.Object, repacks []statement.Repack, since uint64, now time.Time) error {
	key, cert, err := r.signer(ctx, host)
	if err != nil {
		return err
	}
	in := d.serials
	if since == 0 {
		since = in.newest + 1
	}
	lists := [3][]statement.Object{announced, deleted, spared}
	for i := range lists {
		lists[i] = slices.SortedFunc(slices.Values(lists[i]), statement.CompareObjects)
	}
	var parts []statement.Repack
	for _, x := range repacks {
		parts = append(parts, x.Split(statement.MaxDeletionObjects)...)
	}
	for more := true; more; {
		serial := in.next()
		if serial == 0 {
			return fmt.Errorf("pending deletions of host %s: %w", host, noSerialLeft(host))
		}
		x := &statement.Deletion{Repository: r.ID(), Host: host, Domain: domain, Serial: serial, Since: since, Made: now, Certificate: cert}
		room := statement.MaxDeletionObjects
		for len(parts) > 0 && (parts[0].Hashes() <= room || len(x.Repacks) == 0) {
			room -= min(room, parts[0].Hashes())
			x.Repacks, parts = append(x.Repacks, parts[0]), parts[1:]
		}
		for i, part := range []*[]statement.Object{&x.Announced, &x.Deleted, &x.Spared} {
			n := min(room, len(lists[i]))
			*part, lists[i] = lists[i][:n], lists[i][n:]
			room -= n
		}
		if more = len(lists[0])+len(lists[1])+len(lists[2])+len(parts) > 0; more {
			x.Since = min(since, max(d.since, 1))
		}
		object, err := x.Encode(key)
		if err != nil {
			return err
		}
		err = r.put(ctx, statement.KeyDeletion(host, domain, serial), object, now)
		if errors.Is(err, storage.ErrExists) {
			return fmt.Errorf("pending deletions of host %s: another process prunes it just now: let it end, then run again (%w)", host, err)
		}
		if err != nil {
			return err
		}
		if r.local.stateDir != "" { // where a daemon beside this process finds it
			if err := r.local.write(r.pendingFile(host, domain, serial), object); err != nil {
				r.warn(err)
			}
		}
		in.pass(serial, true)
	}
	return nil
}
