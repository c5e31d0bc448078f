package ledger

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"slices"
	"strings"
	"sync"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/localstate"
)

// Newest is a ledger of which this machine remembers the newest entry that it saw count,
// in a file of its state directory: a store that shows only older ones brings nothing
// back that was ended since.
type Newest[T Remembered] struct {
	*Ledger[T]
	// Whole is whether Update gets all entries: then it also reports one that the store
	// does not show beside newer ones.
	Whole bool

	state *localstate.State
	file  string

	mu   sync.Mutex
	last T // that was read from the file, and verified
}

// Remember makes a ledger one whose newest entry is remembered in a file of the
// repository's folder. A listed object with the bytes of that entry is not read again.
func Remember[T Remembered](l *Ledger[T], state *localstate.State, file string) *Newest[T] {
	n := &Newest[T]{Ledger: l, state: state, file: file}
	l.Kept = n.Copy
	return n
}

// Remembered is a statement that was parsed.
type Remembered interface {
	comparable
	Bytes() []byte
	Hash() [32]byte
}

// Known is the entry that is remembered; nil for none.
func (n *Newest[T]) Known() (x T, err error) {
	object, err := n.state.Read(n.file)
	if object == nil || err != nil {
		return x, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last != x && bytes.Equal(n.last.Bytes(), object) {
		return n.last, nil
	}
	known, err := n.Parse(object)
	if err == nil && !strings.HasPrefix(n.Key(known), n.Prefix) {
		err = fmt.Errorf("it is %s", n.Key(known))
	}
	if err != nil {
		return x, fmt.Errorf("file %s is damaged: %v; remove it to forget which %s was seen", n.state.Dir().Path(n.file), err, n.What)
	}
	n.last = known
	return known, nil
}

// Copy is the remembered entry, where a listing shows those bytes; nil where it shows
// others, or no hash.
func (n *Newest[T]) Copy(o storage.Object) []byte {
	var none T
	known, err := n.Known()
	if err != nil || known == none || o.MD5 != md5.Sum(known.Bytes()) {
		return nil
	}
	return known.Bytes()
}

// Update gets the entries that count in the store, the newest first, and returns the
// newest of them and of what is remembered; nil for none. lost is what is remembered and
// not shown, which is reported; nil for nothing. A newer entry is remembered.
func (n *Newest[T]) Update(shown []T) (newest, lost T, err error) {
	var none T
	known, err := n.Known()
	if err != nil {
		return none, none, err
	}
	if len(shown) > 0 {
		newest = shown[0]
	}
	newer := newest != none && (known == none || n.serial(newest) > n.serial(known))
	if known != none && (n.Whole || !newer) && !slices.ContainsFunc(shown, func(x T) bool { return x.Hash() == known.Hash() }) {
		lost = known
		found := "none"
		if newest != none {
			found = n.text(newest)
		}
		n.Reader.Report(authentic.FindingOf(&authentic.TamperError{What: n.What + "s below " + n.Prefix, Key: n.Key(known), Remembered: n.text(known), Found: found,
			Hint: "the one remembered is still used, and ends those before it; find out who can write there"}))
	}
	if !newer {
		return known, lost, nil
	}
	if !n.state.None() {
		if err := n.state.Write(n.file, newest.Bytes()); err != nil {
			n.Reader.Report(authentic.FindingOf(fmt.Errorf("that %s is replaced by an older one may go unnoticed: %w", n.Key(newest), err)))
		}
	}
	return newest, lost, nil
}

func (n *Newest[T]) serial(x T) uint64 {
	number, _ := n.Number(n.Key(x))
	return number
}

func (n *Newest[T]) text(x T) string {
	return fmt.Sprintf("%s %d (%x)", n.What, n.serial(x), x.Hash())
}
