package objects

import (
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// maxKeys bounds how many frame keys and sealed sessions a Reader remembers.
const maxKeys = 8192

// Reader reads the packs and containers of one host and domain with an
// identity. Its methods may be called concurrently.
type Reader struct {
	domain
	dec               *pack.Decompressor
	packs, containers *stored
	places            places
	segments          segmentCopies
	lists             wholeLists

	mu       sync.Mutex
	sessions map[seal.SessionID]seal.SealedSession // as the ends of objects that were read have them
	keys     map[pack.Ref]cipher.AEAD              // by all that makes them: what names a pack may name it wrongly
	ends     struct {                              // of all objects of the domain, read when the end of one is damaged
		once     sync.Once
		sessions map[seal.SessionID]seal.SealedSession
		err      error
	}
}

// NewReader reads what lies under a snapshot. The snapshot's domain must be
// open, by an identity or because it is this host's own.
func (r *Objects) NewReader(host string, keys *seal.Domain) *Reader {
	d := domain{keys, r, host}
	return &Reader{domain: d, dec: pack.NewDecompressor(), packs: d.stored(wire.KindPack), containers: d.stored(wire.KindManifest),
		sessions: map[seal.SessionID]seal.SealedSession{}, keys: map[pack.Ref]cipher.AEAD{}}
}

// Domain whose objects are read.
func (r *Reader) Domain() *seal.Domain { return r.domain.Domain }

// Host whose objects are read.
func (r *Reader) Host() string { return r.host }

// Store that is read.
func (r *Reader) Store() storage.Store { return r.repo.t.Store() }

// of reads objects of a kind.
func (r *Reader) of(kind wire.Kind) *stored {
	if kind == wire.KindManifest {
		return r.containers
	}
	return r.packs
}

// Read appends length bytes of an object from offset to dst, from beneath the
// current view where that has nothing there. A small object is read whole, so that
// opening its frames asks nothing more of the store. The error is
// *authentic.DamageError when the object is missing or shorter than that.
func (r *Reader) Read(ctx context.Context, dst []byte, ref *pack.Ref, offset, length int64) ([]byte, error) {
	s := r.of(ref.Kind)
	if !ref.Small() {
		return s.Range(ctx, dst, s.key(ref.Hash), ref.Hash, offset, length)
	}
	if offset+length > int64(ref.Size) {
		return nil, s.damaged(ref.Hash, fmt.Errorf("it is %d bytes long, at least %d are needed", ref.Size, offset+length))
	}
	var object []byte
	err := s.Verified(ctx, s.key(ref.Hash), ref.Hash, func() (err error) {
		object, err = s.Range(ctx, object[:0], s.key(ref.Hash), ref.Hash, 0, int64(ref.Size))
		if err == nil && sha256.Sum256(object) != ref.Hash {
			err = s.damaged(ref.Hash, errors.New("its bytes are not those of its name"))
		}
		return err
	})
	// Of damaged bytes the frames may still be good: they are verified one by one.
	if err != nil && (!authentic.Damaged(err) || len(object) != int(ref.Size)) {
		return nil, err
	}
	r.learn(ctx, ref, object)
	return append(dst, object[offset:offset+length]...), nil
}

// ReadEnd reads an object from offset to its end, so that opening its frames asks
// nothing more of the store. The error is as that of Read.
func (r *Reader) ReadEnd(ctx context.Context, ref *pack.Ref, offset int64) ([]byte, error) {
	b, err := r.Read(ctx, nil, ref, offset, int64(ref.Size)-offset)
	if err == nil && !ref.Small() {
		r.learn(ctx, ref, b)
	}
	return b, err
}

// learn remembers the frame key of an object, from its end. An end that opens nothing
// is no error here: it is reported when the key is needed.
func (r *Reader) learn(ctx context.Context, ref *pack.Ref, end []byte) {
	if tail, err := pack.ParseTail(ref.Kind, end, int64(ref.Size)); err == nil && tail.Repository == r.repo.t.ID() {
		_, _ = r.frameKey(ctx, ref, tail.Session, tail.Salt)
	}
}

// Whole reads an object whole into dst's memory and verifies its hash, from
// beneath the current view where that shows other bytes, or, by its listed size, more
// than an object may have; listed is negative when that is not known. With
// *authentic.DamageError it may return the bytes that there are.
func (r *Reader) Whole(ctx context.Context, dst []byte, kind wire.Kind, hash [32]byte, listed int64) ([]byte, error) {
	s := r.of(kind)
	return s.Whole(ctx, dst, s.key(hash), hash, listed)
}

// Compare reads an object as Whole does, keeps nothing of it in memory, and calls
// done, unless it is nil, with how many bytes were read.
func (r *Reader) Compare(ctx context.Context, id ID, listed int64, done func(bytes int)) error {
	return r.of(id.Kind).compare(ctx, id.Hash, listed, done)
}

// named is a reference as the frame key of its object is remembered by.
func named(ref *pack.Ref) pack.Ref {
	if ref.Small() {
		return pack.Ref{Kind: ref.Kind, Hash: ref.Hash, Size: ref.Size}
	}
	return *ref
}

// key is the frame key of an object. The sealed secret of its session may be known
// from another object; with own it is taken from the object itself.
func (r *Reader) key(ctx context.Context, ref *pack.Ref, own bool) (cipher.AEAD, error) {
	at := named(ref)
	r.mu.Lock()
	key, ok := r.keys[at]
	sealed, known := r.sessions[at.Session]
	r.mu.Unlock()
	switch {
	case own:
	case ok:
		return key, nil
	case known && at.Session != seal.SessionID{}:
		return r.frameKey(ctx, ref, sealed, at.Salt)
	}
	made, err := r.ownKey(ctx, ref)
	if errors.Is(err, trust.ErrNoUsableIdentity) {
		// Whoever puts an object over another can name any epoch in it.
		if err := r.of(ref.Kind).compare(ctx, ref.Hash, int64(ref.Size), nil); err != nil {
			return nil, err
		}
		made, err = r.ownKey(ctx, ref)
	}
	if authentic.Damaged(err) && at.Session != (seal.SessionID{}) {
		// Other objects of the run have its session, too.
		sealed, ok, serr := r.sessionElsewhere(ctx, at.Session)
		if serr != nil {
			return nil, serr
		}
		if ok {
			return r.frameKey(ctx, ref, sealed, at.Salt)
		}
	}
	return made, err
}

// ownKey is the frame key of an object by its own trailer.
func (r *Reader) ownKey(ctx context.Context, ref *pack.Ref) (cipher.AEAD, error) {
	tail, err := r.of(ref.Kind).tail(ctx, ref.Hash, int64(ref.Size))
	if err != nil {
		return nil, err
	}
	if at := named(ref); at.Session != (seal.SessionID{}) && (tail.Session.ID != at.Session || tail.Salt != at.Salt) {
		return nil, fmt.Errorf("%v %x: its trailer names another session than the manifest: %w", ref.Kind, ref.Hash, wire.ErrMalformed)
	}
	return r.frameKey(ctx, ref, tail.Session, tail.Salt)
}

// sessionElsewhere looks for the sealed secret of a session at the ends of all
// objects of the domain, which are read once.
func (r *Reader) sessionElsewhere(ctx context.Context, id seal.SessionID) (sealed seal.SealedSession, ok bool, err error) {
	r.ends.once.Do(func() {
		r.ends.sessions = map[seal.SessionID]seal.SealedSession{}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(tailsInFlight)
		objects, err := r.list(ctx, map[wire.Kind]int{wire.KindPack: 1, wire.KindManifest: 1})
		for _, o := range objects {
			g.Go(func() error {
				tail, err := r.of(o.Kind).tail(gctx, o.Hash, int64(o.Size))
				if err == nil {
					_, err = r.repo.t.OpenSession(gctx, tail.Session)
				}
				if err != nil {
					if authentic.Damaged(err) || errors.Is(err, trust.ErrNoUsableIdentity) {
						return nil
					}
					return err
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				r.ends.sessions[tail.Session.ID] = tail.Session
				return nil
			})
		}
		if r.ends.err = g.Wait(); err != nil {
			r.ends.err = err
		}
	})
	sealed, ok = r.ends.sessions[id]
	return sealed, ok, r.ends.err
}

// frameKey makes the frame key of an object, and remembers it.
func (r *Reader) frameKey(ctx context.Context, ref *pack.Ref, sealed seal.SealedSession, salt seal.Salt) (cipher.AEAD, error) {
	session, err := r.repo.t.OpenSession(ctx, sealed)
	if err != nil {
		return nil, err
	}
	key := session.FrameKey(ref.Kind, r.repo.t.ID(), r.ID, salt)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keys) >= maxKeys {
		clear(r.keys)
	}
	if len(r.sessions) >= maxKeys {
		clear(r.sessions)
	}
	r.keys[named(ref)] = key
	r.sessions[sealed.ID] = sealed
	return key, nil
}

// Open opens a sealed frame that was read from offset of an object and
// appends its content to dst, as pack.Decompressor.Content does. It reuses sealed's
// memory.
func (r *Reader) Open(ctx context.Context, dst []byte, ref *pack.Ref, offset uint32, sealed []byte) ([]byte, error) {
	return r.open(ctx, dst, ref, offset, sealed, false)
}

func (r *Reader) open(ctx context.Context, dst []byte, ref *pack.Ref, offset uint32, sealed []byte, own bool) ([]byte, error) {
	key, err := r.key(ctx, ref, own)
	if err != nil {
		return nil, err
	}
	plaintext, err := pack.OpenFrame(key, ref.Kind, int(offset), sealed)
	if err != nil {
		return nil, r.of(ref.Kind).damaged(ref.Hash, err)
	}
	content, err := r.dec.Content(dst, ref.Kind, plaintext)
	if err != nil {
		return nil, r.of(ref.Kind).damaged(ref.Hash, err)
	}
	return content, nil
}

// Frame reads and opens one frame, from beneath the current view where that
// shows other bytes, with the session that stands in the object itself.
func (r *Reader) Frame(ctx context.Context, ref *pack.Ref, offset, length uint32) ([]byte, error) {
	var content []byte
	s := r.of(ref.Kind)
	own := false
	err := s.Verified(ctx, s.key(ref.Hash), ref.Hash, func() error {
		sealed, err := r.Read(ctx, nil, ref, int64(offset), int64(length))
		if err != nil {
			return err
		}
		content, err = r.open(ctx, nil, ref, offset, sealed, own)
		if authentic.Damaged(err) && !own {
			own = true
			if sealed, err = r.Read(ctx, nil, ref, int64(offset), int64(length)); err == nil {
				content, err = r.open(ctx, nil, ref, offset, sealed, own)
			}
		}
		return err
	})
	return content, err
}

// Contents are the trailer and the opened contents of an object that a listing, or
// what refers to it, states is size bytes long; a negative size is looked up.
func (r *Reader) Contents(ctx context.Context, kind wire.Kind, hash [32]byte, size int64) (*pack.Tail, *pack.Contents, error) {
	return r.of(kind).contents(ctx, hash, size)
}

// Objects are all objects that the snapshot of a root needs, its container being
// the last, as the root was signed for them.
func (r *Reader) Objects(ctx context.Context, b *statement.RootBody) ([]pack.Object, error) {
	m := &b.Manifest
	own := pack.Object{Kind: m.Kind, Hash: m.Hash, Size: m.Size}
	in := r.of(m.Kind)
	objects, known := r.lists.known(m.Hash)
	if known && pack.ObjectsDigest(objects) == b.Objects {
		return append(slices.Clip(objects), own), nil
	}
	in.want(m.Hash)
	damage := func(err error) error { return in.damaged(m.Hash, err) }
	err := in.Verified(ctx, in.key(m.Hash), m.Hash, func() error {
		_, contents, err := in.contents(ctx, m.Hash, int64(m.Size))
		if err != nil {
			return err
		}
		differs := contents.List.Differs()
		var base []pack.Object
		if differs {
			if base, err = r.baseList(ctx, &contents.List.Base); err != nil {
				return err
			}
		}
		if objects, err = contents.List.Whole(base); err != nil {
			return damage(err)
		}
		if pack.ObjectsDigest(objects) != b.Objects {
			return damage(errors.New("its list of objects is not the one that the root was signed for"))
		}
		if !differs {
			r.lists.remember(m.Hash, objects)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return append(slices.Clip(objects), own), nil
}

// maxLists bounds how many lists of objects a Reader remembers, from which others
// differ.
const maxLists = 16

// baseList is the whole list that an object holds. Those who want the same one at once
// wait for one read.
func (r *Reader) baseList(ctx context.Context, of *pack.Object) ([]pack.Object, error) {
	r.lists.reading.Lock()
	defer r.lists.reading.Unlock()
	if list, known := r.lists.known(of.Hash); known {
		return list, nil
	}
	in := r.of(of.Kind)
	object, err := in.Whole(ctx, nil, in.key(of.Hash), of.Hash, -1)
	if err != nil {
		return nil, err
	}
	var contents *pack.Contents
	tail, err := pack.ParseTail(of.Kind, object, int64(len(object)))
	if err == nil {
		contents, err = tail.Contents(of.Kind, r.domain.Domain)
	}
	if err == nil && contents.List.Differs() {
		err = errors.New("its list of objects is not whole")
	}
	if err != nil {
		return nil, in.damaged(of.Hash, err)
	}
	r.lists.remember(of.Hash, contents.List.Added)
	return contents.List.Added, nil
}

// wholeLists are whole lists of objects, from which others differ, by the objects that
// hold them.
type wholeLists struct {
	reading sync.Mutex // held while one is read: its object may be large

	mu sync.Mutex
	in map[[32]byte][]pack.Object
}

func (l *wholeLists) known(in [32]byte) (list []pack.Object, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, known = l.in[in]
	return list, known
}

func (l *wholeLists) remember(in [32]byte, list []pack.Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.in == nil || len(l.in) >= maxLists {
		l.in = map[[32]byte][]pack.Object{}
	}
	l.in[in] = list
}
