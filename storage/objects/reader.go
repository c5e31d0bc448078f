package objects

import (
	"context"
	"crypto/cipher"
	"fmt"
	"sync"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
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

	mu       sync.Mutex
	sessions map[seal.SessionID]seal.SealedSession
	keys     map[pack.Ref]cipher.AEAD // by all that makes them: what names a pack may name it wrongly
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

// AddSessions makes sealed sessions known, so that packs' trailers need not
// be read.
func (r *Reader) AddSessions(sealed []seal.SealedSession) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range sealed {
		if len(r.sessions) >= maxKeys {
			return
		}
		r.sessions[s.ID] = s
	}
}

// of reads objects of a kind.
func (r *Reader) of(kind wire.Kind) *stored {
	if kind == wire.KindManifest {
		return r.containers
	}
	return r.packs
}

// Read appends length bytes of an object from offset to dst, from beneath the
// current view where that has nothing there. The error is *authentic.DamageError
// when the object is missing or shorter than that.
func (r *Reader) Read(ctx context.Context, dst []byte, kind wire.Kind, hash [32]byte, offset, length int64) ([]byte, error) {
	s := r.of(kind)
	return s.Range(ctx, dst, s.key(hash), hash, offset, length)
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

// Key is the frame key of an object.
func (r *Reader) Key(ctx context.Context, kind wire.Kind, ref *pack.Ref) (cipher.AEAD, error) {
	r.mu.Lock()
	key, ok := r.keys[*ref]
	sealed, known := r.sessions[ref.Session]
	r.mu.Unlock()
	if ok {
		return key, nil
	}
	if !known {
		tail, err := r.of(kind).tail(ctx, ref.Hash, -1)
		if err != nil {
			return nil, err
		}
		if tail.Session.ID != ref.Session || tail.Salt != ref.Salt {
			return nil, fmt.Errorf("%v %x: its trailer names another session than the manifest: %w", kind, ref.Hash, wire.ErrMalformed)
		}
		sealed = tail.Session
		r.AddSessions([]seal.SealedSession{sealed})
	}
	session, err := r.repo.t.OpenSession(ctx, sealed)
	if err != nil {
		return nil, err
	}
	key = session.FrameKey(kind, r.repo.t.ID(), r.ID, ref.Salt)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keys) >= maxKeys {
		clear(r.keys)
	}
	r.keys[*ref] = key
	return key, nil
}

// Open opens a sealed frame that was read from offset of an object and
// appends its content to dst. It reuses sealed's memory.
func (r *Reader) Open(ctx context.Context, dst []byte, kind wire.Kind, ref *pack.Ref, offset uint32, sealed []byte) ([]byte, error) {
	key, err := r.Key(ctx, kind, ref)
	if err != nil {
		return nil, err
	}
	plaintext, err := pack.OpenFrame(key, kind, int(offset), sealed)
	if err != nil {
		return nil, r.of(kind).damaged(ref.Hash, err)
	}
	content, err := r.dec.Content(dst, kind, plaintext)
	if err != nil {
		return nil, r.of(kind).damaged(ref.Hash, err)
	}
	return content, nil
}

// Frame reads and opens one frame, from beneath the current view where that
// shows other bytes.
func (r *Reader) Frame(ctx context.Context, kind wire.Kind, ref *pack.Ref, offset, length uint32) ([]byte, error) {
	var content []byte
	s := r.of(kind)
	err := s.Verified(ctx, s.key(ref.Hash), ref.Hash, func() error {
		sealed, err := r.Read(ctx, nil, kind, ref.Hash, int64(offset), int64(length))
		if err != nil {
			return err
		}
		content, err = r.Open(ctx, nil, kind, ref, offset, sealed)
		return err
	})
	return content, err
}

// Contents are the trailer and the opened contents of an object that a listing, or
// what refers to it, says is size bytes long; a negative size is looked up.
func (r *Reader) Contents(ctx context.Context, kind wire.Kind, hash [32]byte, size int64) (*pack.Tail, *pack.Contents, error) {
	return r.of(kind).contents(ctx, hash, size)
}
