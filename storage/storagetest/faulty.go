package storagetest

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"knowngood/storage"
)

// ErrInjected is what a Faulty store fails with when its rule names no other
// error.
var ErrInjected = errors.New("injected fault")

// ErrStopped is what a stopped Faulty store fails with, as if its process had
// died.
var ErrStopped = errors.New("the store was stopped")

// Op is an operation on a store.
type Op string

// The operations that Faulty distinguishes.
const (
	Put        Op = "put"
	Get        Op = "get"
	List       Op = "list"
	Delete     Op = "delete"
	ListOfKey  Op = "versions"
	GetVersion Op = "get version"
	DeleteOne  Op = "delete version"
	Retain     Op = "retain"
	Retention  Op = "retention"
)

// Operation is one entry of the log of a Faulty store.
type Operation struct {
	Op  Op
	Key string // the prefix of a listing
}

// Rule selects which operations suffer a fault.
type Rule struct {
	Op     Op     // every one when empty
	Prefix string // of the key, or of the prefix that is listed
	Nth    int    // of those that match, counted from 1; all when 0
	Fault  Fault
}

// Fault is what happens to an operation; see the functions that make one.
type Fault struct {
	before error // instead of the effect
	after  error // of an operation that had its effect
	delay  time.Duration
	limit  int // of objects that a listing yields; none when 0
	body   func(context.Context, io.ReadCloser) io.ReadCloser
}

// Faulty is a Store that fails on demand. It forwards the capabilities of
// what it decorates, with faults. It may be used concurrently.
type Faulty struct {
	inner storage.Store

	mu     sync.Mutex
	rules  []*rule
	log    []Operation
	stopAt int // number of the operation that is the last; 0 is never
	effect bool
}

type rule struct {
	Rule
	seen int
}

// NewFaulty decorates inner.
func NewFaulty(inner storage.Store, rules ...Rule) *Faulty {
	f := &Faulty{inner: inner}
	for _, r := range rules {
		f.Add(r)
	}
	return f
}

// Add makes the operations from now on obey one more rule. Of several that
// match, the first counts.
func (f *Faulty) Add(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &rule{Rule: r})
}

// Clear removes all rules and a stop, and empties the log.
func (f *Faulty) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.log, f.stopAt = nil, nil, 0
}

// StopAt makes the n-th operation since NewFaulty or Clear, counted from 1,
// the last: it fails, with or without its effect, and all after it fail
// without. Bodies that are being read break off too.
func (f *Faulty) StopAt(n int, effect bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopAt, f.effect = n, effect
}

// Log returns the operations since NewFaulty or Clear.
func (f *Faulty) Log() []Operation {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Operation(nil), f.log...)
}

// Unwrap implements storage.Unwrapper.
func (f *Faulty) Unwrap() storage.Store { return f.inner }

// begin logs an operation and finds its fault.
func (f *Faulty) begin(ctx context.Context, op Op, key string) (Fault, error) {
	fault := f.find(op, key)
	if fault.delay > 0 {
		select {
		case <-time.After(fault.delay):
		case <-ctx.Done():
			return fault, faultError(op, key, ctx.Err())
		}
	}
	if fault.before != nil {
		return fault, faultError(op, key, fault.before)
	}
	return fault, nil
}

func (f *Faulty) find(op Op, key string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, Operation{op, key})
	if n := len(f.log); f.stopAt > 0 && n >= f.stopAt {
		if n == f.stopAt && f.effect {
			return Fault{after: ErrStopped}
		}
		return Fault{before: ErrStopped}
	}
	var found Fault
	hit := false
	for _, r := range f.rules {
		if r.Op != "" && r.Op != op || !strings.HasPrefix(key, r.Prefix) {
			continue
		}
		r.seen++
		if !hit && (r.Nth == 0 || r.Nth == r.seen) {
			found, hit = r.Fault, true
		}
	}
	return found
}

func (f *Faulty) stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopAt > 0 && len(f.log) >= f.stopAt
}

// Put implements storage.Store.
func (f *Faulty) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	fault, err := f.begin(ctx, Put, key)
	if err != nil {
		return err
	}
	return fault.end(Put, key, f.inner.Put(ctx, key, body, o))
}

// Get implements storage.Store.
func (f *Faulty) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	fault, err := f.begin(ctx, Get, key)
	if err != nil {
		return nil, err
	}
	r, err := f.inner.Get(ctx, key, offset, length)
	return f.read(ctx, Get, key, fault, r, err)
}

// List implements storage.Store.
func (f *Faulty) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		fault, err := f.begin(ctx, List, o.Prefix)
		if err != nil {
			yield(storage.Object{}, err)
			return
		}
		forward(fault, List, o.Prefix, f.inner.List(ctx, o), yield)
	}
}

