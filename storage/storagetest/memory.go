package storagetest

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"knowngood/storage"
)

// Memory is a Store in memory that behaves like a versioned bucket with
// Object Lock: a delete hides, versions stay, locks can be seen and extended.
// The zero value is not usable; see NewMemory and NewPlainMemory.
type Memory struct {
	now func() time.Time

	mu      sync.RWMutex
	objects map[string][]version // oldest first
	keys    []string             // of objects, sorted
	lastID  int
}

type version struct {
	storage.Version
	body []byte
	md5  [md5.Size]byte // of body, unless that is long
	lock storage.Retention
}

// NewMemory returns an empty versioned store.
func NewMemory() *Memory {
	return &Memory{now: time.Now, objects: map[string][]version{}}
}

// Plain is Memory without versions and locks: a delete removes, and there is
// no capability to find.
type Plain struct{ m *Memory }

// NewPlainMemory returns an empty store without versions.
func NewPlainMemory() *Plain { return &Plain{NewMemory()} }

// Put implements storage.Store.
func (m *Memory) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if err := begin(ctx, key); err != nil {
		return memoryError("put", key, err)
	}
	if o.SHA256 != [32]byte{} && o.SHA256 != sha256.Sum256(body) {
		return memoryError("put", key, storage.ErrChecksum)
	}
	if o.Pace != nil {
		for piece := range slices.Chunk(body, storage.PieceSize) {
			if err := o.Pace(ctx, len(piece)); err != nil {
				return memoryError("put", key, err)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.current(key); ok {
		if bytes.Equal(v.body, body) {
			return nil
		}
		return memoryError("put", key, storage.ErrExists)
	}
	m.add(key, version{body: bytes.Clone(body), lock: o.Retention})
	return nil
}

// Get implements storage.Store.
func (m *Memory) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := begin(ctx, key); err != nil {
		return nil, memoryError("get", key, err)
	}
	m.mu.RLock()
	v, ok := m.current(key)
	m.mu.RUnlock()
	if !ok {
		return nil, memoryError("get", key, storage.ErrNotFound)
	}
	return slice(ctx, key, v.body, offset, length)
}

// List implements storage.Store.
func (m *Memory) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		after, n := o.After, 0
		for o.Limit == 0 || n < o.Limit {
			if err := ctx.Err(); err != nil {
				yield(storage.Object{}, memoryError("list", o.Prefix, err))
				return
			}
			next, ok := m.next(o, after)
			if !ok || !yield(next, nil) {
				return
			}
			after = next.Key
			n++
		}
	}
}

// next finds the first object or folded prefix after a key.
func (m *Memory) next(opts storage.ListOptions, after string) (storage.Object, bool) {
	prefix, fold := opts.Prefix, opts.Delimiter
	m.mu.RLock()
	defer m.mu.RUnlock()
	i, _ := slices.BinarySearch(m.keys, max(prefix, after))
	for _, key := range m.keys[i:] {
		if !strings.HasPrefix(key, prefix) {
			break
		}
		v, ok := m.current(key)
		hidden := false
		if !ok && opts.Hidden && !fold {
			v, ok = m.beneath(key)
			hidden = ok
		}
		if !ok {
			continue
		}
		o := storage.Object{Key: key, Size: v.Size, Modified: v.Modified, MD5: v.md5, Hidden: hidden, Older: opts.Hidden && !fold && m.bodies(key) > 1}
		if dir, _, deeper := strings.Cut(key[len(prefix):], "/"); fold && deeper {
			o = storage.Object{Key: prefix + dir + "/", Folded: true}
		}
		if o.Key > after {
			return o, true
		}
	}
	return storage.Object{}, false
}

// Delete implements storage.Store: it puts a delete marker on top.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := begin(ctx, key); err != nil {
		return memoryError("delete", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.current(key); ok {
		m.add(key, version{Version: storage.Version{Marker: true}})
	}
	return nil
}

// Versions implements storage.Versioner.
func (m *Memory) Versions(ctx context.Context, key string) iter.Seq2[storage.Version, error] {
	return func(yield func(storage.Version, error) bool) {
		if err := begin(ctx, key); err != nil {
			yield(storage.Version{}, memoryError("versions", key, err))
			return
		}
		m.mu.RLock()
		all := slices.Clone(m.objects[key])
		m.mu.RUnlock()
		for _, v := range slices.Backward(all) {
			if !yield(v.Version, nil) {
				return
			}
		}
	}
}

// GetVersion implements storage.Versioner.
func (m *Memory) GetVersion(ctx context.Context, key, id string, offset, length int64) (io.ReadCloser, error) {
	if err := begin(ctx, key); err != nil {
		return nil, memoryError("get", key, err)
	}
	m.mu.RLock()
	v := m.version(key, id)
	m.mu.RUnlock()
	if v == nil || v.Marker {
		return nil, memoryError("get", key, storage.ErrNotFound)
	}
	return slice(ctx, key, v.body, offset, length)
}

