// Package objects is what snapshots are made of: packs of chunks, containers of
// manifests, and the index that says where chunks lie (docs/FORMAT.md sections 6
// to 8). Writer stores them, Reader reads them, Index finds them.
//
// A pack or container is named by the SHA-256 of its bytes. What is read is
// verified: what has the name, or opens and has the content that was asked for,
// is the object; another version of it is found beneath the current view. What the
// store lost counts as not stored.
package objects

import (
	"sync"
	"time"

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

	keepIndex time.Duration // how long index runs count once they are loaded
	warm      warm

	mu          sync.Mutex
	inventories map[seal.DomainID]*ownInventory
}

// New makes the Objects of a repository. keepIndex keeps the index of the host's
// own domain open between runs, until Close: this is how long a look at what other
// processes of the host wrote counts, at most half a day. 0 opens it for each run.
func New(t *trust.Trust, d *deletion.Deletion, keepIndex time.Duration) *Objects {
	return &Objects{t: t, d: d, keepIndex: keepIndex}
}
