package check

import (
	"bytes"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
)

// Stored is a pack or manifest container as the store lists it.
type Stored struct {
	deletion.ObjectID
	Domain seal.DomainID
	Size   int64
}

// ListStored returns the packs and manifest containers of a host, in the order of
// their hashes.
func ListStored(ctx context.Context, store storage.Store, host string) ([]Stored, error) {
	var out []Stored
	for _, of := range []struct {
		kind   wire.Kind
		prefix string
		parse  func(string) (string, seal.DomainID, [32]byte, bool)
	}{
		{wire.KindPack, layout.PrefixPackDomains(host), layout.ParsePackKey},
		{wire.KindManifest, layout.PrefixManifestDomains(host), layout.ParseManifestKey},
	} {
		for o, err := range store.List(ctx, storage.ListOptions{Prefix: of.prefix}) {
			if err != nil {
				return nil, err
			}
			if _, domain, hash, ok := of.parse(o.Key); ok {
				out = append(out, Stored{deletion.ObjectID{Kind: of.kind, Hash: hash}, domain, o.Size})
			}
		}
	}
	slices.SortFunc(out, func(a, b Stored) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return out, nil
}

// comparedAtOnce is how many objects CompareStored holds in memory.
const comparedAtOnce = 2

// CompareStored reads objects of a host whole and compares their bytes with their
// names, which takes no identity. It calls done with each object in the order
// given, and with why it is missing or damaged: nil when its bytes are right. It
// ends with the first error of another kind, and with that of done.
func CompareStored(ctx context.Context, repo *repository.Repository, host string, stored []Stored, done func(o Stored, damage error) error) error {
	readers := map[seal.DomainID]*objects.Reader{}
	defer func() {
		for _, r := range readers {
			r.Close()
		}
	}()
	for _, o := range stored {
		if readers[o.Domain] == nil { // names and hashes take no more of a domain than its ID
			readers[o.Domain] = repo.NewReader(host, &seal.Domain{ID: o.Domain})
		}
	}

	for some := range slices.Chunk(stored, comparedAtOnce) {
		var damage [comparedAtOnce]error
		g, gctx := errgroup.WithContext(ctx)
		for i, o := range some {
			g.Go(func() error {
				err := readers[o.Domain].Compare(gctx, o.ObjectID, o.Size, nil)
				if authentic.Damaged(err) {
					damage[i], err = err, nil
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i, o := range some {
			if err := done(o, damage[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
