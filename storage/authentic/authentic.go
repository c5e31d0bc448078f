// Package authentic is the verified read: of several versions of a key, the
// earliest that verifies is the object (docs/FORMAT.md section 4). Other bytes that
// somebody puts over an object, or a delete marker, do not change what is read here.
// They are reported.
//
// The caller decides what verifies: a known hash, or a signature. Only one content
// has a hash, so the current view is enough where it shows that content (Exact,
// Hashed). The owner of a key can sign several contents, so all versions must be
// read (Listed, Get). A listing shows whether there are several; where there is only
// one, this takes no further request.
//
// On a store that keeps no versions, or does not show them, only the current view
// can be read.
package authentic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"knowngood/storage"
)

// Reader reads the objects of one store. Its methods may be called concurrently.
type Reader struct {
	store  storage.Store
	report func(Finding)
}

// NewReader reads from store. report is given a finding for each object that was
// read from an older version than the current one; it may be called concurrently.
func NewReader(store storage.Store, report func(Finding)) *Reader {
	return &Reader{store, report}
}

// Report calls the function that NewReader was given, unless that is nil.
func (r *Reader) Report(f Finding) {
	if r.report != nil {
		r.report(f)
	}
}

// Store that is read.
func (r *Reader) Store() storage.Store { return r.store }

// Want is what an object must be.
type Want struct {
	What   string // what it is, for messages
	Limit  int64  // on its size, in bytes
	Verify func(object []byte) error
}

func (w *Want) damage(key string, err error) error {
	var d *DamageError
	if errors.As(err, &d) || Tampered(err) {
		return err
	}
	return &DamageError{Key: key, What: w.What, Err: err}
}

// unreadable is the error where no version of an object verifies, and err is about
// the current one. Missing rights are not damage.
func (w *Want) unreadable(key string, err error) error {
	if errors.Is(err, storage.ErrDenied) {
		return err
	}
	return w.damage(key, err)
}

// Object is an object that verified.
type Object struct {
	Bytes []byte
	// Stored is when the store took that version.
	Stored time.Time
}

// Exact reads the object at key, of which only one content can verify. The error
// is *DamageError when no version does, and wraps why the current one does not.
func (r *Reader) Exact(ctx context.Context, key string, w Want) ([]byte, error) {
	object, err := AtMost(ctx, nil, r.store, key, 0, w.Limit)
	if err == nil {
		if err = w.Verify(object); err == nil {
			return object, nil
		}
	} else if !covered(err) || errors.Is(err, storage.ErrDenied) {
		return nil, err
	}

	found, all, verr := r.earliest(ctx, key, w)
	if verr != nil {
		return nil, verr
	}
	if found == nil {
		return nil, w.damage(key, err)
	}
	r.Overwritten(key, all)
	return found.Bytes, nil
}

// Get is Listed for a key that was not listed.
func (r *Reader) Get(ctx context.Context, key string, w Want) (Object, error) {
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: key, Hidden: true, Limit: 1}) {
		if err != nil {
			return Object{}, err
		}
		if o.Key == key {
			return r.Listed(ctx, o, w)
		}
	}
	return Object{}, w.damage(key, &storage.Error{Op: "get", Key: key, Err: storage.ErrNotFound})
}

// Listed reads an object that a listing with ListOptions.Hidden showed: of
// several versions the earliest that verifies. The error is *DamageError when
// none does, and wraps why the current one does not.
func (r *Reader) Listed(ctx context.Context, o storage.Object, w Want) (Object, error) {
	err := errors.New("it is hidden by a delete marker, and no version of it verifies")
	var object []byte
	if !o.Hidden {
		object, err = AtMost(ctx, nil, r.store, o.Key, 0, w.Limit)
		if err == nil {
			err = w.Verify(object)
		} else if !covered(err) || errors.Is(err, storage.ErrDenied) && !o.Older {
			return Object{}, err
		}
	}
	if err == nil && !o.Older {
		return Object{object, o.Modified}, nil
	}

	found, all, verr := r.earliest(ctx, o.Key, w)
	switch {
	case verr != nil:
		return Object{}, verr
	case found == nil && err == nil:
		if len(all) > 1 {
			err := fmt.Errorf("%s has older versions, and these credentials may not read them, so it is not known whether it was overwritten: let them read versions (s3:GetObjectVersion)", o.Key)
			r.Report(Finding{Kind: Warning, Key: o.Key, Err: err})
		}
		return Object{object, o.Modified}, nil
	case found == nil:
		return Object{}, w.unreadable(o.Key, err)
	case !bytes.Equal(found.Bytes, object):
		r.Overwritten(o.Key, all)
	}
	return *found, nil
}

