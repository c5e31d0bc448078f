package localstate

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
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
		return s.appendTo(RootsFile(host, env), b, func(f *os.File, size int64) (int64, error) {
			return size / hashRecord * hashRecord, nil // a record that was cut short is written over
		})
	})
}

// appendTo appends b to a file of the repository's folder, from where place returns for
// its size, and waits until it is on disk.
func (s *State) appendTo(name string, b []byte, place func(f *os.File, size int64) (int64, error)) error {
	dir := s.Dir().In(filepath.Dir(name))
	if err := dir.Make(); err != nil {
		return s.Wrap(err)
	}
	f, err := dir.OpenFile(filepath.Base(name), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return s.Wrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s.Wrap(err)
	}
	at, err := place(f, info.Size())
	if err == nil {
		_, err = f.WriteAt(b, at)
	}
	if err == nil {
		err = unix.Fdatasync(int(f.Fd()))
	}
	if err != nil {
		return s.Wrap(fmt.Errorf("%s: %w", name, err))
	}
	return nil
}

// CertificateFile is where the newest certificate of a host lies.
func CertificateFile(host string) string { return filepath.Join("certs", host) }

// Certificate is the newest certificate of a host that this machine saw verified;
// nil when it saw none.
func (s *State) Certificate(host string) ([]byte, error) { return s.Read(CertificateFile(host)) }

// RememberCertificate makes it the newest that was seen.
func (s *State) RememberCertificate(host string, object []byte) error {
	if s.None() {
		return nil
	}
	return s.Write(CertificateFile(host), object)
}
