package repository

import (
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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
	places places

	segments segmentCopies

	mu       sync.Mutex
	sessions map[seal.SessionID]seal.SealedSession
	keys     map[pack.Ref]cipher.AEAD // by all that makes them: what names a pack may name it wrongly

	beneathMu sync.Mutex
	beneath   map[[32]byte]string // versions of objects that the current view does not show; "" for none
}

// NewReader reads what lies under a snapshot. The snapshot's domain must be
// open, by an identity or because it is this host's own.
func (r *Repository) NewReader(host string, domain *seal.Domain) *Reader {
	return &Reader{repo: r, host: host, domain: domain, dec: pack.NewDecompressor(),
		sessions: map[seal.SessionID]seal.SealedSession{}, keys: map[pack.Ref]cipher.AEAD{}, beneath: map[[32]byte]string{}}
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

// Read appends length bytes of an object from offset to dst, from beneath the
// current view where that has nothing there. The error is *DamageError when
// the object is missing or shorter than that.
func (r *Reader) Read(ctx context.Context, dst []byte, kind wire.Kind, hash [32]byte, offset, length int64) ([]byte, error) {
	key := objectKey(kind, r.host, r.domain.ID, hash)
	if id, _ := r.version(hash); id != "" {
		return r.readVersion(ctx, dst, key, id, offset, length)
	}
	b, err := r.repo.readRange(ctx, dst, key, offset, length)
	if !errors.Is(err, storage.ErrNotFound) && !Damaged(err) {
		return b, err
	}
	id, verr := r.uncover(ctx, key, hash, errors.Is(err, storage.ErrNotFound))
	switch {
	case verr != nil:
		return nil, verr
	case id != "":
		return r.readVersion(ctx, dst, key, id, offset, length)
	case Damaged(err):
		return nil, err
	}
	return nil, &DamageError{Key: key, What: kind.String(), Err: err}
}

// Whole reads an object whole into dst's memory and verifies its hash, from
// beneath the current view where that shows other bytes. With *DamageError it
// may return the bytes that there are.
func (r *Reader) Whole(ctx context.Context, dst []byte, kind wire.Kind, hash [32]byte) ([]byte, error) {
	b, err := r.Read(ctx, dst[:0], kind, hash, 0, -1)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	if sum == hash {
		return b, nil
	}
	key := objectKey(kind, r.host, r.domain.ID, hash)
	switch id, err := r.uncover(ctx, key, hash, false); {
	case err != nil:
		return nil, err
	case id != "":
		return r.readVersion(ctx, nil, key, id, 0, -1)
	}
	return b, &DamageError{Key: key, What: kind.String(), Err: fmt.Errorf("its bytes have the hash %x", sum)}
}

func (r *Reader) version(hash [32]byte) (id string, looked bool) {
	r.beneathMu.Lock()
	defer r.beneathMu.Unlock()
	id, looked = r.beneath[hash]
	return id, looked
}

// uncover looks, once for each object, for a version with the bytes of its
// name; "" when there is none.
func (r *Reader) uncover(ctx context.Context, key string, hash [32]byte, deleted bool) (string, error) {
	r.beneathMu.Lock()
	defer r.beneathMu.Unlock()
	if id, looked := r.beneath[hash]; looked {
		return id, nil
	}
	v, all, err := r.repo.versions(ctx, key)
	if err != nil {
		return "", err
	}
	found := ""
	for _, ver := range all {
		if ver.Size > pack.MaxObject {
			continue
		}
		b, err := readVersion(ctx, v, key, ver.ID, pack.MaxObject)
		if err != nil && !unseen(err) {
			return "", err
		}
		if err == nil && sha256.Sum256(b) == hash {
			found = ver.ID
			r.repo.warnHidden(key, deleted)
			break
		}
	}
	r.beneath[hash] = found
	return found, nil
}

func (r *Reader) readVersion(ctx context.Context, dst []byte, key, id string, offset, length int64) ([]byte, error) {
	v, ok := storage.Capability[storage.Versioner](r.repo.Store())
	if !ok {
		return nil, &storage.Error{Op: "get", Key: key, Err: storage.ErrUnsupported}
	}
	return storage.Append(ctx, dst, versionStore{r.repo.Store(), v, id}, key, offset, length)
}

// versionStore reads one version in place of the current view.
type versionStore struct {
	storage.Store
	versions storage.Versioner
	id       string
}

func (s versionStore) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return s.versions.GetVersion(ctx, key, s.id, offset, length)
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
		return nil, r.damaged(kind, ref.Hash, err)
	}
	content, err := r.dec.Content(dst, kind, plaintext)
	if err != nil {
		return nil, r.damaged(kind, ref.Hash, err)
	}
	return content, nil
}

