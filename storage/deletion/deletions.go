package deletion

import (
	"context"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// State is what the pending deletions of a domain say of an object.
type State uint8

// States of an object.
const (
	Announced State = iota + 1 // to be deleted
	Deleted
	Spared // needed again
)

// Status is what they say of one object, and since when.
type Status struct {
	State  State
	Serial uint64    // of the statement that says so
	At     time.Time // when the store took that statement
}

// Deletions are what was announced and deleted in a domain. They may name every pack
// that there ever was, so they hold some 80 bytes for each.
type Deletions struct {
	Newest uint64 // the highest serial that counts; 0 for none
	// Repacks say what packs were rewritten into, the newest first.
	Repacks []Repack

	said      map[ObjectID][3]said
	told      []told              // the statements to which said points
	byHost    map[uint64][32]byte // hashes of the host's statements among those of byPresent, by serial
	numbers   ledger.Numbers
	since     uint64             // what statements before it say counts no more
	rewritten map[[32]byte][]int // positions in Repacks, by old pack
}

// By whose word an object has a state.
const (
	byAnybody = iota
	byPresent // the owner and the host as it is now
	byOwner   // see Elsewhere
)

// said is the state of an object, in the lowest two bits, and above them the position
// in told of the statement that says so; 0 when none does.
type said uint32

type told struct {
	serial uint64
	at     time.Time
}

func newDeletions() *Deletions {
	return &Deletions{said: map[ObjectID][3]said{}, byHost: map[uint64][32]byte{}, rewritten: map[[32]byte][]int{}}
}

func (d *Deletions) status(s said) Status {
	if s == 0 {
		return Status{}
	}
	by := d.told[s>>2]
	return Status{State(s & 3), by.serial, by.at}
}

// Of is what is said of an object; the zero Status when nothing is.
func (d *Deletions) Of(o ObjectID) Status { return d.status(d.said[o][byAnybody]) }

// All yields all objects of which something is said, in no order.
func (d *Deletions) All() iter.Seq2[ObjectID, Status] { return d.by(byAnybody) }

func (d *Deletions) by(word int) iter.Seq2[ObjectID, Status] {
	return func(yield func(ObjectID, Status) bool) {
		for o, of := range d.said {
			if of[word] != 0 && !yield(o, d.status(of[word])) {
				return
			}
		}
	}
}

// Binding is what the pending deletions mean for one who deletes.
type Binding struct {
	d     *Deletions
	word  int
	since map[uint64]time.Time // before which the statements of a serial do not count
}

// Of is what is said of an object; the zero Status when nothing is.
func (b *Binding) Of(o ObjectID) Status { return b.dated(b.d.status(b.d.said[o][b.word])) }

// All yields all objects of which something is said, in no order.
func (b *Binding) All() iter.Seq2[ObjectID, Status] {
	return func(yield func(ObjectID, Status) bool) {
		for o, status := range b.d.by(b.word) {
			if !yield(o, b.dated(status)) {
				return
			}
		}
	}
}

func (b *Binding) dated(s Status) Status {
	if at := b.since[s.Serial]; at.After(s.At) {
		s.At = at
	}
	return s
}

// Absent reports whether a writer must take the object for not there. It may be
// asked of nil.
func (d *Deletions) Absent(o ObjectID) bool {
	if d == nil {
		return false
	}
	f := d.Of(o).State
	return f == Announced || f == Deleted
}

// Packs are those with one of the states.
func (d *Deletions) Packs(states ...State) map[[32]byte]bool {
	out := map[[32]byte]bool{}
	for o, status := range d.All() {
		if o.Kind == wire.KindPack && slices.Contains(states, status.State) {
			out[o.Hash] = true
		}
	}
	return out
}

// Elsewhere is what the pending deletions mean for whoever deletes and is not the
// host: a host's announcement does not start the clock of anybody else. That it
// spares an object holds for everybody: its writers go by that. See Deletion.See
// for the host itself.
func (d *Deletions) Elsewhere() *Binding { return &Binding{d: d, word: byOwner} }

// Free is the serial that the next statement gets; 0 when there is none.
func (d *Deletions) Free() uint64 { return d.numbers.Free() }

// Deletion is what frees space in a repository: pending deletions, the clock of the
// store, locks. Its methods may be called concurrently.
type Deletion struct {
	t       *trust.Trust
	reserve sync.Mutex // held while a piece of a reserve is given up
}

// New makes a Deletion of a repository.
func New(t *trust.Trust) *Deletion { return &Deletion{t: t} }

// lately is how long before the newest statement one is read that later ones say
// nothing more to be read of: captures rely for a day on what they saw.
const lately = 72 * time.Hour

// ahead is how many statements are read before they are asked for.
const ahead = 8

// ledger of the pending deletions of a domain. Every statement that verifies is an
// entry of it; which count, certs decide.
func (x *Deletion) ledger(host string, domain seal.DomainID) *ledger.Ledger[*statement.Deletion] {
	return &ledger.Ledger[*statement.Deletion]{
		Reader: x.t.Read, Prefix: layout.PrefixDeletions(host, domain), What: "pending deletion", Limit: trust.MaxStatement, Beside: layout.PrefixEnvironments(host),
		Seen:   x.t.State.Statements(layout.PrefixDeletions(host, domain)),
		Number: func(key string) (uint64, bool) { _, _, n, ok := layout.ParseDeletionKey(key); return n, ok },
		Parse: func(object []byte) (*statement.Deletion, string, error) {
			d, err := statement.ParseDeletion(object)
			if err == nil {
				err = d.Verify(x.t.ID(), x.t.Descriptor().Owner)
			}
			if err != nil {
				return nil, "", err
			}
			return d, layout.KeyDeletion(d.Host, d.Domain, d.Serial), nil
		},
		Kept: func(o storage.Object) []byte {
			host, domain, serial, _ := layout.ParseDeletionKey(o.Key)
			return x.kept(x.PendingFile(host, domain, serial), o)
		},
	}
}

// Deletions reads the pending deletions of a domain. Statements that do not
// verify are warned of, and count for nothing.
func (x *Deletion) Deletions(ctx context.Context, host string, domain seal.DomainID) (*Deletions, error) {
	d := newDeletions()
	// Of a host that was enrolled anew, what the old key says counts only below
	// the first statement since; and in the domain that this machine has as the
	// host, nothing that it says is not needed.
	certs, err := x.t.Certificates(ctx, host)
	if err != nil {
		return nil, err
	}
	own, err := x.t.OwnDomain()
	if err != nil {
		return nil, err
	}
	present := own != nil && own.ID == domain
	l := x.ledger(host, domain)
	counts := func(s *statement.Deletion) bool { return statement.CheckDeletionCertificate(s, certs) == nil }
	read := func(ctx context.Context, o storage.Object) (ledger.Entry[*statement.Deletion], error) {
		e, err := l.Read(ctx, o)
		if err == nil && e.Counts() && counts(e.Value) {
			x.keep(e)
		}
		return e, err
	}

	var ended []storage.Object // above the newest that counts
	var newest time.Time       // when the newest that counts was stored
	var known time.Time        // since when writers know what comes next: it is below a statement that counts
	for e, err := range l.Watch(ledger.Ordered(ctx, ahead, l.List, read)) {
		if err != nil {
			return nil, fmt.Errorf("pending deletions of host %s: %w", host, err)
		}
		if !e.Counts() {
			d.numbers.Pass(e.Number, false)
			x.t.Warn(e.Err)
			continue
		}
		// What was stated lately is read, whatever a later statement says of it:
		// whoever has the host's key could hide from a capture what was just deleted.
		if e.Number < d.since && e.Stored.Before(newest.Add(-lately)) {
			break
		}
		holds := counts(e.Value)
		if holds && newest.IsZero() {
			newest = e.Stored
		}
		d.numbers.Pass(e.Number, holds)
		if holds || !present {
			d.repacked(e.Value)
		}
		switch {
		case holds:
			d.since = max(d.since, e.Value.Since)
			ended, known = nil, e.Stored
		case d.numbers.Newest == 0:
			ended = append(ended, e.Listed)
			continue
		case e.Stored.Before(known): // no writer saw it before
			e.Stored = known
		}
		d.take(e, holds)
	}
	d.Newest = d.numbers.Newest
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
	for e, err := range ledger.Ordered(ctx, ahead, again, read) {
		if err != nil {
			return nil, fmt.Errorf("pending deletions of host %s: %w", host, err)
		}
		if e.Counts() {
			d.take(e, false)
		}
	}
	return d, nil
}

// take takes in what a statement says, except for what a newer one says
// otherwise; statements come the newest first. holds is whether it was signed by
// the owner, or under the newest certificate of the host.
func (d *Deletions) take(e ledger.Entry[*statement.Deletion], holds bool) {
	signed := e.Value.Certificate == nil // by the owner
	if holds && !signed {
		d.byHost[e.Number] = e.Value.Hash()
	}
	at := said(len(d.told)) << 2
	d.told = append(d.told, told{e.Number, e.Stored})
	for _, of := range []struct {
		list  []statement.Object
		state State
	}{{e.Value.Announced, Announced}, {e.Value.Deleted, Deleted}, {e.Value.Spared, Spared}} {
		for _, o := range of.list {
			id := ObjectID{Kind: o.Kind, Hash: o.Hash}
			by := d.said[id]
			// Whoever has a key that ended cannot start the clock of anybody who
			// deletes, nor stop it.
			for word, counts := range [...]bool{byAnybody: true, byPresent: holds, byOwner: holds && (signed || of.state == Spared)} {
				if counts && by[word] == 0 {
					by[word] = at | said(of.state)
				}
			}
			d.said[id] = by
		}
	}
}

// PendingFile is where a statement is kept in the state directory.
func (x *Deletion) PendingFile(host string, domain seal.DomainID, serial uint64) string {
	return x.t.State.OfStore(filepath.Join("pending", host, domain.String(), layout.Inverted(serial)))
}

// kept is what is kept of an object: nil when that is another than is listed, as
// where a copy of the repository took its place.
func (x *Deletion) kept(file string, o storage.Object) []byte {
	if x.t.State.None() {
		return nil
	}
	info, err := x.t.State.Dir().Stat(file)
	if err != nil || info.Size() != o.Size || info.ModTime().Sub(o.Modified).Abs() > 2*time.Second { // file systems round
		return nil
	}
	b, err := x.t.State.Read(file)
	if err != nil {
		return nil
	}
	return b
}

// keep keeps a statement under the time at which the store took it.
func (x *Deletion) keep(e ledger.Entry[*statement.Deletion]) {
	file := x.PendingFile(e.Value.Host, e.Value.Domain, e.Number)
	if x.t.State.None() || x.kept(file, e.Listed) != nil {
		return
	}
	err := x.t.State.Write(file, e.Object)
	if err == nil {
		if err = x.t.State.Dir().Chtimes(file, e.Stored, e.Stored); err != nil {
			err = x.t.State.Wrap(err)
		}
	}
	if err != nil {
		x.t.Warn(err)
	}
}
