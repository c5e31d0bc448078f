package localstate

import (
	"encoding/binary"
	"hash/crc32"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"knowngood/storage/layout"
)

// maxStatements is how many statements of one sequence are remembered, the newest.
const maxStatements = 4096

// Statements are the hashes of the statements of one sequence in one store that this
// machine saw count, by number.
type Statements struct {
	state *State
	file  string
}

// Statements of the sequence below a prefix of keys.
func (s *State) Statements(prefix string) *Statements {
	return &Statements{s, s.OfStore(filepath.Join("statements", filepath.FromSlash(strings.TrimPrefix(prefix, layout.PrefixHosts))))}
}

// Path is where they lie, for messages.
func (s *Statements) Path() string { return s.state.Dir().Path(s.file) }

// All returns the remembered hashes, by number.
func (s *Statements) All() (map[uint64][32]byte, error) {
	b, err := s.state.Read(s.file)
	return parseHashes(b), err
}

// Add remembers further hashes. Other processes may do so at the same time.
func (s *Statements) Add(fresh map[uint64][32]byte) error {
	if s.state.None() || len(fresh) == 0 {
		return nil
	}
	return s.state.Locked(func() error {
		all, err := s.All()
		if err != nil {
			return err
		}
		for number, hash := range fresh {
			if _, known := all[number]; !known {
				all[number] = hash
			}
		}
		numbers := slices.Sorted(maps.Keys(all))
		return s.state.Write(s.file, appendHashes(nil, all, numbers[max(0, len(numbers)-maxStatements):]))
	})
}

// appendHashes encodes the hashes of some numbers, a record for each.
func appendHashes(b []byte, hashes map[uint64][32]byte, numbers []uint64) []byte {
	for _, n := range numbers {
		hash := hashes[n]
		b = append(binary.BigEndian.AppendUint64(b, n), hash[:]...)
		b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[len(b)-hashSum:]))
	}
	return b
}

// parseHashes reads what appendHashes made. Of several hashes of a number the first
// counts, and a record that was cut short or damaged does not: a damaged one would
// accuse the store of a forgery.
func parseHashes(b []byte) map[uint64][32]byte {
	hashes := map[uint64][32]byte{}
	for ; len(b) >= hashRecord; b = b[hashRecord:] {
		n := binary.BigEndian.Uint64(b)
		_, known := hashes[n]
		if !known && crc32.ChecksumIEEE(b[:hashSum]) == binary.BigEndian.Uint32(b[hashSum:]) {
			hashes[n] = [32]byte(b[8:hashSum])
		}
	}
	return hashes
}
