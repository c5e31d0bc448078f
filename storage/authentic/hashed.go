package authentic

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"knowngood/storage"
)

// Hashed reads objects that are named by the SHA-256 of their bytes, complete or in
// ranges. It remembers which of them are only older versions. Its methods may be
// called concurrently.
type Hashed struct {
	*Reader
	what  string
	limit int64 // on the size of an object, in bytes

	mu    sync.Mutex
	older map[[32]byte]storage.Version // of objects that the current view does not show; without an ID for none
}

// Hashed reads objects of at most limit bytes; what names them in messages.
func (r *Reader) Hashed(what string, limit int64) *Hashed {
	return &Hashed{Reader: r, what: what, limit: limit, older: map[[32]byte]storage.Version{}}
}

// Verified calls read, which reads an object with Range and verifies what it read.
// When the object is missing, damaged or withheld, and another version has the bytes of
// the name, Range reads that version from then on, and read is called again.
func (h *Hashed) Verified(ctx context.Context, key string, hash [32]byte, read func() error) error {
	before := h.found(hash).ID
	err := read()
	if !covered(err) {
		return err
	}
	// Another reader may have found that version meanwhile: what counts is whether
	// read began with it.
	version, uerr := h.uncover(ctx, key, hash)
	switch {
	case uerr != nil:
		return uerr
	case version.ID == before:
		return err
	}
	return read()
}

// Range appends length bytes of an object from offset to dst, from an older version
// where Verified found one; a negative length means to the end. The bytes are not
// verified: see Verified. The error is *DamageError when the object is missing or
// shorter.
func (h *Hashed) Range(ctx context.Context, dst []byte, key string, hash [32]byte, offset, length int64) ([]byte, error) {
	if v := h.found(hash); v.ID != "" {
		return h.rangeOf(ctx, dst, key, v, offset, length)
	}
	b, err := h.current(ctx, dst, key, offset, length)
	if !covered(err) {
		return b, err
	}
	v, uerr := h.uncover(ctx, key, hash)
	switch {
	case uerr != nil:
		return nil, uerr
	case v.ID != "":
		return h.rangeOf(ctx, dst, key, v, offset, length)
	}
	return nil, (&Want{What: h.what}).unreadable(key, err)
}

func (h *Hashed) rangeOf(ctx context.Context, dst []byte, key string, v storage.Version, offset, length int64) ([]byte, error) {
	if length >= 0 && offset+length > v.Size {
		return nil, h.tooShort(key, v.Size, offset+length)
	}
	return h.version(ctx, dst, key, v.ID, offset, length)
}

// Size is the stored bytes of an object. It is listed, the size in a listing, unless
// an older version was found to be the object. A negative one is looked up; then the
// error is *DamageError when the current view shows no object.
func (h *Hashed) Size(ctx context.Context, key string, hash [32]byte, listed int64) (int64, error) {
	if v := h.found(hash); v.ID != "" {
		return v.Size, nil
	}
	if listed >= 0 {
		return listed, nil
	}
	size, err := h.Reader.Size(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		err = (&Want{What: h.what}).damage(key, err)
	}
	return size, err
}

// Whole reads all of an object into dst's memory and verifies its hash. Where the
// current version has other bytes it reads an older one. listed is the size in a
// listing, or negative when it is not known; where it is above the limit the current
// version is not read. With *DamageError it may return the bytes that there are.
func (h *Hashed) Whole(ctx context.Context, dst []byte, key string, hash [32]byte, listed int64) ([]byte, error) {
	var b []byte
	err := h.Verified(ctx, key, hash, func() (err error) {
		b = nil
		if err = h.checkSize(ctx, key, hash, listed); err != nil {
			return err
		}
		if b, err = h.Range(ctx, dst[:0], key, hash, 0, -1); err != nil {
			return err
		}
		if sum := sha256.Sum256(b); sum != hash {
			return h.otherBytes(key, sum)
		}
		return nil
	})
	if err != nil && !Damaged(err) {
		return nil, err
	}
	return b, err
}

