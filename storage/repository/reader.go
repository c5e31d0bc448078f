package repository

import (
	"context"
	"crypto/cipher"
	"errors"
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
	repo   *Repository
	host   string
	domain *seal.Domain
	dec    *pack.Decompressor
	lazy   lazyIndex

	mu       sync.Mutex
	sessions map[seal.SessionID]seal.SealedSession
	keys     map[[32]byte]cipher.AEAD
}

// NewReader reads what lies under a snapshot. The snapshot's domain must be
// open, by an identity or because it is this host's own.
func (r *Repository) NewReader(host string, domain *seal.Domain) *Reader {
	return &Reader{repo: r, host: host, domain: domain, dec: pack.NewDecompressor(),
		sessions: map[seal.SessionID]seal.SealedSession{}, keys: map[[32]byte]cipher.AEAD{}}
}

// Domain whose objects are read.
func (r *Reader) Domain() *seal.Domain { return r.domain }

// Host whose objects are read.
func (r *Reader) Host() string { return r.host }

// Repository that is read.
func (r *Reader) Repository() *Repository { return r.repo }

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

// Read reads length bytes of an object from offset.
func (r *Reader) Read(ctx context.Context, kind wire.Kind, hash [32]byte, offset, length int64) ([]byte, error) {
	key := objectKey(kind, r.host, r.domain.ID, hash)
	b, err := storage.ReadAll(ctx, r.repo.Store(), key, offset, length)
	if errors.Is(err, storage.ErrNotFound) {
		return r.repo.readHidden(ctx, key, hash, offset, length, err)
	}
	return b, err
}

// Key is the frame key of an object.
func (r *Reader) Key(ctx context.Context, kind wire.Kind, ref *pack.Ref) (cipher.AEAD, error) {
	r.mu.Lock()
	key, ok := r.keys[ref.Hash]
	sealed, known := r.sessions[ref.Session]
	r.mu.Unlock()
	if ok {
		return key, nil
	}
	if !known {
		tail, err := r.Tail(ctx, kind, ref.Hash)
		if err != nil {
			return nil, err
		}
		if tail.Session.ID != ref.Session || tail.Salt != ref.Salt {
			return nil, fmt.Errorf("%v %x: its trailer names another session than the manifest: %w", kind, ref.Hash, wire.ErrMalformed)
		}
		sealed = tail.Session
		r.AddSessions([]seal.SealedSession{sealed})
	}
	session, err := r.repo.OpenSession(ctx, sealed)
	if err != nil {
		return nil, err
	}
	key = session.FrameKey(kind, r.repo.ID(), r.domain.ID, ref.Salt)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keys) >= maxKeys {
		clear(r.keys)
	}
	r.keys[ref.Hash] = key
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
		return nil, r.damaged(kind, ref.Hash, err)
	}
	content, err := r.dec.Content(dst, kind, plaintext)
	if err != nil {
		return nil, r.damaged(kind, ref.Hash, err)
	}
	return content, nil
}

// Frame reads and opens one frame.
func (r *Reader) Frame(ctx context.Context, kind wire.Kind, ref *pack.Ref, offset, length uint32) ([]byte, error) {
	sealed, err := r.Read(ctx, kind, ref.Hash, int64(offset), int64(length))
	if err != nil {
		return nil, err
	}
	return r.Open(ctx, nil, kind, ref, offset, sealed)
}

func (r *Reader) damaged(kind wire.Kind, hash [32]byte, err error) error {
	return &DamageError{Key: objectKey(kind, r.host, r.domain.ID, hash), What: kind.String(), Err: err}
}

// Tail reads the trailer and the sealed contents of an object.
func (r *Reader) Tail(ctx context.Context, kind wire.Kind, hash [32]byte) (*pack.Tail, error) {
	return r.repo.tail(ctx, kind, objectKey(kind, r.host, r.domain.ID, hash), -1)
}

// TailOf is Tail of an object that is size bytes long.
func (r *Reader) TailOf(ctx context.Context, kind wire.Kind, hash [32]byte, size int64) (*pack.Tail, error) {
	return r.repo.tail(ctx, kind, objectKey(kind, r.host, r.domain.ID, hash), size)
}

// tail reads the end of an object that is size bytes long; a negative size is
// looked up.
func (r *Repository) tail(ctx context.Context, kind wire.Kind, key string, size int64) (*pack.Tail, error) {
	if size < 0 {
		for o, err := range r.Store().List(ctx, storage.ListOptions{Prefix: key, Limit: 1}) {
			if err != nil {
				return nil, err
			}
			size = o.Size
		}
		if size < 0 {
			return nil, &storage.Error{Op: "get", Key: key, Err: storage.ErrNotFound}
		}
	}
	n := min(size, pack.TailLen)
	for {
		b, err := storage.ReadAll(ctx, r.Store(), key, size-n, n)
		if err != nil {
			return nil, err
		}
		t, err := pack.ParseTail(kind, b, size)
		var short *pack.ErrShortTail
		if errors.As(err, &short) && short.Need > n && short.Need <= size {
			n = short.Need
			continue
		}
		if err != nil {
			return nil, &DamageError{Key: key, What: kind.String(), Err: err}
		}
		if t.Repository != r.ID() {
			return nil, &DamageError{Key: key, What: kind.String(), Err: fmt.Errorf("it belongs to repository %v", t.Repository)}
		}
		return t, nil
	}
}
