// Package objects is what snapshots are made of: packs of chunks, containers of
// manifests, and the index that holds where chunks lie (docs/FORMAT.md sections 6
// to 8). Writer stores them, Reader reads them, Index finds them.
//
// A pack or container is named by the SHA-256 of its bytes. What is read is
// verified: what has the name, or opens and has the content that was asked for,
// is the object; another version of it is found beneath the current view. What the
// store lost counts as not stored.
package objects

import (
	"sync"

	"knowngood/storage/deletion"
	"knowngood/storage/seal"
	"knowngood/storage/trust"
)

// ID names a pack or a manifest container of a domain.
type ID = deletion.ObjectID

// Objects of one repository. Its methods may be called concurrently.
type Objects struct {
	t *trust.Trust
	d *deletion.Deletion

	mu          sync.Mutex
	inventories map[seal.DomainID]*ownInventory
}

// New makes the Objects of a repository.
func New(t *trust.Trust, d *deletion.Deletion) *Objects { return &Objects{t: t, d: d} }
