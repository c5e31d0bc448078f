package walk

import (
	"bytes"
	"slices"

	"knowngood/snapshot/manifest"
)

// names are those of one directory, with their types as the directory has
// them: 0 where it does not.
type names struct {
	text []byte
	refs []uint64 // offset<<20 | length<<4 | type
}

func (n *names) add(name []byte, t manifest.Type) {
	n.refs = append(n.refs, uint64(len(n.text))<<20|uint64(len(name))<<4|uint64(t))
	n.text = append(n.text, name...)
}

func (n *names) name(i int) []byte { return n.bytes(n.refs[i]) }

func (n *names) bytes(ref uint64) []byte {
	at := ref >> 20
	return n.text[at : at+ref>>4&0xffff]
}

func (n *names) kind(i int) manifest.Type { return manifest.Type(n.refs[i] & 15) }

func (n *names) len() int { return len(n.refs) }

func (n *names) sort() {
	slices.SortFunc(n.refs, func(a, b uint64) int { return bytes.Compare(n.bytes(a), n.bytes(b)) })
}

// has reports whether the sorted names hold one.
func (n *names) has(name string) bool {
	_, ok := slices.BinarySearchFunc(n.refs, name, func(ref uint64, name string) int {
		return bytes.Compare(n.bytes(ref), []byte(name))
	})
	return ok
}

// keep leaves of the sorted names only those wanted.
func (n *names) keep(wanted func(name string) bool) {
	n.refs = slices.DeleteFunc(n.refs, func(ref uint64) bool { return !wanted(string(n.bytes(ref))) })
}

// memory in bytes.
func (n *names) memory() int64 { return int64(cap(n.text) + 8*cap(n.refs)) }