// Delete implements storage.Store.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	fault, err := f.begin(ctx, Delete, key)
	if err != nil {
		return err
	}
	return fault.end(Delete, key, f.inner.Delete(ctx, key))
}

// Versions implements storage.Versioner.
func (f *Faulty) Versions(ctx context.Context, key string) iter.Seq2[storage.Version, error] {
	return func(yield func(storage.Version, error) bool) {
		fault, err := f.begin(ctx, ListOfKey, key)
		v, ok := storage.Capability[storage.Versioner](f.inner)
		if err == nil && !ok {
			err = faultError(ListOfKey, key, storage.ErrUnsupported)
		}
		if err != nil {
			yield(storage.Version{}, err)
			return
		}
		forward(fault, ListOfKey, key, v.Versions(ctx, key), yield)
	}
}

// GetVersion implements storage.Versioner.
func (f *Faulty) GetVersion(ctx context.Context, key, version string, offset, length int64) (io.ReadCloser, error) {
	fault, err := f.begin(ctx, GetVersion, key)
	if err != nil {
		return nil, err
	}
	v, ok := storage.Capability[storage.Versioner](f.inner)
	if !ok {
		return nil, faultError(GetVersion, key, storage.ErrUnsupported)
	}
	r, err := v.GetVersion(ctx, key, version, offset, length)
	return f.read(ctx, GetVersion, key, fault, r, err)
}

// DeleteVersion implements storage.Purger.
func (f *Faulty) DeleteVersion(ctx context.Context, key, version string) error {
	fault, err := f.begin(ctx, DeleteOne, key)
	if err != nil {
		return err
	}
	inner, ok := storage.Capability[storage.Purger](f.inner)
	if !ok {
		return faultError(DeleteOne, key, storage.ErrUnsupported)
	}
	return fault.end(DeleteOne, key, inner.DeleteVersion(ctx, key, version))
}

// Retain implements storage.Retainer.
func (f *Faulty) Retain(ctx context.Context, key, version string, r storage.Retention) error {
	fault, err := f.begin(ctx, Retain, key)
	if err != nil {
		return err
	}
	inner, ok := storage.Capability[storage.Retainer](f.inner)
	if !ok {
		return faultError(Retain, key, storage.ErrUnsupported)
	}
	return fault.end(Retain, key, inner.Retain(ctx, key, version, r))
}

// Retention implements storage.Retainer.
func (f *Faulty) Retention(ctx context.Context, key, version string) (storage.Retention, error) {
	fault, err := f.begin(ctx, Retention, key)
	if err != nil {
		return storage.Retention{}, err
	}
	inner, ok := storage.Capability[storage.Retainer](f.inner)
	if !ok {
		return storage.Retention{}, faultError(Retention, key, storage.ErrUnsupported)
	}
	r, err := inner.Retention(ctx, key, version)
	return r, fault.end(Retention, key, err)
}

// end gives the result of an operation that had its effect.
func (x Fault) end(op Op, key string, err error) error {
	if err == nil && x.after != nil {
		return faultError(op, key, x.after)
	}
	return err
}

func (f *Faulty) read(ctx context.Context, op Op, key string, fault Fault, r io.ReadCloser, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	if fault.after != nil {
		r.Close()
		return nil, faultError(op, key, fault.after)
	}
	if fault.body != nil {
		r = fault.body(ctx, r)
	}
	return &stoppable{r, f, op, key}, nil
}

// stoppable is a body that breaks off when the store is stopped.
type stoppable struct {
	io.ReadCloser
	f   *Faulty
	op  Op
	key string
}

func (s *stoppable) Read(p []byte) (int, error) {
	if s.f.stopped() {
		return 0, faultError(s.op, s.key, ErrStopped)
	}
	n, err := s.ReadCloser.Read(p)
	var known *storage.Error
	if err != nil && err != io.EOF && !errors.As(err, &known) {
		err = faultError(s.op, s.key, err)
	}
	return n, err
}

// forward yields a listing as far as the fault allows.
func forward[T any](fault Fault, op Op, key string, all iter.Seq2[T, error], yield func(T, error) bool) {
	n := 0
	for item, err := range all {
		if !yield(item, err) || err != nil {
			return
		}
		if n++; n == fault.limit {
			return
		}
	}
	if fault.after != nil {
		var none T
		yield(none, faultError(op, key, fault.after))
	}
}

// faultError names the operation as storage.Error does.
func faultError(op Op, key string, err error) error {
	if op == GetVersion {
		op = Get
	}
	return &storage.Error{Op: string(op), Store: "faulty:", Key: key, Err: err}
}
