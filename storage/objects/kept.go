package objects

import (
	"context"
	"sync"

	"knowngood/storage/pack"
)

// kept are containers that were read whole and will be read again, once.
type kept struct {
	mu         sync.Mutex
	limit      int64 // of them all, in bytes
	bytes      int64
	containers map[[32]byte][]byte
}

// Keep makes the Reader read whole containers where it reads their lists of objects,
// and keep so many bytes of them, each until it is read again: who opens its manifest
// then asks nothing more of the store. One that is larger than an eighth is not kept.
func (r *Reader) Keep(bytes int64) {
	r.containers.kept.limit, r.containers.kept.containers = bytes, map[[32]byte][]byte{}
}

// first is how much of a container's end is read first: all of it where it is kept.
func (k *kept) first(size int64) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fits(size) {
		return size
	}
	return min(size, pack.TailLen)
}

// fits reports whether there is room for a container; mu is held.
func (k *kept) fits(size int64) bool { return size <= min(k.limit/8, k.limit-k.bytes) }

// put keeps a container that fits, in the place of what was kept for it.
func (k *kept) put(hash [32]byte, object []byte) {
	k.take(hash)
	k.mu.Lock()
	defer k.mu.Unlock()
	if size := int64(len(object)); k.fits(size) {
		k.containers[hash] = object
		k.bytes += size
	}
}

// take returns a container and keeps it no more; nil when it is not kept.
func (k *kept) take(hash [32]byte) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	object := k.containers[hash]
	k.bytes -= int64(len(object))
	delete(k.containers, hash)
	return object
}

// Range is that of authentic.Hashed, out of what is kept where that has it.
func (s *stored) Range(ctx context.Context, dst []byte, key string, hash [32]byte, offset, length int64) ([]byte, error) {
	if object := s.kept.take(hash); object != nil && offset+length <= int64(len(object)) {
		return append(dst, object[offset:offset+length]...), nil
	}
	return s.Hashed.Range(ctx, dst, key, hash, offset, length)
}
