package deletion

import (
	"knowngood/internal/wire"
	"knowngood/storage/inventory"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// ObjectID names a pack or a manifest container of a domain.
type ObjectID = inventory.ID

// Key is where a pack or container lies.
func Key(host string, domain seal.DomainID, id ObjectID) string {
	if id.Kind == wire.KindManifest {
		return layout.KeyManifest(host, domain, id.Hash)
	}
	return layout.KeyPack(host, domain, id.Hash)
}

// ParseKey reads the key of a pack or a manifest container.
func ParseKey(key string) (ObjectID, bool) {
	if _, _, hash, ok := layout.ParsePackKey(key); ok {
		return ObjectID{Kind: wire.KindPack, Hash: hash}, true
	}
	_, _, hash, ok := layout.ParseManifestKey(key)
	return ObjectID{Kind: wire.KindManifest, Hash: hash}, ok
}
