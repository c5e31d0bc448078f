package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"knowngood/storage"
	"knowngood/storage/pack"
)

// version looks beneath the current view of key for the earliest version, of
// at most limit bytes, that accept takes; nil when there is none, or when the
// store keeps no versions or does not show them to us.
func (r *Repository) version(ctx context.Context, key string, limit int64, accept func([]byte) bool) ([]byte, error) {
	b, _, err := r.earliest(ctx, key, limit, accept)
	return b, err
}

// earliest is version, and tells when the store took it.
func (r *Repository) earliest(ctx context.Context, key string, limit int64, accept func([]byte) bool) (b []byte, at time.Time, err error) {
	v, all, err := r.versions(ctx, key)
	if err != nil {
		return nil, at, err
	}
	for _, ver := range slices.Backward(all) { // listed newest first
		if ver.Size > limit {
			continue
		}
		b, err := readVersion(ctx, v, key, ver.ID, limit)
		if unseen(err) {
			continue
		}
		if err != nil {
			return nil, at, err
		}
		if accept(b) {
			return b, ver.Modified, nil
		}
	}
	return nil, at, nil
}

// listed reads what a listing that shows what is hidden showed: of several
// versions the earliest that accept takes, for what was put over it, or hides
// it, comes from somebody who does not keep the rules. With none it is the
// object all the same.
func (r *Repository) listed(ctx context.Context, o storage.Object, accept func([]byte) bool) ([]byte, error) {
	object, _, err := r.listedAt(ctx, o, accept)
	return object, err
}

// listedAt is listed, and tells when the store took what it gives.
func (r *Repository) listedAt(ctx context.Context, o storage.Object, accept func([]byte) bool) (object []byte, at time.Time, err error) {
	err = error(&DamageError{Key: o.Key, What: "object", Err: errors.New("it is hidden by a delete marker, and no version of it verifies")})
	if !o.Hidden {
		object, err = readObject(ctx, r.store, o.Key)
	}
	if err == nil && !o.Older && accept(object) || err != nil && !Damaged(err) && !errors.Is(err, storage.ErrNotFound) {
		return object, o.Modified, err
	}
	first, at, verr := r.earliest(ctx, o.Key, maxStatement, accept)
	if verr != nil {
		return nil, at, verr
	}
	if first == nil {
		return object, o.Modified, err
	}
	if !bytes.Equal(first, object) {
		r.warnHidden(o.Key, o.Hidden)
	}
	return first, at, nil
}

// versions of key that have bytes, newest first.
func (r *Repository) versions(ctx context.Context, key string) (storage.Versioner, []storage.Version, error) {
	v, ok := storage.Capability[storage.Versioner](r.store)
	if !ok {
		return nil, nil, nil
	}
	var all []storage.Version
	for ver, err := range v.Versions(ctx, key) {
		if unseen(err) {
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if !ver.Marker {
			all = append(all, ver)
		}
	}
	return v, all, nil
}

// unseen says that the store does not let us look beneath the current view.
func unseen(err error) bool {
	return errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrUnsupported) || errors.Is(err, storage.ErrNotFound)
}

func readVersion(ctx context.Context, v storage.Versioner, key, id string, limit int64) ([]byte, error) {
	body, err := v.GetVersion(ctx, key, id, 0, limit)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, &storage.Error{Op: "get", Key: key, Err: err}
	}
	return b, nil
}

// readHidden reads a range of the object at key, whose SHA-256 is hash, from
// beneath the current view; see storage.ReadAll. Without such a version the
// error is a *DamageError that wraps cause.
func (r *Repository) readHidden(ctx context.Context, key string, hash [32]byte, offset, length int64, cause error) ([]byte, error) {
	object, err := r.version(ctx, key, pack.MaxObject, func(b []byte) bool { return sha256.Sum256(b) == hash })
	if err != nil {
		return nil, err
	}
	if object == nil && Damaged(cause) {
		return nil, cause
	}
	if object == nil {
		return nil, &DamageError{Key: key, What: "object", Err: cause}
	}
	r.warnHidden(key, errors.Is(cause, storage.ErrNotFound))
	object = object[min(max(offset, 0), int64(len(object))):]
	switch {
	case length < 0:
		return object, nil
	case length > int64(len(object)):
		return nil, &storage.Error{Op: "get", Key: key, Err: io.ErrUnexpectedEOF}
	}
	return object[:length], nil
}

func (r *Repository) warnHidden(key string, deleted bool) {
	found := "other bytes in its place"
	if deleted {
		found = "it hidden by a delete marker"
	}
	r.warn(&TamperError{What: key, Remembered: "the object", Found: found,
		Hint: fmt.Sprintf("an older version of it verifies and is used; find out who wrote to %s", key)})
}
