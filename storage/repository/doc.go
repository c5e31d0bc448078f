// Package repository is a repository over a store: its trust, its keys, its
// hosts and the roots that commit snapshots (docs/FORMAT.md). Packs and
// manifests are written and read by Writer and Reader.
//
// A host holds public keys, its signing key and its domain, and can commit,
// list and verify with them; it cannot read what it captured. Whoever unlocks
// the repository with an identity can read. What an identity opens stays in
// memory.
//
// Everything read is verified: the descriptor against a pin, statements
// against the owner key in it, roots against the certificates and the chain,
// listings against what this machine remembers. What does not verify is a
// *DamageError or a *TamperError and never used. On a store that keeps
// versions an object that was hidden or overwritten is found beneath the
// current view, used, and reported by Warnings.
//
// It never replaces an object, and deletes none of its own accord but those by
// which it probes the store. What may be deleted storage/prune decides.
package repository
