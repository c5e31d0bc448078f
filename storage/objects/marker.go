package objects

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
)

// marker is a locked file in the state directory: a capture is under way. One
// that nobody holds the lock of is stale: its capture died, and may have left
// packs that no index run names.
type marker struct {
	dir   userdir.Dir
	file  *os.File
	stale []string // names of other captures' markers
}

// placeMarker marks that a capture is under way, and finds stale markers.
func (d domain) placeMarker() (*marker, error) {
	m := &marker{dir: d.repo.t.State.Dir().In("runs")}
	fail := func(err error) (*marker, error) {
		m.close()
		return nil, m.dir.Failed(err)
	}
	if err := m.dir.Make(); err != nil {
		return fail(err)
	}
	names, err := m.dir.Names()
	if err != nil {
		return fail(err)
	}
	for _, n := range names {
		if m.abandoned(n) {
			m.stale = append(m.stale, n)
		}
	}
	if m.file, err = m.dir.CreateTemp(d.ID.String() + "-"); err != nil {
		return fail(err)
	}
	if err := unix.Flock(int(m.file.Fd()), unix.LOCK_EX); err != nil {
		return fail(err)
	}
	return m, nil
}

// abandoned reports whether the capture that left a marker is dead.
func (m *marker) abandoned(name string) bool {
	f, err := m.dir.Open(name)
	if err != nil {
		return false
	}
	defer f.Close() // which unlocks
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// removeStale removes the stale markers: an index run names all that their
// captures left.
func (m *marker) removeStale() {
	for _, name := range m.stale {
		// One that was made but not yet locked when it was found is locked by now.
		if m.abandoned(name) {
			_ = m.dir.Remove(name) // the next capture finds what stays
		}
	}
	m.stale = nil
}

// remove removes the marker: the capture is complete.
func (m *marker) remove() { _ = m.dir.Remove(filepath.Base(m.file.Name())) }

func (m *marker) close() {
	if m != nil && m.file != nil {
		m.file.Close()
	}
}
