package deletion

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"knowngood/storage"
	"knowngood/storage/layout"
)

// A reserve is space in the store that prune keeps for itself. A prune must store a
// statement before it deletes anything, and on a full store it could not. The reserve
// is several objects. A run deletes as few of them as it needs, and stores them again
// at its end, so that it can run again while the store stays full.
const (
	reservePieces = 8
	reservePiece  = 128 << 10 // bytes
)

// WithReserve calls put, which stores size bytes. While the store is full it deletes
// a piece of the host's reserve and calls put again.
func (x *Deletion) WithReserve(ctx context.Context, host string, size int, put func() error) error {
	for {
		err := put()
		if !errors.Is(err, storage.ErrFull) {
			return err
		}

		gave, spent := x.spendReserve(ctx, host)
		if spent != nil {
			return fmt.Errorf("%w; and the reserve that prune keeps cannot be deleted: %w", err, spent)
		}
		if !gave {
			need := (size + reservePiece) >> 10 // with directories, and what other processes store
			return fmt.Errorf("%w: a prune must store a statement before it deletes, and the store has no reserve left for it: free %d KiB by other means, and run this again", err, need)
		}
	}
}

// spendReserve deletes a piece of the reserve, and reports whether there was
// one.
func (x *Deletion) spendReserve(ctx context.Context, host string) (bool, error) {
	x.reserve.Lock()
	defer x.reserve.Unlock()
	for o, err := range x.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixReserve(host)}) {
		if err != nil {
			return false, err
		}
		err = x.Purge(ctx, o.Key)
		if errors.Is(err, storage.ErrLocked) {
			continue
		}
		return err == nil, err
	}
	return false, nil
}

// KeepReserve makes the reserve of a host as large as it should be, or as there
// is space for. Call it at the end of each run that may have deleted some of it.
func (x *Deletion) KeepReserve(ctx context.Context, host string) error {
	there := 0
	for o, err := range x.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixReserve(host)}) {
		if err != nil {
			return fmt.Errorf("keep a reserve in the store: %w", err)
		}
		if o.Size >= reservePiece {
			there++
		} else if err := x.Purge(ctx, o.Key); err != nil && !errors.Is(err, storage.ErrLocked) { // it reserves nothing
			return fmt.Errorf("keep a reserve in the store: %w", err)
		}
		if there == reservePieces {
			break
		}
	}

	for ; there < reservePieces; there++ {
		// A file system may compress, or store equal pieces once.
		piece := make([]byte, reservePiece)
		rand.Read(piece)
		err := x.t.Store().Put(ctx, layout.PrefixReserve(host)+hex.EncodeToString(piece[:16]), piece, storage.PutOptions{})
		if errors.Is(err, storage.ErrFull) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("keep a reserve in the store: %w", err)
		}
	}
	return nil
}
