package deletion

import (
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"time"

	"knowngood/storage/localstate"
	"knowngood/storage/seal"
)

// Somebody who stole a host's key can sign announcements with it, and wait until the
// host's own prune, which may delete, finds them old enough. So a host uses the time
// of the store only for statements that it published itself. For all others under its
// key it uses the time at which it first saw them.

// seen are the statements of a domain of this host: by the hash of each when it
// was first seen, by the store's clock; zero for one that this machine published.
type seen struct {
	state *localstate.State
	file  string
}

func (x *Deletion) seen(host string, domain seal.DomainID) *seen {
	return &seen{x.t.State, x.t.State.OfStore(filepath.Join("announced", host, domain.String()))}
}

// See returns the Binding of the host itself, which sees the pending deletions at now,
// by the store's clock. Unless dryRun is set it remembers that.
func (x *Deletion) See(host string, domain seal.DomainID, d *Deletions, now time.Time, dryRun bool) (*Binding, error) {
	since := map[uint64]time.Time{} // by serial
	err := x.seen(host, domain).change(dryRun, func(seen map[string]time.Time) map[string]time.Time {
		still := map[string]time.Time{}
		for serial, hash := range d.byHost {
			name := hex.EncodeToString(hash[:])
			at, known := seen[name]
			if !known {
				at = now
			}
			still[name], since[serial] = at, at
		}
		return still
	})
	if err != nil {
		return nil, err
	}
	return &Binding{d, byCurrent, since}, nil
}

// publishes remembers that this machine publishes a statement.
func (s *seen) publishes(hash [32]byte) error {
	return s.change(false, func(seen map[string]time.Time) map[string]time.Time {
		seen[hex.EncodeToString(hash[:])] = time.Time{}
		return seen
	})
}

func (s *seen) change(dryRun bool, change func(map[string]time.Time) map[string]time.Time) error {
	if dryRun || s.state.None() {
		_, err := s.read(change)
		return err
	}
	return s.state.Locked(func() error {
		seen, err := s.read(change)
		if err != nil {
			return err
		}
		b, err := json.Marshal(seen)
		if err != nil {
			return err
		}
		return s.state.Write(s.file, b)
	})
}

func (s *seen) read(change func(map[string]time.Time) map[string]time.Time) (map[string]time.Time, error) {
	seen := map[string]time.Time{}
	if !s.state.None() {
		b, err := s.state.Read(s.file)
		if err != nil {
			return nil, err
		}
		if json.Unmarshal(b, &seen) != nil {
			seen = map[string]time.Time{} // then all are first seen now
		}
	}
	return change(seen), nil
}