// DeleteVersion implements storage.Purger.
func (m *Memory) DeleteVersion(ctx context.Context, key, id string) error {
	if err := begin(ctx, key); err != nil {
		return memoryError("delete", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.objects[key]
	i := slices.IndexFunc(all, func(v version) bool { return v.ID == id })
	if i < 0 {
		return nil
	}
	if all[i].lock.Mode != "" && all[i].lock.Until.After(m.now()) {
		return memoryError("delete", key, storage.ErrLocked)
	}
	if m.objects[key] = slices.Delete(all, i, i+1); len(all) == 1 {
		m.forget(key)
	}
	return nil
}

// Retain implements storage.Retainer.
func (m *Memory) Retain(ctx context.Context, key, id string, r storage.Retention) error {
	if err := begin(ctx, key); err != nil {
		return memoryError("retain", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.version(key, id)
	if v == nil || v.Marker {
		return memoryError("retain", key, storage.ErrNotFound)
	}
	v.lock = v.lock.Join(r)
	return nil
}

// Retention implements storage.Retainer.
func (m *Memory) Retention(ctx context.Context, key, id string) (storage.Retention, error) {
	if err := begin(ctx, key); err != nil {
		return storage.Retention{}, memoryError("retention", key, err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	v := m.version(key, id)
	if v == nil || v.Marker {
		return storage.Retention{}, memoryError("retention", key, storage.ErrNotFound)
	}
	return v.lock, nil
}

// Edit changes the stored bytes of key in place, as a failing disk or a
// hostile administrator would; edit gets a copy. Without such an object it
// does nothing and returns false.
func (m *Memory) Edit(key string, edit func(body []byte) []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.objects[key]
	if _, ok := m.current(key); !ok {
		return false
	}
	v := &all[len(all)-1]
	v.body = edit(bytes.Clone(v.body))
	v.measure()
	return true
}

// Overwrite makes body the current version of key, as an attacker with the
// credentials of a host would do with an unconditional put.
func (m *Memory) Overwrite(key string, body []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(key, version{body: bytes.Clone(body)})
}

// PlainPut implements storage.PlainPutter.
func (m *Memory) PlainPut(ctx context.Context, key string, body []byte) error {
	if err := begin(ctx, key); err != nil {
		return memoryError("plain put", key, err)
	}
	m.Overwrite(key, body)
	return nil
}

// Forget removes key with all versions.
func (m *Memory) Forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(key)
}

// Keys that are in view, sorted.
func (m *Memory) Keys() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(m.keys), func(key string) bool {
		_, ok := m.current(key)
		return !ok
	})
}

// current, beneath, bodies, add, version and forget need the lock.

func (m *Memory) current(key string) (version, bool) {
	all := m.objects[key]
	if len(all) == 0 || all[len(all)-1].Marker {
		return version{}, false
	}
	return all[len(all)-1], true
}

// beneath is the newest version that is no marker.
func (m *Memory) beneath(key string) (version, bool) {
	for _, v := range slices.Backward(m.objects[key]) {
		if !v.Marker {
			return v, true
		}
	}
	return version{}, false
}

// bodies is how many versions are no marker.
func (m *Memory) bodies(key string) (n int) {
	for _, v := range m.objects[key] {
		if !v.Marker {
			n++
		}
	}
	return n
}

func (m *Memory) add(key string, v version) {
	m.lastID++
	v.ID = fmt.Sprintf("v%08d", m.lastID)
	v.Modified = m.now()
	v.measure()
	m.objects[key] = append(m.objects[key], v)
	if i, found := slices.BinarySearch(m.keys, key); !found {
		m.keys = slices.Insert(m.keys, i, key)
	}
}

// measure sets what a listing shows of the body. As on a server, to which it is sent
// in parts, there is no MD5 of a long one.
func (v *version) measure() {
	v.Size, v.md5 = int64(len(v.body)), [md5.Size]byte{}
	if len(v.body) <= 1<<20 {
		v.md5 = md5.Sum(v.body)
	}
}

func (m *Memory) version(key, id string) *version {
	all := m.objects[key]
	for i := range all {
		if all[i].ID == id || id == "" && i == len(all)-1 {
			return &all[i]
		}
	}
	return nil
}

func (m *Memory) forget(key string) {
	delete(m.objects, key)
	if i, found := slices.BinarySearch(m.keys, key); found {
		m.keys = slices.Delete(m.keys, i, i+1)
	}
}

// Put implements storage.Store.
func (p *Plain) Put(ctx context.Context, key string, body []byte, o storage.PutOptions) error {
	if o.Retention.Mode != "" {
		return memoryError("put", key, storage.ErrUnsupported)
	}
	return p.m.Put(ctx, key, body, o)
}

// Get implements storage.Store.
func (p *Plain) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return p.m.Get(ctx, key, offset, length)
}

// List implements storage.Store.
func (p *Plain) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return p.m.List(ctx, o)
}

// Delete implements storage.Store.
func (p *Plain) Delete(ctx context.Context, key string) error {
	if err := begin(ctx, key); err != nil {
		return memoryError("delete", key, err)
	}
	p.m.Forget(key)
	return nil
}

// PlainPut implements storage.PlainPutter.
func (p *Plain) PlainPut(ctx context.Context, key string, body []byte) error {
	if err := begin(ctx, key); err != nil {
		return memoryError("plain put", key, err)
	}
	p.m.Forget(key)
	p.m.Overwrite(key, body)
	return nil
}

func begin(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

// slice is the reader of a range of body, which is never changed in place.
func slice(ctx context.Context, key string, body []byte, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, memoryError("get", key, fmt.Errorf("negative offset %d", offset))
	}
	body = body[min(offset, int64(len(body))):]
	if length >= 0 {
		body = body[:min(length, int64(len(body)))]
	}
	return &memoryBody{ctx, key, bytes.NewReader(body)}, nil
}

type memoryBody struct {
	ctx context.Context
	key string
	r   *bytes.Reader
}

func (b *memoryBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, memoryError("get", b.key, err)
	}
	return b.r.Read(p)
}

func (b *memoryBody) Close() error { return nil }

func memoryError(op, key string, err error) error {
	return &storage.Error{Op: op, Store: "memory:", Key: key, Err: err}
}
