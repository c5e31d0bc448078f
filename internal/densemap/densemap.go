// Package densemap is a map for many small values: it takes a few bytes more for
// each than the value has, whatever their number, and where neither keys nor
// values have pointers it costs the garbage collector nothing.
package densemap

import "hash/maphash"

const (
	pageSize = 512         // values
	deleted  = ^uint32(0)  // in index: the place is free, and others may lie behind it
	maxCount = deleted - 1 // values
)

// Map has a value for each key. Only one goroutine at a time may use it. The zero
// Map is empty.
type Map[K comparable, V any] struct {
	seed  maphash.Seed
	index []uint32 // positions of items, plus 1; 0 is free; a power of two, probed one by one
	used  int      // of index, deleted ones included
	pages []*[pageSize]item[K, V]
	free  []uint32 // positions that were deleted
	next  uint32   // position that was never used
}

type item[K comparable, V any] struct {
	key   K
	value V
}

// Len returns how many values there are.
func (m *Map[K, V]) Len() int { return int(m.next) - len(m.free) }

// Get returns the value of a key, which stays where it is until it is deleted, or
// nil.
func (m *Map[K, V]) Get(key K) *V {
	if at, ok := m.find(key); ok {
		return &m.item(m.index[at] - 1).value
	}
	return nil
}

// Add adds the zero value for a key that has none, and returns it.
func (m *Map[K, V]) Add(key K) *V {
	if 4*(m.used+1) > 3*len(m.index) {
		m.rebuild()
	}
	at := m.next
	if n := len(m.free); n > 0 {
		at, m.free = m.free[n-1], m.free[:n-1]
	} else {
		if at == maxCount {
			panic("densemap: too many values") // they take tens of gigabytes: memory ends before
		}
		if at%pageSize == 0 {
			m.pages = append(m.pages, new([pageSize]item[K, V]))
		}
		m.next++
	}
	it := m.item(at)
	*it = item[K, V]{key: key}
	m.insert(at)
	m.used++
	return &it.value
}

// Delete removes a key and its value, if there is one.
func (m *Map[K, V]) Delete(key K) {
	if at, ok := m.find(key); ok {
		m.free = append(m.free, m.index[at]-1)
		m.index[at] = deleted
	}
}

func (m *Map[K, V]) item(at uint32) *item[K, V] { return &m.pages[at/pageSize][at%pageSize] }

func (m *Map[K, V]) hash(key K) int {
	return int(maphash.Comparable(m.seed, key)) & (len(m.index) - 1)
}

// find returns where in the index a key is.
func (m *Map[K, V]) find(key K) (at int, ok bool) {
	if len(m.index) == 0 {
		return 0, false
	}
	for at = m.hash(key); m.index[at] != 0; at = (at + 1) & (len(m.index) - 1) {
		if p := m.index[at]; p != deleted && m.item(p-1).key == key {
			return at, true
		}
	}
	return 0, false
}

func (m *Map[K, V]) insert(position uint32) {
	at := m.hash(m.item(position).key)
	for m.index[at] != 0 {
		at = (at + 1) & (len(m.index) - 1)
	}
	m.index[at] = position + 1
}

// rebuild makes an index with room for as many values again, without what was
// deleted.
func (m *Map[K, V]) rebuild() {
	if m.index == nil {
		m.seed = maphash.MakeSeed()
	}
	size := 64
	for size < 2*(m.Len()+1) {
		size *= 2
	}
	old := m.index
	m.index, m.used = make([]uint32, size), m.Len()
	for _, p := range old {
		if p != 0 && p != deleted {
			m.insert(p - 1)
		}
	}
}