// Frame reads and opens one frame, from beneath the current view where that
// shows other bytes.
func (r *Reader) Frame(ctx context.Context, kind wire.Kind, ref *pack.Ref, offset, length uint32) ([]byte, error) {
	read := func() ([]byte, error) {
		sealed, err := r.Read(ctx, nil, kind, ref.Hash, int64(offset), int64(length))
		if err != nil {
			return nil, err
		}
		return r.Open(ctx, nil, kind, ref, offset, sealed)
	}
	content, err := read()
	if !Damaged(err) {
		return content, err
	}
	if _, looked := r.version(ref.Hash); looked {
		return nil, err
	}
	id, verr := r.uncover(ctx, objectKey(kind, r.host, r.domain.ID, ref.Hash), ref.Hash, false)
	if verr != nil {
		return nil, verr
	}
	if id == "" {
		return nil, err
	}
	return read()
}

func (r *Reader) damaged(kind wire.Kind, hash [32]byte, err error) error {
	return &DamageError{Key: objectKey(kind, r.host, r.domain.ID, hash), What: kind.String(), Err: err}
}

// Tail reads the trailer and the sealed contents of an object.
func (r *Reader) Tail(ctx context.Context, kind wire.Kind, hash [32]byte) (*pack.Tail, error) {
	return r.TailOf(ctx, kind, hash, -1)
}

// TailOf is Tail of an object that is size bytes long; a negative size is
// looked up.
func (r *Reader) TailOf(ctx context.Context, kind wire.Kind, hash [32]byte, size int64) (*pack.Tail, error) {
	key := objectKey(kind, r.host, r.domain.ID, hash)
	t, err := r.repo.tail(ctx, kind, key, size)
	if !Damaged(err) && !errors.Is(err, storage.ErrNotFound) {
		return t, err
	}
	id, verr := r.uncover(ctx, key, hash, errors.Is(err, storage.ErrNotFound))
	switch {
	case verr != nil:
		return nil, verr
	case id != "":
		object, err := r.readVersion(ctx, nil, key, id, 0, -1)
		if err != nil {
			return nil, err
		}
		return r.repo.parseTail(kind, key, object, int64(len(object)))
	case Damaged(err):
		return nil, err
	}
	return nil, &DamageError{Key: key, What: kind.String(), Err: err}
}

// tail reads the end of an object that is size bytes long; a negative size is
// looked up.
func (r *Repository) tail(ctx context.Context, kind wire.Kind, key string, size int64) (*pack.Tail, error) {
	if size < 0 {
		var err error
		if size, err = r.size(ctx, key); err != nil {
			return nil, err
		}
	}
	n := min(size, pack.TailLen)
	for {
		b, err := r.readRange(ctx, nil, key, size-n, n)
		if err != nil {
			return nil, err
		}
		t, err := r.parseTail(kind, key, b, size)
		var short *pack.ErrShortTail
		if errors.As(err, &short) && short.Need > n && short.Need <= size {
			n = short.Need
			continue
		}
		return t, err
	}
}

func (r *Repository) parseTail(kind wire.Kind, key string, end []byte, size int64) (*pack.Tail, error) {
	t, err := pack.ParseTail(kind, end, size)
	if err == nil && t.Repository != r.ID() {
		err = fmt.Errorf("it belongs to repository %v", t.Repository)
	}
	if err != nil {
		return nil, &DamageError{Key: key, What: kind.String(), Err: err}
	}
	return t, nil
}

// size is the stored bytes of an object.
func (r *Repository) size(ctx context.Context, key string) (int64, error) {
	for o, err := range r.Store().List(ctx, storage.ListOptions{Prefix: key, Limit: 1}) {
		if err != nil {
			return 0, err
		}
		if o.Key == key {
			return o.Size, nil
		}
	}
	return 0, &storage.Error{Op: "get", Key: key, Err: storage.ErrNotFound}
}

// readRange is storage.Append that tells an object which is too short, a
// *DamageError, from a reply that broke off.
func (r *Repository) readRange(ctx context.Context, dst []byte, key string, offset, length int64) ([]byte, error) {
	if length < 0 {
		return readAtMost(ctx, dst, r.Store(), key, offset, pack.MaxObject)
	}
	b, err := storage.Append(ctx, dst, r.Store(), key, offset, length)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return b, err
	}
	size, serr := r.size(ctx, key)
	if serr != nil {
		return nil, serr
	}
	if size < offset+length {
		return nil, &DamageError{Key: key, What: "object", Err: fmt.Errorf("it is cut short: %d bytes long, at least %d are needed", size, offset+length)}
	}
	return nil, err
}
