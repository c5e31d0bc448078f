// Package inventory is what a host knows of the packs and manifest containers
// that the store holds for it: a listing, what was put since, and what turned
// out to be lost.
//
// A snapshot may refer only to what the inventory shows with the right size,
// and no inventory counts for longer than a day. It is kept in the state
// directory, where it may be lost: then the store is listed again.
//
// The package is pure: no I/O, no clock of its own.
package inventory
