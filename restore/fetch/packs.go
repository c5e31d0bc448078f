package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
)

// LackingPack is a pack that is missing, or not as long as it should be, with what
// cannot be restored because of that.
type LackingPack struct {
	Key   string // of the object
	Err   error
	Files uint64 // each name of a hard-linked file counts
	Paths []string
}

// maxLacking is how many paths are named for each pack.
const maxLacking = 10

// Packs are those that a dry run would read. One listing shows which of
// those of the snapshot are there; nothing of them is read. Containers of the
// manifest need no listing: a dry run reads what a restore reads of them.
type Packs struct {
	ctx  context.Context
	tree *snapshot.Tree

	mu    sync.Mutex
	packs map[[32]byte]*packState
}

// packState is what is known of one pack.
type packState struct {
	want, have int64 // stored bytes; -1 where that is not known
	used       bool  // a dry run would read it
	lacking    *LackingPack
}

// ListPacks compares the packs that a snapshot names with those there are.
func ListPacks(ctx context.Context, t *snapshot.Tree) (*Packs, error) {
	o := &Packs{ctx: ctx, tree: t, packs: map[[32]byte]*packState{}}
	r := t.Reader
	objects, err := r.Objects(ctx, t.Snapshot.Body)
	if err != nil && !authentic.Damaged(err) {
		return nil, err
	}
	if err == nil { // else each pack is looked for when it is met
		for _, x := range objects {
			if x.Kind == wire.KindPack {
				o.packs[x.Hash] = &packState{want: int64(x.Size), have: -1}
			}
		}
	}

	prefix := layout.PrefixPacks(r.Host(), r.Domain().ID)
	for x, err := range r.Store().List(ctx, storage.ListOptions{Prefix: prefix}) {
		if err != nil {
			return nil, err
		}
		if _, _, hash, ok := layout.ParsePackKey(x.Key); ok && o.packs[hash] != nil {
			o.packs[hash].have = x.Size
		}
	}
	return o, nil
}

// Lacking returns why a file could not be restored, nil when it could; good are
// its chunks that need not be read. A nil receiver knows of nothing lacking.
func (o *Packs) Lacking(e *manifest.Entry, good []bool) error {
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()

	for i := range e.Chunks {
		if i < len(good) && good[i] {
			continue
		}
		c := &e.Chunks[i]
		ok, err := o.there(c.Loc.Pack.Hash, int64(c.Loc.FrameOffset)+int64(c.Loc.FrameLen))
		if err == nil && !ok {
			ok, err = o.elsewhere(c)
		}
		if err != nil {
			return err
		}
		if !ok {
			return o.lost(c.Loc.Pack.Hash, e)
		}
	}
	return nil
}

// elsewhere reports whether another place is named at which a chunk may lie, in a
// pack that is there.
func (o *Packs) elsewhere(c *manifest.Chunk) (bool, error) {
	for at, err := range o.tree.Reader.Places(o.ctx, c.ID, placeOf(c)) {
		if authentic.Damaged(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		ok, err := o.there(at.Pack.Hash, int64(at.FrameOffset)+int64(at.FrameLen))
		if ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// there reports whether a pack is there, up to an offset.
func (o *Packs) there(hash [32]byte, end int64) (bool, error) {
	p := o.packs[hash]
	if p == nil {
		p = &packState{want: -1, have: -1}
		o.packs[hash] = p
	}
	if !p.used {
		p.used = true
		if err := o.examine(hash, p); err != nil {
			return false, err
		}
	}
	return p.lacking == nil || end <= p.have, nil
}

// examine finds out whether a pack is as it should be. One that the listing does
// not show, or not with its size, may lie beneath a delete marker or other bytes,
// where a restore finds it too.
func (o *Packs) examine(hash [32]byte, p *packState) error {
	if p.want >= 0 && p.have == p.want {
		return nil
	}
	r := o.tree.Reader
	missing, listed := errors.New("it is missing"), p.want
	if p.have >= 0 {
		listed = p.have
		missing = fmt.Errorf("it is %d bytes long, and should be %d", p.have, p.want)
	}
	tail, _, err := r.Contents(o.ctx, wire.KindPack, hash, listed)
	if err == nil && (p.want < 0 || tail.Size == p.want) {
		return nil
	}
	if err != nil && !authentic.Damaged(err) {
		return err
	}
	p.lacking = &LackingPack{Key: layout.KeyPack(r.Host(), r.Domain().ID, hash), Err: missing}
	return nil
}

// lost notes a file that needs what is not there.
func (o *Packs) lost(hash [32]byte, e *manifest.Entry) error {
	l := o.packs[hash].lacking
	l.Files++
	if len(l.Paths) < maxLacking {
		l.Paths = append(l.Paths, strings.Clone(e.Path))
	}
	return &authentic.DamageError{Key: l.Key, What: "pack", Err: l.Err}
}

// Report returns how many packs would be read, and which of them are lacking.
func (o *Packs) Report() (used int, lacking []LackingPack) {
	for _, p := range o.packs {
		if p.used {
			used++
		}
		if p.lacking != nil {
			lacking = append(lacking, *p.lacking)
		}
	}
	slices.SortFunc(lacking, func(a, b LackingPack) int { return strings.Compare(a.Key, b.Key) })
	return used, lacking
}
