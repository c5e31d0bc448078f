// Package replay hands on what a store answered lately: from the daemon, which goes
// on, to the process of a run, which ends with it, and back.
//
// What is replayed are the listings of what changes rarely (certificates, epochs,
// pending deletions, index runs), each with the times that the store gave, and the
// descriptor, certificates and epochs themselves. A process gets each listing from
// here once: what it asks for again, it asks the store.
//
// What another process of this host published since shows in the state directory;
// who finds it there must Distrust what was replayed.
//
// It verifies nothing: whoever reads verifies what is replayed as if the store had
// just sent it. It counts from when the store was asked, and not from when it was
// replayed; see ListedAt.
package replay

import (
	"bytes"
	"context"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
)

// How long a listing is replayed.
const (
	certificatesFor = time.Minute
	epochsFor       = time.Hour
	indexFor        = 6 * time.Hour // of index runs and pending deletions
)

// What is kept: so many objects, of so many bytes each, and listings of so many, which
// is a page.
const (
	maxObjects = 1000
	maxObject  = 64 << 10
	maxListing = 1000
)

// Store keeps what another store answers, and replays what was kept.
type Store struct {
	inner   storage.Store
	replies *Replies
	replays bool

	mu       sync.Mutex
	asked    map[string]bool // prefixes that were listed here
	replayed map[string]bool // those of them that were answered from replies
}

var _ storage.Unwrapper = (*Store)(nil)

// Record keeps what a store answers from now on.
func Record(inner storage.Store, r *Replies) *Store { return &Store{inner: inner, replies: r} }

// New is Record, and answers from what there is already.
func New(inner storage.Store, r *Replies) *Store {
	return &Store{inner: inner, replies: r, replays: true, asked: map[string]bool{}, replayed: map[string]bool{}}
}

// ListedAt is when a store was asked what it will answer to a listing of a prefix:
// now, unless it is replayed.
func ListedAt(s storage.Store, prefix string) time.Time {
	now := time.Now()
	if r, ok := s.(*Store); ok && r.replays {
		r.mu.Lock()
		defer r.mu.Unlock()
		if l, ok := r.replies.listing(prefix); ok && !r.asked[prefix] {
			return now.Add(-l.At.age())
		}
	}
	return now
}

// Distrust reports whether the listing of a prefix was replayed. Then it was no
// evidence of the state of the store: the next listing will be.
func Distrust(s storage.Store, prefix string) bool {
	r, ok := s.(*Store)
	if !ok || !r.replays {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	replayed := r.replayed[prefix]
	delete(r.replayed, prefix)
	return replayed
}

// lasting is how long a listing of a prefix is replayed; 0 is not at all.
func lasting(prefix string) time.Duration {
	switch parts := strings.Split(prefix, "/"); {
	case strings.HasPrefix(prefix, layout.PrefixAllCertificates):
		return certificatesFor
	case prefix == layout.PrefixEpochs:
		return epochsFor
	case len(parts) == 5 && parts[0]+"/" == layout.PrefixHosts && (parts[2] == "index" || parts[2] == "pending"):
		return indexFor
	}
	return 0
}

// Unwrap implements storage.Unwrapper.
func (s *Store) Unwrap() storage.Store { return s.inner }

// List implements storage.Store.
func (s *Store) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	if lasting(o.Prefix) == 0 || o.After != "" || o.Delimiter || o.Foreign != nil || o.Limit > 0 {
		return s.inner.List(ctx, o)
	}
	return func(yield func(storage.Object, error) bool) {
		if objects, ok := s.replay(o.Prefix); ok {
			for _, x := range objects {
				if !yield(x, nil) {
					return
				}
			}
			return
		}

		at := now()
		next, stop := iter.Pull2(s.inner.List(ctx, o))
		defer stop()
		// Who reads only the newest does not read to the end: a page costs the same.
		var first []storage.Object
		x, err, more := next()
		for ; more && err == nil && len(first) < maxListing; x, err, more = next() {
			first = append(first, x)
		}
		if !more {
			s.replies.take(o.Prefix, listing{at, first})
		}
		for _, x := range first {
			if !yield(x, nil) {
				return
			}
		}
		for ; more && yield(x, err) && err == nil; x, err, more = next() {
		}
	}
}

// replay is the listing of a prefix, where it is asked for the first time.
func (s *Store) replay(prefix string) ([]storage.Object, bool) {
	if !s.replays {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked[prefix] {
		return nil, false
	}
	l, ok := s.replies.listing(prefix)
	s.asked[prefix], s.replayed[prefix] = true, ok
	return l.Objects, ok
}

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset != 0 || length < 0 || key != layout.KeyDescriptor && !strings.HasPrefix(key, layout.PrefixAllCertificates) && !strings.HasPrefix(key, layout.PrefixEpochs) {
		return s.inner.Get(ctx, key, offset, length)
	}
	s.replies.mu.Lock()
	object, ok := s.replies.Objects[key]
	s.replies.mu.Unlock()
	if !ok || !s.replays {
		body, err := s.inner.Get(ctx, key, 0, length)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		if object, err = io.ReadAll(body); err != nil {
			return nil, &storage.Error{Op: "get", Key: key, Err: err}
		}
		if n := int64(len(object)); n < length && n <= maxObject {
			s.replies.keep(key, object)
		}
	}
	return io.NopCloser(bytes.NewReader(object[:min(length, int64(len(object)))])), nil
}

// Put implements storage.Store. An index run that was put is in the next listing that
// is replayed.
func (s *Store) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	err := s.inner.Put(ctx, key, body, o)
	if _, _, _, _, run := layout.ParseIndexRunKey(key); run && err == nil {
		prefix := key[:strings.LastIndexByte(key, '/')+1]
		if l, ok := s.replies.listing(prefix); ok {
			s.replies.take(prefix, listing{l.At, []storage.Object{{Key: key, Size: int64(len(body)), Modified: time.Now()}}})
		}
	}
	return err
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error { return s.inner.Delete(ctx, key) }