// Compare verifies an object as Whole does, without keeping it in memory. It calls
// done, unless that is nil, with how many bytes were read.
func (h *Hashed) Compare(ctx context.Context, key string, hash [32]byte, listed int64, done func(bytes int)) error {
	return h.Verified(ctx, key, hash, func() error {
		if h.found(hash).ID != "" {
			return nil // it was found by the hash of its bytes
		}
		if err := h.checkSize(ctx, key, hash, listed); err != nil {
			return err
		}
		body, err := h.store.Get(ctx, key, 0, h.limit+1)
		if covered(err) {
			return (&Want{What: h.what}).unreadable(key, err)
		}
		if err != nil {
			return err
		}
		sum, err := h.sum(body, done)
		if err == nil && sum != hash {
			err = h.otherBytes(key, sum)
		}
		return err
	})
}

// sum is the hash of a body, of which no more than a byte above the limit is read.
func (h *Hashed) sum(body io.ReadCloser, done func(bytes int)) (sum [32]byte, err error) {
	defer body.Close()
	hash, buf := sha256.New(), make([]byte, 256<<10)
	for r := io.LimitReader(body, h.limit+1); ; {
		n, err := r.Read(buf)
		hash.Write(buf[:n])
		if done != nil {
			done(n)
		}
		if err == io.EOF {
			return [32]byte(hash.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// checkSize refuses an object that is too long to be read, by its size in a listing.
func (h *Hashed) checkSize(ctx context.Context, key string, hash [32]byte, listed int64) error {
	if listed < 0 {
		return nil
	}
	size, err := h.Size(ctx, key, hash, listed)
	if err == nil && size > h.limit {
		err = &DamageError{Key: key, What: h.what, Err: fmt.Errorf("%d bytes long, the limit is %d", size, h.limit)}
	}
	return err
}

func (h *Hashed) otherBytes(key string, sum [32]byte) error {
	return &DamageError{Key: key, What: h.what, Err: fmt.Errorf("its bytes are not those of its name: their hash is %x", sum)}
}

func (h *Hashed) tooShort(key string, size, need int64) error {
	return &DamageError{Key: key, What: h.what, Err: fmt.Errorf("it is cut short: %d bytes long, at least %d are needed", size, need)}
}

// uncover searches, once for each object, for a version with the bytes of its name,
// which is read from then on. A version without an ID means that there is none.
func (h *Hashed) uncover(ctx context.Context, key string, hash [32]byte) (storage.Version, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v, looked := h.older[hash]; looked {
		return v, nil
	}
	all, err := h.Versions(ctx, key)
	if err != nil {
		return storage.Version{}, err
	}
	var found storage.Version
	for _, v := range slices.Backward(all) { // the earliest first, because any number of versions may have been put over it
		if len(all) == 1 { // the current one
			break
		}
		if v.Marker || v.Size > h.limit {
			continue
		}
		same, err := h.hasVersion(ctx, key, v.ID, hash)
		if err != nil {
			return storage.Version{}, err
		}
		if same {
			found = v
			h.Overwritten(key, all)
			break
		}
	}
	h.older[hash] = found
	return found, nil
}

// hasVersion reports whether a version has the bytes of the name.
func (h *Hashed) hasVersion(ctx context.Context, key, id string, hash [32]byte) (bool, error) {
	versions, ok := storage.Capability[storage.Versioner](h.store)
	if !ok {
		return false, nil
	}
	var sum [32]byte
	body, err := versions.GetVersion(ctx, key, id, 0, -1)
	if err == nil {
		sum, err = h.sum(body, nil)
	}
	if unseen(err) {
		return false, nil
	}
	return sum == hash, err
}

// found is the version of an object that was found below the current one.
func (h *Hashed) found(hash [32]byte) storage.Version {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.older[hash]
}

// current is storage.Append that distinguishes an object which is too
// short, a *DamageError, from a reply that broke off.
func (h *Hashed) current(ctx context.Context, dst []byte, key string, offset, length int64) ([]byte, error) {
	if length < 0 {
		return AtMost(ctx, dst, h.store, key, offset, h.limit)
	}
	b, err := storage.Append(ctx, dst, h.store, key, offset, length)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return b, err
	}
	size, serr := h.Reader.Size(ctx, key)
	if serr != nil {
		return nil, serr
	}
	if size < offset+length {
		return nil, h.tooShort(key, size, offset+length)
	}
	return nil, err
}

// Size is the stored bytes of an object, as the current view has it; the error is
// storage.ErrNotFound when it shows none.
func (r *Reader) Size(ctx context.Context, key string) (int64, error) {
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: key, Limit: 1}) {
		if err != nil {
			return 0, err
		}
		if o.Key == key {
			return o.Size, nil
		}
	}
	return 0, &storage.Error{Op: "get", Key: key, Err: storage.ErrNotFound}
}
