package child

import "sync"

// Memory is shared by processes: each that joined has an equal part of it.
type Memory struct {
	mu     sync.Mutex
	total  int64 // bytes
	shares []*func(int64)
}

// NewMemory is memory of so many bytes.
func NewMemory(total int64) *Memory { return &Memory{total: total} }

// Join takes a part until leave is called. set is called with its size whenever that
// changes: a smaller one before another process gets the rest.
func (m *Memory) Join(set func(bytes int64)) (leave func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shares = append(m.shares, &set)
	m.divide()
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for i, s := range m.shares {
			if s == &set {
				m.shares = append(m.shares[:i:i], m.shares[i+1:]...)
				break
			}
		}
		m.divide()
	}
}

// divide sets the parts, that of the newest last; mu is held.
func (m *Memory) divide() {
	for _, set := range m.shares {
		(*set)(m.total / int64(len(m.shares)))
	}
}
