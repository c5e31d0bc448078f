package prune

import (
	"bytes"
	"iter"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/storage/pack"
)

// maxLists bounds the file of lists of an environment, in bytes. What is above it is
// read from the store each time.
const maxLists = 16 << 20

// lists are the lists of objects of the kept snapshots of an environment in one
// domain, as the state directory has them: each as what differs from the one before.
//
// A list counts only for a root that was signed for its digest, so nothing in the
// file is believed. What is missing or damaged there is read from the store.
type lists struct {
	dir      userdir.Dir
	name     string // of the file
	old, new []byte // the file as it was, and as it will be

	digest [32]byte // of the list that was added last
	last   []pack.Object
}

func openLists(dir userdir.Dir, name string) *lists {
	l := &lists{dir: dir, name: name}
	if !dir.None() {
		l.old, _ = dir.ReadFile(name) // without it all are read from the store
	}
	return l
}

// all yields the lists of the file by their digests, up to the first damaged one.
func (l *lists) all() iter.Seq2[[32]byte, []pack.Object] {
	return func(yield func([32]byte, []pack.Object) bool) {
		var digest [32]byte
		var list []pack.Object
		for d := wire.NewDecoder(l.old); d.Rest() > 0; {
			x := pack.ParseObjectList(d)
			if !x.Differs() {
				list = nil
			} else if x.Base.Hash != digest {
				return
			}
			var err error
			if list, err = x.Whole(list); err != nil || d.Err() != nil {
				return
			}
			if digest = pack.ObjectsDigest(list); !yield(digest, list) {
				return
			}
		}
	}
}

// add adds a list to what will be in the file.
func (l *lists) add(digest [32]byte, list []pack.Object) {
	x := pack.ObjectList{Added: list}
	if l.last != nil {
		if y := pack.ListObjects(pack.Object{Kind: wire.KindManifest, Hash: l.digest}, l.last, list); len(y.Added)+len(y.Removed) < len(list) {
			x = y
		}
	}
	if b := x.Append(l.new); len(b) <= maxLists {
		l.new, l.digest, l.last = b, digest, list
	}
}

// save replaces the file, if something in it changes.
func (l *lists) save() error {
	if l.dir.None() || bytes.Equal(l.old, l.new) {
		return nil
	}
	if err := l.dir.Make(); err != nil {
		return err
	}
	return l.dir.Replace(l.name, l.new)
}
