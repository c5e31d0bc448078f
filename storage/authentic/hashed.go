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

// Hashed reads objects that are named by the SHA-256 of their bytes, whole or in
// ranges. It remembers which of them lie beneath the current view. Its methods
// may be called concurrently.
type Hashed struct {
	*Reader
	what  string
	limit int64 // on the size of an object, in bytes

	mu      sync.Mutex
	beneath map[[32]byte]string // versions of objects that the current view does not show; "" for none
}

// Hashed reads objects of at most limit bytes; what names them in messages.
func (r *Reader) Hashed(what string, limit int64) *Hashed {
	return &Hashed{Reader: r, what: what, limit: limit, beneath: map[[32]byte]string{}}
}

// Range appends length bytes of an object from offset to dst, from beneath the
// current view where that has nothing there; a negative length means to the end.
// The bytes are not verified: where they turn out to be others, Uncover looks for
// the object itself. The error is *DamageError when the object is missing or
// shorter than that.
func (h *Hashed) Range(ctx context.Context, dst []byte, key string, hash [32]byte, offset, length int64) ([]byte, error) {
	if id, _ := h.found(hash); id != "" {
		return h.version(ctx, dst, key, id, offset, length)
	}
	b, err := h.current(ctx, dst, key, offset, length)
	if !errors.Is(err, storage.ErrNotFound) && !Damaged(err) {
		return b, err
	}
	again, uerr := h.Uncover(ctx, key, hash)
	switch {
	case uerr != nil:
		return nil, uerr
	case again:
		id, _ := h.found(hash)
		return h.version(ctx, dst, key, id, offset, length)
	}
	return nil, (&Want{What: h.what}).damage(key, err)
}

// Whole reads an object whole into dst's memory and verifies its hash, from
// beneath the current view where that shows other bytes. With *DamageError it may
// return the bytes that there are.
func (h *Hashed) Whole(ctx context.Context, dst []byte, key string, hash [32]byte) ([]byte, error) {
	for {
		b, err := h.Range(ctx, dst[:0], key, hash, 0, -1)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		if sum == hash {
			return b, nil
		}
		_, looked := h.found(hash)
		again, err := h.Uncover(ctx, key, hash)
		switch {
		case err != nil:
			return nil, err
		case !again || looked:
			return b, &DamageError{Key: key, What: h.what, Err: fmt.Errorf("its bytes are not those of its name: their hash is %x", sum)}
		}
	}
}

// Uncover looks, once for each object, for a version with the bytes of its name,
// which is read from then on, and reports whether there is one.
func (h *Hashed) Uncover(ctx context.Context, key string, hash [32]byte) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if id, looked := h.beneath[hash]; looked {
		return id != "", nil
	}
	all, err := h.Versions(ctx, key)
	if err != nil {
		return false, err
	}
	found := ""
	for _, v := range slices.Backward(all) { // the earliest first: there is no end to what is put over it
		if len(all) == 1 { // the current one
			break
		}
		if v.Marker || v.Size > h.limit {
			continue
		}
		b, err := h.version(ctx, nil, key, v.ID, 0, -1)
		if err != nil && !unseen(err) {
			return false, err
		}
		if err == nil && sha256.Sum256(b) == hash {
			found = v.ID
			h.Overwritten(key, all)
			break
		}
	}
	h.beneath[hash] = found
	return found != "", nil
}

func (h *Hashed) found(hash [32]byte) (version string, looked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	version, looked = h.beneath[hash]
	return version, looked
}

// Looked reports whether Uncover looked for an object before.
func (h *Hashed) Looked(hash [32]byte) bool {
	_, looked := h.found(hash)
	return looked
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
	size, serr := h.Size(ctx, key)
	if serr != nil {
		return nil, serr
	}
	if size < offset+length {
		return nil, &DamageError{Key: key, What: h.what, Err: fmt.Errorf("it is cut short: %d bytes long, at least %d are needed", size, offset+length)}
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
