package history

import (
	"context"
	"errors"
	"fmt"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/localstate"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// environment is what verifying the roots of one environment takes.
type environment struct {
	*Roots
	host, name string
	certs      []*statement.Certificate
	known      *statement.Head     // the newest that this machine saw; nil when it saw none
	roots      map[uint64][32]byte // all that it saw
	ledger     *ledger.Ledger[*statement.Root]
	copies     *copies

	denied *Snapshot // the oldest that counts though one that the newest follows denies it

	gap bool // none is listed before the one that was yielded last, and it is not remembered

	catalogued bool // catalogues are read

	listed uint64 // the newest that a listing shows, where the one that is known is above it

	skip statement.Numbers // of roots that need not be there, and are not asked for
}

func (h *Roots) environment(ctx context.Context, host, env string) (*environment, error) {
	if err := layout.ValidName(host); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	if err := layout.ValidName(env); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	e := &environment{Roots: h, host: host, name: env}
	var err error
	if e.known, err = h.t.State.Head(host, env); err != nil {
		return nil, err
	}
	if e.roots, err = h.t.State.Roots(host, env); err != nil {
		return nil, err
	}
	if e.known != nil {
		e.roots[e.known.Number] = e.known.Hash
	}
	if e.certs, err = h.t.Certificates(ctx, host); err != nil {
		return nil, err
	}
	e.ledger = &ledger.Ledger[*statement.Root]{
		Reader: h.t.Read, Prefix: layout.PrefixRoots(host, env), What: "root", Limit: trust.MaxStatement, Beside: layout.PrefixEnvironments(host),
		Number: func(key string) (uint64, bool) { _, _, n, ok := layout.ParseRootKey(key); return n, ok },
		Key:    func(x *statement.Root) string { return layout.KeyRoot(x.Host, x.Environment, x.Number) },
		Parse:  e.parse, Expect: e.expect,
	}
	e.copies = newCopies(e)
	e.ledger.Kept = e.copies.of
	return e, nil
}

// parse verifies an object as a root of the environment.
func (e *environment) parse(object []byte) (*statement.Root, error) {
	root, err := statement.ParseRoot(object)
	if err == nil {
		err = statement.CheckRootCertificate(root, e.certs, e.t.Descriptor().Owner, e.t.ID())
	}
	return root, err
}

// expect refuses another root than the one that this machine saw.
func (e *environment) expect(n uint64, root *statement.Root) error {
	hash, known := e.roots[n]
	if !known || root.Hash() == hash {
		return nil
	}
	return &authentic.TamperError{What: "root " + e.key(n), Key: e.key(n), Remembered: fmt.Sprintf("%s@%d (%x)", e.name, n, hash), Found: fmt.Sprintf("%x", root.Hash()),
		Hint: "the history was forked: another machine signs with this host's key, or the store went back. What is remembered lies in " + e.files()}
}

// files are where the memory of the environment lies, for messages.
func (e *environment) files() string {
	dir := e.t.State.Dir()
	return dir.Path(localstate.HeadFile(e.host, e.name)) + " " + dir.Path(localstate.RootsFile(e.host, e.name))
}

func (e *environment) key(n uint64) string { return layout.KeyRoot(e.host, e.name, n) }

// pinned reports whether a snapshot is one that this machine saw before.
func (e *environment) pinned(s *Snapshot) bool { return e.roots[s.Number] == s.ID }

// read reads and verifies the root that a listing shows.
func (e *environment) read(ctx context.Context, o storage.Object) (*Snapshot, error) {
	entry, err := e.ledger.Read(ctx, o)
	if err != nil {
		return nil, err
	}
	return e.snapshot(ctx, entry)
}

// root is read for a number, which need not have been listed.
func (e *environment) root(ctx context.Context, n uint64) (*Snapshot, error) {
	entry, err := e.ledger.Get(ctx, e.key(n))
	if err != nil {
		return nil, err
	}
	return e.snapshot(ctx, entry)
}

// snapshot opens a verified root's body with what is at hand.
func (e *environment) snapshot(ctx context.Context, entry ledger.Entry[*statement.Root]) (*Snapshot, error) {
	if entry.Err != nil {
		if e.known != nil && entry.Number == e.known.Number && errors.Is(entry.Err, storage.ErrNotFound) {
			return nil, e.rolledBack()
		}
		return nil, entry.Err
	}
	root := entry.Value
	s := &Snapshot{Host: root.Host, Environment: root.Environment, Number: root.Number, ID: root.Hash(), Root: root, Size: int64(len(root.Bytes())), Stored: entry.Stored, listed: entry.Listed}
	domain, err := e.t.Domain(ctx, root)
	if err != nil || domain == nil {
		return s, err
	}
	record, err := seal.OpenOnce(domain.RootKey(root.Salt), root.SealedBody, nil)
	if err == nil {
		s.Body, err = statement.ParseRootBody(record)
	}
	if err != nil {
		return nil, &authentic.DamageError{Key: e.key(s.Number), What: "root", Err: err}
	}
	s.Domain = domain
	return s, nil
}

// rolledBack is the error where the head that is remembered is gone.
func (e *environment) rolledBack() error {
	found := "no such snapshot"
	if e.listed > 0 {
		found = fmt.Sprintf("%s@%d as the newest", e.name, e.listed)
	}
	return &authentic.TamperError{What: fmt.Sprintf("environment %s of host %s was rolled back", e.name, e.host),
		Remembered: fmt.Sprintf("%s@%d (%x)", e.name, e.known.Number, e.known.Hash), Found: found,
		Hint: "Older ones can still be restored by number. If you removed them yourself, run on the host: knowngood init --join --reenrol; on other machines: rm " + e.files()}
}

// warnOfGap warns that no root is listed before a snapshot: roots are never deleted.
// Where the number before is forgotten there may never have been one.
func (e *environment) warnOfGap(ctx context.Context, s *Snapshot) error {
	x, err := e.tombstones.Tombstone(ctx, e.host, e.name)
	if err != nil || x != nil && x.Forgotten.Has(s.Number-1) {
		return err
	}
	e.t.Warn(&authentic.TamperError{What: "root " + e.key(s.Number-1), Key: e.key(s.Number - 1), Remembered: fmt.Sprintf("that there is %s@%d, because roots are never deleted", e.name, s.Number-1), Found: "none",
		Hint: fmt.Sprintf("nothing shows that %s follows what was captured before: `knowngood list %s` shows what is missing", s.Ref(), e.name)})
	return nil
}

// unlike is the error where a root does not name the one before it. It is nil, and the
// newer one is reported, where the store shows that it took the older one first, and
// that this is the first one at its key: whoever holds the host's key can sign a root
// that names any other, and must not bring the one before it into doubt.
func (e *environment) unlike(ctx context.Context, newer, s *Snapshot) error {
	first := false
	if s.Stored.Before(newer.Stored) {
		var err error
		if first, err = e.t.Read.First(ctx, e.key(s.Number), s.Stored); err != nil {
			return err
		}
	}
	if first {
		e.t.Warn(&authentic.TamperError{What: "root " + e.key(newer.Number), Key: e.key(newer.Number), Remembered: fmt.Sprintf("%s (%x), which the store took before", s.Ref(), s.ID), Found: fmt.Sprintf("%s, which names %x in its place", newer.Ref(), newer.Root.Previous),
			Hint: fmt.Sprintf("whoever signed %s with the host's key did not know, or denies, %s, which counts", newer.Ref(), s.Ref())})
		return nil
	}
	return &authentic.TamperError{What: "root " + e.key(s.Number), Key: e.key(s.Number), Remembered: fmt.Sprintf("%x by %s", newer.Root.Previous, newer.Ref()), Found: fmt.Sprintf("%x", s.ID),
		Hint: "the history was forked: two machines sign with this host's key, or a root was replaced"}
}
