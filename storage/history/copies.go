package history

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"sync"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/localstate"
	"knowngood/storage/statement"
)

// copies are bytes of roots that need not be asked for one by one: this machine
// kept them, or a catalogue repeats them. Nobody is believed who wrote these. Bytes
// count where the listing shows them to be those of the root, and are verified then
// as if they had been read there.
type copies struct {
	e    *environment
	kept func() // reads what this machine kept, once

	mu      sync.Mutex
	top     uint64 // the newest number listed, up to which catalogues are read; 0 for none
	byMD5   map[[md5.Size]byte][]byte
	held    int                              // bytes in byMD5 that are of catalogues
	byHash  map[[32]byte]localstate.RootCopy // that this machine kept
	reads   map[uint64]func() bool           // of catalogues, once, by their last number; nil where it is not worth it
	running sync.WaitGroup
}

// spans are how many numbers a catalogue of each size covers, up to a multiple of it.
var spans = [...]uint64{225, 15}

// aheadCatalogues is how many of the next older ones are read before they are wanted.
const aheadCatalogues = 4

// maxHeld is how many bytes of catalogues are held, about: whoever took over a host can
// write any number of them, of 8 MiB each.
const maxHeld = 64 << 20

func newCopies(e *environment) *copies {
	c := &copies{e: e, byMD5: map[[md5.Size]byte][]byte{}, byHash: map[[32]byte]localstate.RootCopy{}, reads: map[uint64]func() bool{}}
	c.kept = sync.OnceFunc(func() {
		kept, err := e.t.State.RootCopies(e.host, e.name)
		if err != nil {
			e.t.Warn(err)
		}
		for _, k := range kept {
			c.byHash[sha256.Sum256(k.Object)] = k
		}
		c.dropCatalogues()
	})
	return c
}

// shown reports whether a listing shows that an object has these bytes, and that it
// is the only version.
func shown(o storage.Object, object []byte) bool {
	return !o.Hidden && !o.Older && o.Size == int64(len(object)) && o.MD5 == md5.Sum(object)
}

// of returns the bytes of the root that a listing shows; nil when they are not at
// hand. Where the listing has no MD5, what is remembered must fit, and when the
// store took it.
func (c *copies) of(o storage.Object) []byte {
	c.kept()
	c.mu.Lock()
	defer c.mu.Unlock()
	if object := c.byMD5[o.MD5]; object != nil {
		return object
	}
	n, _ := c.e.ledger.Number(o.Key)
	if k := c.byHash[c.e.roots[n]]; k.Object != nil && int64(len(k.Object)) == o.Size && k.Modified.Equal(o.Modified) {
		return k.Object
	}
	return nil
}

// want has the catalogue read that repeats a root, if there is one and enough of it
// is wanted, and begins with the next older ones.
func (c *copies) want(ctx context.Context, o storage.Object, n uint64) {
	if o.MD5 == [md5.Size]byte{} || c.of(o) != nil {
		return
	}
	for i := uint64(1); i <= aheadCatalogues && n > i*spans[0]; i++ {
		if read := c.catalogue(ctx, n-i*spans[0], spans[0]); read != nil {
			c.running.Go(func() { read() })
		}
	}
	for _, span := range spans {
		if read := c.catalogue(ctx, n, span); read != nil && read() {
			return
		}
	}
}

// catalogue returns what reads the catalogue of a size that covers a number, and
// reports whether it could; nil when there is none, or too little of it is wanted.
func (c *copies) catalogue(ctx context.Context, n, span uint64) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := (n + span - 1) / span * span
	if last < n || last > c.top {
		return nil
	}
	read, known := c.reads[last]
	if !known {
		if c.wanted(last-span+1, last) > span/16+2 {
			read = sync.OnceValue(func() bool { return c.read(ctx, layout.KeyCatalogue(c.e.host, c.e.name, last)) })
		}
		c.reads[last] = read
	}
	return read
}

// wanted is how many of some roots are not at hand, and not skipped.
func (c *copies) wanted(first, last uint64) (count uint64) {
	for _, span := range (statement.Numbers{{First: first, Last: last}}).Without(c.e.skip) {
		for n := span.First; n <= span.Last; n++ {
			if c.byHash[c.e.roots[n]].Object == nil {
				count++
			}
		}
	}
	return count
}

// dropCatalogues leaves only what this machine kept; mu is held.
func (c *copies) dropCatalogues() {
	clear(c.byMD5)
	c.held = 0
	for _, k := range c.byHash {
		c.byMD5[md5.Sum(k.Object)] = k.Object
	}
}

// read reads a catalogue. When it cannot, each root is asked for, which shows what is
// wrong.
func (c *copies) read(ctx context.Context, key string) bool {
	object, err := authentic.AtMost(ctx, nil, c.e.t.Store(), key, 0, statement.MaxCatalogue)
	if err != nil {
		return false
	}
	roots, err := statement.ParseCatalogue(object)
	if err != nil {
		c.e.t.Warn(&authentic.DamageError{Key: key, What: "catalogue", Err: err})
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held > maxHeld {
		c.dropCatalogues()
	}
	for _, root := range roots {
		c.held += len(root)
		c.byMD5[md5.Sum(root)] = root
	}
	return true
}

// copyOf is what is worth keeping of a snapshot that was read; ok is false when it is
// kept, or what lies under its key now is another object. What a catalogue has of it
// is held no more.
func (c *copies) copyOf(s *Snapshot) (copied localstate.RootCopy, ok bool) {
	c.kept()
	c.mu.Lock()
	defer c.mu.Unlock()
	k, known := c.byHash[s.ID]
	if !known {
		c.held -= len(c.byMD5[s.listed.MD5])
		delete(c.byMD5, s.listed.MD5)
	}
	ok = !s.listed.Hidden && !s.listed.Older && (!known || !k.Modified.Equal(s.listed.Modified) && !shown(s.listed, k.Object))
	return localstate.RootCopy{Object: s.Root.Bytes(), Modified: s.listed.Modified}, ok
}
