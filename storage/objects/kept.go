package objects

import (
	"context"
	"sync"

	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// kept are objects with a manifest table that were read whole and will be read again.
type kept struct {
	mu      sync.Mutex
	limit   int64 // of them all, in bytes
	bytes   int64
	objects map[[32]byte]*keptObject
}

type keptObject struct {
	object []byte // nil until it is read
	reads  int    // how many are to come
}

// Keep makes the Reader read whole the objects with lists of objects, where it reads
// these, and keep so many bytes of them, each until its contents, of a pack, and its
// manifest were read: that asks nothing more of the store. One that is larger than an
// eighth is not kept.
func (r *Reader) Keep(bytes int64) {
	r.packs.kept = &kept{limit: bytes, objects: map[[32]byte]*keptObject{}}
	r.containers.kept = r.packs.kept
}

// want notes that an object is about to be read and then to be read again.
func (s *stored) want(hash [32]byte) {
	k := s.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects != nil && k.objects[hash] == nil {
		k.objects[hash] = &keptObject{reads: 1}
		if s.kind == wire.KindPack {
			k.objects[hash].reads = 2
		}
	}
}

// first is how much of an object's end is read first: all of it where it is kept.
func (k *kept) first(hash [32]byte, size int64) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects[hash] != nil && k.fits(size) {
		return size
	}
	return min(size, pack.TailLen)
}

// fits reports whether there is room for an object; mu is held.
func (k *kept) fits(size int64) bool { return size <= min(k.limit/8, k.limit-k.bytes) }

// put keeps an object that is wanted and fits.
func (k *kept) put(hash [32]byte, object []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.objects[hash]
	if o == nil || o.object != nil {
		return
	}
	if size := int64(len(object)); k.fits(size) {
		o.object = object
		k.bytes += size
	} else {
		delete(k.objects, hash)
	}
}

// take returns an object, and keeps it no more after the last read; nil when it is not
// kept.
func (k *kept) take(hash [32]byte) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.objects[hash]
	if o == nil || o.object == nil {
		return nil
	}
	if o.reads--; o.reads == 0 {
		k.bytes -= int64(len(o.object))
		delete(k.objects, hash)
	}
	return o.object
}

// Range is that of authentic.Hashed, out of what is kept where that has it.
func (s *stored) Range(ctx context.Context, dst []byte, key string, hash [32]byte, offset, length int64) ([]byte, error) {
	if object := s.kept.take(hash); object != nil && offset+length <= int64(len(object)) {
		return append(dst, object[offset:offset+length]...), nil
	}
	return s.Hashed.Range(ctx, dst, key, hash, offset, length)
}
