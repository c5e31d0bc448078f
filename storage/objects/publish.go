package objects

import (
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"knowngood/storage/deletion"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// publication writes index runs that a host signs. Whoever uses it holds the lock
// of the runs.
type publication struct {
	*runs
	host   *trust.Host
	stored uint64 // bytes of the runs written
}

// put writes one run.
func (p *publication) put(ctx context.Context, generation uint64, replaces [][32]byte, body *index.Body) (*index.File, error) {
	plain, err := body.Append(nil)
	if err != nil {
		return nil, err
	}
	run := &statement.IndexRun{Repository: p.repo.t.ID(), Host: p.host.Name, Domain: p.ID, Generation: generation, Salt: seal.NewSalt(), Replaces: replaces, Certificate: p.host.Certificate}
	run.SealedBody = seal.Once(p.RunKey(run.Salt), plain, nil)
	object, err := run.Encode(p.host.SigningKey())
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(object)
	if err := p.repo.t.Put(ctx, layout.KeyIndexRun(p.host.Name, p.ID, generation, hash), object, time.Now()); err != nil {
		return nil, err
	}
	p.stored += uint64(len(object))
	p.listed[hash] = true
	return p.cache.Adopt(index.Info{Hash: hash, Generation: generation, Size: uint64(len(object)), Replaces: replaces}, body)
}

// added publishes what was added to the table, and replaces superseded runs.
func (p *publication) added(ctx context.Context) error {
	unsaved, err := p.table.Unsaved()
	if err != nil {
		return err
	}
	generation := p.table.Generation() + 1
	var files []*index.File
	put := func(body *index.Body, replaces [][32]byte) error {
		f, err := p.put(ctx, generation, replaces, body)
		if err == nil {
			files = append(files, f)
		}
		return err
	}

	var last *index.Body // which replaces: before it is there, the others are not enough
	for body := range unsaved.Bodies() {
		if last != nil {
			if err := put(last, nil); err != nil {
				return err
			}
		}
		last = body
	}
	replaces := p.superseded
	if last == nil && len(replaces) > 0 {
		last = &index.Body{Entries: func(func(index.Entry) bool) {}}
	}
	if last != nil {
		slices.SortFunc(replaces, deletion.CompareHashes)
		if err := put(last, slices.Compact(replaces)); err != nil {
			return err
		}
	}
	unsaved.Saved(files...)
	p.superseded = nil
	return nil
}

// merge replaces small runs by larger ones, until there are few.
func (p *publication) merge(ctx context.Context) error {
	for {
		some := index.Plan(p.table.Runs())
		if len(some) == 0 {
			return nil
		}
		merge, err := p.table.Merge(some)
		if err != nil { // some copy is damaged: the next one to load the runs fetches it
			return nil
		}
		generation := p.table.Generation() + 1
		bodies := slices.Collect(merge)
		var merged []*index.File
		for i, body := range bodies {
			var replaces [][32]byte
			if i == len(bodies)-1 {
				replaces = slices.DeleteFunc(index.Replaced(some), func(hash [32]byte) bool { return !p.listed[hash] })
			}
			f, err := p.put(ctx, generation, replaces, body)
			if err != nil {
				return err
			}
			merged = append(merged, f)
		}
		p.table.Adopt(merged...)
	}
}
