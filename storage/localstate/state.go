// Package localstate is what a machine keeps of a repository in its state
// directory: what it trusts, and what it has seen, so that it detects a store that
// shows something else later.
package localstate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// State is what a machine keeps of one repository:
//
//	pins/<hash of the place>           descriptor trusted at that place
//	repos/<repository id>/host.key     keys of this machine as a host
//	repos/<repository id>/epoch        newest epoch of the owner seen
//	repos/<repository id>/certs/<host> newest certificate of a host seen
//	repos/<repository id>/heads/<host>/<environment>
//	repos/<repository id>/roots/<host>/<environment>   see Roots
//	repos/<repository id>/stores/<hash of the place>/…   what belongs only to that copy of the repository
//
// Every file is replaced atomically and is on disk when it counts.
type State struct {
	Root    string // the state directory; empty for no memory
	Machine string // distinguishes machines; the ID of the system when empty
	// Place names the store, the same for every spelling of its URL; empty for none.
	Place      string
	Repository seal.RepositoryID // of which the rest is; set once it is known
}

// None reports whether there is no state directory.
func (s *State) None() bool { return s.Root == "" }

// Pin is the SHA-256 of a repository's descriptor, known from elsewhere.
type Pin struct {
	Descriptor [32]byte
	Source     string    // where it is known from, for messages
	OnFirstUse bool      // only the store showed it, and no pin confirmed it
	Since      time.Time // since when it is remembered; zero of one that is not
}

// Dir is the folder of the repository; none without a state directory.
func (s *State) Dir() userdir.Dir { return userdir.At(s.Root).In("repos", s.Repository.String()) }

// Read reads a file of the repository's folder; nil when it does not exist.
func (s *State) Read(name string) ([]byte, error) {
	if s.None() {
		return nil, nil
	}
	return s.folder().read(name)
}

// Write replaces a file of the repository's folder.
func (s *State) Write(name string, data []byte) error {
	return s.folder().write(name, data)
}

// Remove removes a file of the repository's folder, if there is one.
func (s *State) Remove(name string) error {
	if err := s.Dir().Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.Wrap(err)
	}
	return nil
}

// Wrap adds to an error that it is of the state directory, and what can be done.
func (s *State) Wrap(err error) error { return userdir.At(s.Root).Failed(err) }

// Locked runs do while no other process writes the repository's folder.
func (s *State) Locked(do func() error) error {
	if err := s.Dir().Make(); err != nil {
		return s.Wrap(err)
	}
	f, err := s.Dir().OpenFile("lock", os.O_RDWR|os.O_CREATE)
	if err != nil {
		return s.Wrap(err)
	}
	defer f.Close() // which unlocks
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return s.Wrap(err)
	}
	return do()
}

// PlaceHash names a place in the state directory.
func PlaceHash(place string) string {
	sum := sha256.Sum256([]byte(place))
	return hex.EncodeToString(sum[:16])
}

// pins is the folder of what is trusted at each place.
func (s *State) pins() folder { return folder{s, userdir.At(s.Root).In("pins")} }

// OfStore is where a file lies that belongs only to the store at this place: a copy
// of the repository elsewhere has other locks, and other deletions.
func (s *State) OfStore(name string) string {
	return filepath.Join("stores", PlaceHash(s.Place), name)
}

// Pin is what is remembered of the place; nil when nothing is.
func (s *State) Pin() (*Pin, error) {
	if s.None() || s.Place == "" {
		return nil, nil
	}
	file := s.pins().dir.Path(PlaceHash(s.Place))
	b, err := s.pins().read(PlaceHash(s.Place))
	if b == nil || err != nil {
		return nil, err
	}
	h, err := hex.DecodeString(field(b, "pin"))
	since, terr := time.Parse(time.RFC3339, field(b, "since"))
	if err != nil || len(h) != 32 || terr != nil {
		return nil, fmt.Errorf("file %s is damaged: it has no pin; remove it to trust the repository again on first use", file)
	}
	return &Pin{Descriptor: [32]byte(h), Source: file, OnFirstUse: !confirmed(b), Since: since}, nil
}

// confirmed reports whether a pin file has a pin that was confirmed, and not only shown
// by the place itself.
func confirmed(file []byte) bool { return field(file, "vouched") == "yes" }

// field is a line of a pin file; "" when there is none.
func field(file []byte, name string) string {
	for line := range strings.SplitSeq(string(file), "\n") {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return value
		}
	}
	return ""
}

// Confirms reports whether a descriptor was confirmed at any place.
func (s *State) Confirms(pin [32]byte) bool {
	if s.None() {
		return false
	}
	names, _ := s.pins().dir.Names() // an unreadable directory counts as empty
	return slices.ContainsFunc(names, func(name string) bool {
		b, err := s.pins().read(name)
		return err == nil && confirmed(b) && field(b, "pin") == hex.EncodeToString(pin[:])
	})
}

