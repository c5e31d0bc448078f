package localstate

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// hashRecord is the length of a record in a file of hashes: a number, big-endian,
// and a SHA-256; from hashSum on the CRC-32 of both, big-endian.
const (
	hashSum    = 8 + 32
	hashRecord = hashSum + 4
)

// RootsFile is where the roots of an environment lie that this machine saw
// verified, in the repository's folder.
func RootsFile(host, env string) string { return filepath.Join("roots", host, env) }

// Roots are the hashes of the roots of an environment that this machine saw
// verified, together with the chain that leads to them, by number. The store cannot
// replace them later.
func (s *State) Roots(host, env string) (map[uint64][32]byte, error) {
	b, err := s.Read(RootsFile(host, env))
	if err != nil {
		return nil, err
	}
	return parseHashes(b), nil
}

// RememberRoots adds roots to those of an environment. Another process may do so
// at the same time.
func (s *State) RememberRoots(host, env string, roots map[uint64][32]byte) error {
	if s.None() || len(roots) == 0 {
		return nil
	}
	b := appendHashes(nil, roots, slices.Sorted(maps.Keys(roots)))
	return s.Locked(func() error {
		return s.folder().append(RootsFile(host, env), b, func(f *os.File, size int64) (int64, error) {
			return size / hashRecord * hashRecord, nil // a record that was cut short is written over
		})
	})
}

// CertificateFile has the newest certificate of a host that this machine saw verified.
func CertificateFile(host string) string { return filepath.Join("certs", host) }
