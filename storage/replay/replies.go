package replay

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/storage"
)

// Replies are what a store answered, to be replayed in another process. They encode
// as JSON. The zero value has none; their methods may be called concurrently.
type Replies struct {
	mu       sync.Mutex
	Listings map[string]listing // by prefix
	Objects  map[string][]byte  // statements, by key
}

// listing is what the store listed below a prefix, with the index runs that were put
// since.
type listing struct {
	At      moment // before it was asked for
	Objects []storage.Object
}

// moment is a time on both clocks: the wall clock can be set, and the boot clock is
// that of all processes of this machine.
type moment struct {
	Wall time.Time
	Boot time.Duration
}

func now() moment {
	m := moment{Wall: time.Now().Round(0)}
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) == nil {
		m.Boot = time.Duration(boot.Nano())
	}
	return m
}

// age is the longer one of the times that the two clocks show.
func (m moment) age() time.Duration {
	n := now()
	return max(n.Wall.Sub(m.Wall), n.Boot-m.Boot)
}

// listing below a prefix; ok is false when there is none, or it is too old.
func (r *Replies) listing(prefix string) (l listing, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok = r.Listings[prefix]
	return l, ok && l.At.age() < lasting(prefix)
}

// take takes in a listing. The newest counts; to the same one more may have been
// added.
func (r *Replies) take(prefix string, l listing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch have, ok := r.Listings[prefix]; {
	case r.Listings == nil:
		r.Listings = map[string]listing{}
	case ok && have.At.Boot > l.At.Boot:
		return
	case ok && have.At.Boot == l.At.Boot:
		l.Objects = slices.Concat(have.Objects, l.Objects)
		slices.SortStableFunc(l.Objects, func(a, b storage.Object) int { return strings.Compare(a.Key, b.Key) })
		l.Objects = slices.CompactFunc(l.Objects, func(a, b storage.Object) bool { return a.Key == b.Key })
	}
	r.Listings[prefix] = l
}

// keep keeps an object.
func (r *Replies) keep(key string, object []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Objects == nil || len(r.Objects) > maxObjects {
		r.Objects = map[string][]byte{}
	}
	r.Objects[key] = object
}

// Copy returns a copy, which can be encoded while r is used.
func (r *Replies) Copy() *Replies {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Replies{Listings: maps.Clone(r.Listings), Objects: maps.Clone(r.Objects)}
}

// Merge takes in what another process was answered.
func (r *Replies) Merge(other *Replies) {
	for prefix, l := range other.Listings {
		r.take(prefix, l)
	}
	for key, object := range other.Objects {
		r.keep(key, object)
	}
}
