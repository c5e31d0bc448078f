// Package storage is the contract between knowngood and whatever keeps its
// objects: an S3 bucket, a directory, the memory of a test.
//
// It promises little on purpose. Objects are created once and never changed;
// there is no rename, no append, no lock. A store that keeps the contract
// passes the conformance suite in storage/storagetest.
package storage

import (
	"context"
	"io"
	"iter"
	"slices"
	"time"
)

// Store keeps immutable objects under slash-separated keys.
//
// Keys are what CheckKey accepts. No key is a directory of another: beside an
// object a/b there is none named a. Every method may be called concurrently.
// Errors are *Error values and match the sentinels of this package with
// errors.Is; an end of ctx matches context.Canceled or
// context.DeadlineExceeded.
type Store interface {
	// Put creates key with body. It never replaces: when key exists with
	// other bytes the error is ErrExists and the stored object is
	// untouched. When key exists with the same bytes Put returns nil, so a
	// retry after a lost reply is harmless. When Put returns nil the object
	// is durable and visible to Get and List. A failed Put leaves either
	// nothing or the complete object. body is not kept after Put returns, and
	// never changed.
	Put(ctx context.Context, key string, body []byte, opts PutOptions) error

	// Get returns length bytes of key from offset; a negative length means
	// to the end. A range that reaches past the end yields the bytes there
	// are; an offset at or past the end yields none. The caller closes the
	// reader. A key that does not exist is ErrNotFound. ctx governs the
	// reader too.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)

	// List yields the objects that opts selects in bytewise key order. It
	// stops after the first error. Memory does not grow with the listing.
	List(ctx context.Context, opts ListOptions) iter.Seq2[Object, error]

	// Delete removes key from view. Deleting what does not exist is no
	// error. On a versioned store older versions may remain.
	Delete(ctx context.Context, key string) error
}

// PutOptions qualify one Put. The zero value is a plain create.
type PutOptions struct {
	// SHA256 of the body. A store that sends the body to a server has what
	// arrived verified there: another content is ErrChecksum. Computed when
	// zero, where it is needed.
	SHA256 [32]byte
	// Retention, when its mode is set, locks the new object. A store
	// without locks answers ErrUnsupported and creates nothing.
	Retention Retention
	// Pace, when set, is called before each piece of n bytes of the body is
	// sent, of which none is longer than PieceSize. It may wait; its error
	// ends the Put.
	Pace func(ctx context.Context, n int) error
}

// PieceSize is the most that a Put sends without asking PutOptions.Pace.
const PieceSize = 16 << 10

// RetentionMode is an S3 Object Lock mode.
type RetentionMode string

// The modes of Object Lock; the empty mode is no lock.
const (
	Governance RetentionMode = "GOVERNANCE"
	Compliance RetentionMode = "COMPLIANCE"
)

// Retention is a lock on one version of one object.
type Retention struct {
	Mode  RetentionMode
	Until time.Time
}

// Join returns the lock that is at least as long and as strong as both.
func (r Retention) Join(other Retention) Retention {
	if other.Mode == Compliance || r.Mode == "" {
		r.Mode = other.Mode
	}
	if other.Mode != "" && other.Until.After(r.Until) {
		r.Until = other.Until
	}
	return r
}

// ListOptions select what List yields.
type ListOptions struct {
	// Prefix is a plain string prefix of the keys.
	Prefix string
	// After leaves out keys bytewise at or before it. Of folded keys it is
	// the folded form that counts, so the Key of the last Object seen goes
	// on after it in either case.
	After string
	// Delimiter folds keys that have a further slash after Prefix into one
	// Object with Folded set, whose Key ends in that slash. Size and
	// Modified of a folded Object are zero. On some versioned stores it may
	// stand for only deleted objects.
	Delimiter bool
	// Hidden yields, where the store keeps versions and shows them to us,
	// also what a delete marker hides. It does nothing elsewhere, nor with
	// Delimiter.
	Hidden bool
	// Foreign, when set, is called with each name below Prefix that is no key, as
	// far as the store shows such names. It may be called with one more than once.
	Foreign func(name string)
	// Limit ends the listing after so many objects; 0 is no limit.
	Limit int
}

// Object describes a stored object, or a folded prefix of several.
type Object struct {
	Key      string
	Size     int64
	Modified time.Time
	// MD5 of the content, where the listing shows it; zero where not. What a store
	// encrypts with a key of its own may have some other value, which is that of no
	// content.
	MD5    [16]byte
	Folded bool
	// Hidden means that a delete marker lies on it: Get does not find it, but
	// Versioner does.
	Hidden bool
	// Older means that other versions lie beneath this one, or may. It is set
	// where ListOptions.Hidden shows what is hidden.
	Older bool
}

// Retainer is the optional capability to see and extend locks.
type Retainer interface {
	// Retain sets or extends the lock of a version; it never shortens nor
	// weakens: where a longer or stronger lock holds, that stays.
	Retain(ctx context.Context, key, version string, r Retention) error
	// Retention returns the lock of a version; the zero value means none is
	// reported, which on some stores may still mean a bucket default.
	Retention(ctx context.Context, key, version string) (Retention, error)
}

// Versioner is the optional capability to see what lies beneath the current
// view: older versions, and versions hidden by a delete marker.
type Versioner interface {
	// Versions yields the versions of key, newest first. A key that never
	// existed yields nothing.
	Versions(ctx context.Context, key string) iter.Seq2[Version, error]
	// GetVersion is Get of one version.
	GetVersion(ctx context.Context, key, version string, offset, length int64) (io.ReadCloser, error)
}

// Purger is the optional capability to delete permanently what Versioner shows.
type Purger interface {
	// DeleteVersion removes one version of key, or one delete marker.
	// Removing what does not exist is no error. A version that is locked
	// stays: ErrLocked.
	DeleteVersion(ctx context.Context, key, version string) error
}

// Version is one version of an object.
type Version struct {
	ID       string
	Size     int64
	Modified time.Time
	// Marker means that this version is a delete marker and has no bytes.
	Marker bool
}

// Unwrapper is a decorator: a Store around another. It may implement any of
// the capabilities to forward them, and has none of its own.
type Unwrapper interface{ Unwrap() Store }

// Capability returns s, or the nearest store that s decorates, as a T. What a
// decorator implements counts only where the decorated store has T too.
func Capability[T any](s Store) (T, bool) {
	t, ok := s.(T)
	u, decorates := s.(Unwrapper)
	if !decorates {
		return t, ok
	}
	inner, has := Capability[T](u.Unwrap())
	if has && ok {
		return t, true
	}
	return inner, has
}

// Append appends one range of an object to dst; see Store.Get. It is an error
// when a non-negative length is asked for and fewer bytes arrive than that:
// io.ErrUnexpectedEOF, wrapped.
func Append(ctx context.Context, dst []byte, s Store, key string, offset, length int64) ([]byte, error) {
	r, err := s.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	start := len(dst)
	if length >= 0 {
		dst = slices.Grow(dst, int(length))
		_, err = io.ReadFull(r, dst[start:start+int(length)])
		if err == io.EOF && length > 0 {
			err = io.ErrUnexpectedEOF
		}
		dst = dst[:start+int(length)]
	} else {
		for err == nil {
			dst = slices.Grow(dst, 512)
			var n int
			n, err = r.Read(dst[len(dst):cap(dst)])
			dst = dst[:len(dst)+n]
		}
		if err == io.EOF {
			err = nil
		}
	}
	if err != nil {
		return nil, &Error{Op: "get", Key: key, Err: err}
	}
	return dst, nil
}