// RememberPin makes the descriptor the one that is trusted at the place, of which
// url is one spelling. Without confirm it is remembered as trusted on first use,
// until a later call confirms it.
func (s *State) RememberPin(url string, d *statement.Descriptor, confirm bool, now time.Time) error {
	if s.None() || s.Place == "" {
		return nil
	}
	known, err := s.Pin()
	if err == nil && known != nil && known.Descriptor == d.Hash() && (!known.OnFirstUse || !confirm) {
		return nil
	}
	word := "no"
	if confirm {
		word = "yes"
	}
	text := fmt.Sprintf("url: %s\nrepository: %v\npin: %x\nvouched: %s\nsince: %s\n", strings.ReplaceAll(url, "\n", " "), d.Repository, d.Hash(), word, now.UTC().Format(time.RFC3339))
	return s.pins().write(PlaceHash(s.Place), []byte(text))
}

// AtPlace finds the repository that a state directory remembers at a place; ok is
// false when it remembers none.
func AtPlace(root, place string) (s *State, ok bool) {
	s = &State{Root: root, Place: place}
	if s.None() {
		return s, false
	}
	b, err := s.pins().read(PlaceHash(place))
	if err != nil {
		return s, false
	}
	id, err := hex.DecodeString(field(b, "repository"))
	if err != nil || len(id) != len(s.Repository) {
		return s, false
	}
	s.Repository = seal.RepositoryID(id)
	return s, true
}

// HeadFile is where the head of an environment lies in the repository's folder.
func HeadFile(host, env string) string { return filepath.Join("heads", host, env) }

// Head is the newest root of an environment that this machine saw verified;
// nil when it saw none.
func (s *State) Head(host, env string) (*statement.Head, error) {
	b, err := s.Read(HeadFile(host, env))
	if b == nil || err != nil {
		return nil, err
	}
	number, rest, _ := strings.Cut(string(b), " ")
	hash, _, _ := strings.Cut(rest, " ")
	n, nerr := strconv.ParseUint(number, 10, 64)
	h, herr := hex.DecodeString(hash)
	if nerr != nil || herr != nil || len(h) != 32 || n == 0 || !bytes.Equal(b, appendHead(nil, n, [32]byte(h))) {
		return nil, fmt.Errorf("file %s is damaged: remove it to forget the newest snapshot seen", s.Dir().Path(HeadFile(host, env)))
	}
	return &statement.Head{Environment: env, Number: n, Hash: [32]byte(h)}, nil
}

// RememberHead remembers a verified root unless a newer one is remembered.
func (s *State) RememberHead(host string, head statement.Head) error {
	if s.None() {
		return nil
	}
	if known, err := s.Head(host, head.Environment); err == nil && known != nil && known.Number >= head.Number {
		return nil
	}
	return s.Locked(func() error {
		known, err := s.Head(host, head.Environment)
		if err != nil || known != nil && known.Number >= head.Number {
			return err
		}
		return s.Write(HeadFile(host, head.Environment), appendHead(nil, head.Number, head.Hash))
	})
}

// appendHead is the content of a head's file, with a checksum: a damaged head would
// accuse the store of a roll-back.
func appendHead(b []byte, number uint64, hash [32]byte) []byte {
	b = fmt.Appendf(b, "%d %x", number, hash)
	return fmt.Appendf(b, " %08x\n", crc32.ChecksumIEEE(b))
}

// Names are the hosts of which a head is remembered, or the environments of
// one host.
func (s *State) Names(host string) ([]string, error) {
	if s.None() {
		return nil, nil
	}
	found, err := s.Dir().In("heads", host).Names()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, s.Wrap(err)
	}
	var names []string
	for _, name := range found {
		if layout.ValidName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Forget removes the heads and roots of a host, because a new certificate has the
// heads that count.
func (s *State) Forget(host string) error {
	for _, folder := range []string{"heads", "roots"} {
		if err := s.Dir().In(folder, host).RemoveAll(); err != nil {
			return s.Wrap(err)
		}
	}
	return nil
}

// Witnesses are the remembered heads of a host, except that of env, sorted.
func (s *State) Witnesses(host, env string) ([]statement.Head, error) {
	names, err := s.Names(host) // sorted
	if err != nil {
		return nil, err
	}
	var heads []statement.Head
	for _, name := range names {
		if name == env {
			continue
		}
		h, err := s.Head(host, name)
		if err != nil {
			return nil, err
		}
		if h != nil {
			heads = append(heads, *h)
		}
	}
	return heads, nil
}

// MachineHash distinguishes this machine from others without naming it; zero when the
// system has no machine ID.
func (s *State) MachineHash() (sum [32]byte) {
	id := []byte(s.Machine)
	for _, file := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if len(id) > 0 {
			break
		}
		if b, err := os.ReadFile(file); err == nil {
			id = bytes.TrimSpace(b)
		}
	}
	if len(id) == 0 {
		return sum
	}
	return sha256.Sum256(append(append([]byte("knowngood v1 machine\n"), s.Repository[:]...), id...))
}
