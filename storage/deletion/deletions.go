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

// State of an object according to the pending deletions of its domain.
type State uint8

// States of an object.
const (
	Announced State = iota + 1 // to be deleted
	Deleted
	Spared // needed again
)

// Status is the state of one object, and since when it has it.
type Status struct {
	State  State
	Serial uint64    // of the statement with this state
	At     time.Time // when the store took that statement
}

// Deletions are what was announced and deleted in a domain. They may name every pack
// that was ever stored, so they take only some 80 bytes for each.
type Deletions struct {
	Newest uint64 // the highest serial that counts; 0 for none
	// Repacks name what packs were rewritten into, the newest first.
	Repacks []Repack

	states     map[ObjectID][3]packedState // by signer
	statements []stored                    // that the states point to
	byHost     map[uint64][32]byte         // hashes of the host's statements among those of byCurrent, by serial
	numbers    ledger.Numbers
	since      uint64             // statements before it do not count any more
	rewritten  map[[32]byte][]int // positions in Repacks, by old pack
}

// signer selects the statements that count, by who signed them.
type signer int

const (
	byAnybody signer = iota // the owner, or any key that the host had
	byCurrent               // the owner, or the current key of the host
	byOwner                 // see Elsewhere
)

// packedState is the state of an object, in the lowest two bits, and above them the
// position of its statement in Deletions.statements; 0 when there is none.
type packedState uint32

// stored is a statement, and when the store took it.
type stored struct {
	serial uint64
	at     time.Time
}

func newDeletions() *Deletions {
	return &Deletions{states: map[ObjectID][3]packedState{}, byHost: map[uint64][32]byte{}, rewritten: map[[32]byte][]int{}}
}

func (d *Deletions) status(s packedState) Status {
	if s == 0 {
		return Status{}
	}
	by := d.statements[s>>2]
	return Status{State(s & 3), by.serial, by.at}
}

// Of is the status of an object; the zero Status when no statement names it.
func (d *Deletions) Of(o ObjectID) Status { return d.status(d.states[o][byAnybody]) }

// All yields all objects that a statement names, in no order.
func (d *Deletions) All() iter.Seq2[ObjectID, Status] { return d.by(byAnybody) }

func (d *Deletions) by(who signer) iter.Seq2[ObjectID, Status] {
	return func(yield func(ObjectID, Status) bool) {
		for o, of := range d.states {
			if of[who] != 0 && !yield(o, d.status(of[who])) {
				return
			}
		}
	}
}

// Binding is the pending deletions that a machine may act on when it deletes.
type Binding struct {
	d     *Deletions
	who   signer
	since map[uint64]time.Time // by serial, the earliest time from which a statement counts
}

// Of is the status of an object; the zero Status when no statement that counts names it.
func (b *Binding) Of(o ObjectID) Status { return b.dated(b.d.status(b.d.states[o][b.who])) }