// earliest is the earliest version of key that verifies, nil when there is none
// or none shows, and all versions, the newest first.
func (r *Reader) earliest(ctx context.Context, key string, w Want) (*Object, []storage.Version, error) {
	all, err := r.Versions(ctx, key)
	if err != nil || len(all) == 1 { // which is the current one
		return nil, all, err
	}
	for _, v := range slices.Backward(all) {
		if v.Marker || v.Size > w.Limit {
			continue
		}
		object, err := r.version(ctx, nil, key, v.ID, 0, -1)
		if unseen(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if w.Verify(object) == nil {
			return &Object{object, v.Modified}, all, nil
		}
	}
	return nil, all, nil
}

// Versions of key, the newest first, delete markers among them; none where the
// store keeps no versions, or does not let us see them.
func (r *Reader) Versions(ctx context.Context, key string) ([]storage.Version, error) {
	v, ok := storage.Capability[storage.Versioner](r.store)
	if !ok {
		return nil, nil
	}
	var all []storage.Version
	for version, err := range v.Versions(ctx, key) {
		if unseen(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, version)
	}
	return all, nil
}

// First reports whether nothing was replaced at key before the version that the store
// took at a time, as far as the store shows: it kept versions when it took that one, and
// all that lie beneath. A version without an ID of its own replaces what was there.
func (r *Reader) First(ctx context.Context, key string, taken time.Time) (first bool, err error) {
	all, err := r.Versions(ctx, key)
	for _, v := range all {
		switch {
		case v.Modified.After(taken):
		case v.ID == "" || v.ID == "null":
			return false, nil
		case !v.Marker && v.Modified.Equal(taken):
			first = true
		}
	}
	return first, err
}

// version appends a range of one version to dst.
func (r *Reader) version(ctx context.Context, dst []byte, key, id string, offset, length int64) ([]byte, error) {
	v, ok := storage.Capability[storage.Versioner](r.store)
	if !ok {
		return nil, &storage.Error{Op: "get", Key: key, Err: storage.ErrUnsupported}
	}
	return storage.Append(ctx, dst, oneVersion{r.store, v, id}, key, offset, length)
}

// oneVersion shows one version in place of the current view.
type oneVersion struct {
	storage.Store
	versions storage.Versioner
	id       string
}

func (s oneVersion) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return s.versions.GetVersion(ctx, key, s.id, offset, length)
}

// unseen reports whether the store does not let us list versions, or does not return
// one.
func unseen(err error) bool {
	return errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrUnsupported) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrWithheld)
}

// covered reports whether the current view hides an object that an older version may
// have. Somebody who overwrites an object can also make the store deny it to
// everybody else, as if rights were missing.
func covered(err error) bool {
	return Damaged(err) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrWithheld) || errors.Is(err, storage.ErrDenied)
}

// Overwritten reports an object that was read from an older version than the current one. all
// are its versions, the newest first.
func (r *Reader) Overwritten(key string, all []storage.Version) {
	e := &TamperError{What: key, Key: key, Remembered: "the object", Found: "other bytes in its place",
		Hint: fmt.Sprintf("an older version of it verifies and is used; find out who wrote to %s", key)}
	if len(all) > 0 {
		e.Since = all[0].Modified
		if all[0].Marker {
			e.Found = "it hidden by a delete marker"
		}
	}
	r.Report(FindingOf(e))
}

// AtMost appends all of an object from offset to dst. The error is *DamageError when
// that is more than limit bytes: somebody who may put objects must not be able to
// fill the memory of readers.
func AtMost(ctx context.Context, dst []byte, s storage.Store, key string, offset, limit int64) ([]byte, error) {
	start := len(dst)
	b, err := storage.Append(ctx, dst, atMost{s, limit + 1}, key, offset, -1)
	if err == nil && int64(len(b)-start) > limit {
		return nil, &DamageError{Key: key, What: "object", Err: fmt.Errorf("longer than the limit of %d bytes", limit)}
	}
	return b, err
}

// atMost is a store that returns at most so many bytes of an object.
type atMost struct {
	storage.Store
	bytes int64
}

func (s atMost) Get(ctx context.Context, key string, offset, _ int64) (io.ReadCloser, error) {
	body, err := s.Store.Get(ctx, key, offset, s.bytes)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, s.bytes), body}, nil
}