// All yields all objects that a statement that counts names, in no order.
func (b *Binding) All() iter.Seq2[ObjectID, Status] {
	return func(yield func(ObjectID, Status) bool) {
		for o, status := range b.d.by(b.who) {
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

// Absent reports whether a writer must treat the object as missing. d may be nil.
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

// Elsewhere is the Binding of a machine that deletes for the host and is not the host.
// For it the waiting time starts only with an announcement of the owner. An object
// that the host spared counts as spared, because the host's captures rely on it. See
// Deletion.See for the host itself.
func (d *Deletions) Elsewhere() *Binding { return &Binding{d: d, who: byOwner} }

// Free is the serial that the next statement gets; 0 when there is none.
func (d *Deletions) Free() uint64 { return d.numbers.Free() }

// Deletion is what frees space in a repository: pending deletions, the clock of the
// store, locks. Its methods may be called concurrently.
type Deletion struct {
	t       *trust.Trust
	reserve sync.Mutex // locked while a piece of a reserve is deleted
}

// New makes a Deletion of a repository.
func New(t *trust.Trust) *Deletion { return &Deletion{t: t} }

// alwaysRead is how much older than the newest statement one may be that is read even
// where Since ends the list before it: captures rely for a day on what they read.
const alwaysRead = 72 * time.Hour

// ahead is how many statements are read in advance.
const ahead = 8

// ledger of the pending deletions of a domain. Every statement that verifies is an
// entry of it. The caller checks the certificates to find out which count.
func (x *Deletion) ledger(host string, domain seal.DomainID) *ledger.Ledger[*statement.Deletion] {
	return &ledger.Ledger[*statement.Deletion]{
		Reader: x.t.Read, Prefix: layout.PrefixDeletions(host, domain), What: "pending deletion", Limit: trust.MaxStatement, Beside: layout.PrefixEnvironments(host),
		Seen:   x.t.State.Statements(layout.PrefixDeletions(host, domain)),
		Number: func(key string) (uint64, bool) { _, _, n, ok := layout.ParseDeletionKey(key); return n, ok },
		Key:    func(d *statement.Deletion) string { return layout.KeyDeletion(d.Host, d.Domain, d.Serial) },
		Parse: func(object []byte) (*statement.Deletion, error) {
			d, err := statement.ParseDeletion(object)
			if err == nil {
				err = d.Verify(x.t.ID(), x.t.Descriptor().Owner)
			}
			return d, err
		},
		Kept: func(o storage.Object) []byte {
			host, domain, serial, _ := layout.ParseDeletionKey(o.Key)
			return x.kept(x.PendingFile(host, domain, serial), o)
		},
	}
}

// Deletions reads the pending deletions of a domain. Statements that do not
// verify are reported, and do not count.
func (x *Deletion) Deletions(ctx context.Context, host string, domain seal.DomainID) (*Deletions, error) {
	d := newDeletions()
	// Where a host was enrolled again, statements under the old key count only below
	// the first statement under the new one. In this machine's own domain their
	// repacks do not count.
	certs, err := x.t.Certificates(ctx, host)
	if err != nil {
		return nil, err
	}
	own, err := x.t.OwnDomain()
	if err != nil {
		return nil, err
	}
	ours := own != nil && own.ID == domain
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
	var known time.Time        // since when writers know the entries that come next: those below a statement that counts
	for e, err := range l.Watch(ledger.Ordered(ctx, ahead, l.List, read)) {
		if err != nil {
			return nil, fmt.Errorf("pending deletions of host %s: %w", host, err)
		}
		if !e.Counts() {
			d.numbers.Pass(e.Number, false)
			x.t.Warn(e.Err)
			continue
		}
		// Recent statements are always read. Otherwise somebody with the host's key
		// could hide from a capture what was just deleted, by a later statement.
		if e.Number < d.since && e.Stored.Before(newest.Add(-alwaysRead)) {
			break
		}
		current := counts(e.Value)
		if current && newest.IsZero() {
			newest = e.Stored
		}
		d.numbers.Pass(e.Number, current)
		if current || !ours {
			d.addRepacks(e.Value)
		}
		switch {
		case current:
			d.since = max(d.since, e.Value.Since)
			ended, known = nil, e.Stored
		case d.numbers.Newest == 0:
			ended = append(ended, e.Listed)
			continue
		case e.Stored.Before(known): // no writer knew it before
			e.Stored = known
		}
		d.add(e, current)
	}
	d.Newest = d.numbers.Newest
	// There may be any number of them, so they are read again instead of kept in memory.
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
			d.add(e, false)
		}
	}
	return d, nil
}

// add adds the objects of a statement, except for those that a newer one names.
// Statements come the newest first. current is whether it was signed by the owner, or
// under the newest certificate of the host.
func (d *Deletions) add(e ledger.Entry[*statement.Deletion], current bool) {
	owner := e.Value.Certificate == nil
	if current && !owner {
		d.byHost[e.Number] = e.Value.Hash()
	}
	at := packedState(len(d.statements)) << 2
	d.statements = append(d.statements, stored{e.Number, e.Stored})
	for _, of := range []struct {
		list  []statement.Object
		state State
	}{{e.Value.Announced, Announced}, {e.Value.Deleted, Deleted}, {e.Value.Spared, Spared}} {
		for _, o := range of.list {
			id := ObjectID{Kind: o.Kind, Hash: o.Hash}
			by := d.states[id]
			// A key that ended must neither start nor stop the waiting time of a machine
			// that deletes.
			for who, counts := range [...]bool{byAnybody: true, byCurrent: current, byOwner: current && (owner || of.state == Spared)} {
				if counts && by[who] == 0 {
					by[who] = at | packedState(of.state)
				}
			}
			d.states[id] = by
		}
	}
}

// PendingFile is where a statement is kept in the state directory.
func (x *Deletion) PendingFile(host string, domain seal.DomainID, serial uint64) string {
	return x.t.State.OfStore(filepath.Join("pending", host, domain.String(), layout.Inverted(serial)))
}

// kept is the copy of an object in the state directory; nil when the store lists
// another object there, as after a copy of the repository replaced it.
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

// keep copies a statement to the state directory; the file has the time at which the
// store took it.
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
