package generation

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"knowngood/configs"
	"knowngood/internal/durable"
	"knowngood/snapshot/live"
)

// Status of a generation.
type Status string

// Statuses, in the order in which a generation may have them.
const (
	Staged    Status = "staged"
	Trial     Status = "trial"
	Committed Status = "committed"
	Bad       Status = "bad"
)

// Generation is a version of the tree on the disk.
type Generation struct {
	Name   string `json:"name"` // of its directory
	Status Status `json:"state"`
	Inode  uint64 `json:"inode"` // of its directory
	Digest string `json:"digest"`
	// Left is the digest of the tree when it was live last; empty while it was not, or is.
	Left string `json:"left,omitempty"`
	Origin
	Built   time.Time `json:"built"`
	LiveAt  time.Time `json:"live_at,omitzero"`
	LeftAt  time.Time `json:"left_at,omitzero"`
	Why     string    `json:"why,omitempty"` // it is bad
	Entries uint64    `json:"entries"`
	Sealed  string    `json:"sealed,omitempty"` // immutable, or fs-verity, which is both
}

// Origin is where a generation comes from.
type Origin struct {
	Snapshot string `json:"snapshot,omitempty"` // such as web@42; empty of one that was adopted
	ID       string `json:"id,omitempty"`       // of the snapshot
	From     string `json:"from,omitempty"`     // the directory that it was copied from
	Way      string `json:"way"`                // how it was built
	Proof    string `json:"proof"`              // why it may go live
}

// state is what the state file holds. It is replaced as a whole, durably, before each
// step that it announces.
type state struct {
	Version     int           `json:"version"`
	Environment string        `json:"environment"`
	Root        string        `json:"root"`
	Method      string        `json:"method"`
	Generations []*Generation `json:"generations"` // as they were built
	Transaction *transaction  `json:"transaction,omitempty"`
	// Problem is what failed in the last rollback, until something is committed.
	Problem string `json:"problem,omitempty"`
}

// transaction is what is under way, with all that takes it back.
type transaction struct {
	Kind     string    `json:"kind"` // switch, rollback, adopt or release
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
	Steps    []step    `json:"steps,omitempty"`
	Begun    int       `json:"begun"`         // how many steps were begun; they may be done
	Watching bool      `json:"watching"`      // all are done: it is on trial
	Why      string    `json:"why,omitempty"` // it is rolled back
	Deadline time.Time `json:"deadline,omitzero"`
	External bool      `json:"external,omitempty"` // somebody else commits
	Boot     string    `json:"boot"`               // ID of the boot that it began in
	Data     []string  `json:"data,omitempty"`
	// InPlace is where a patch changes things; it is put back there, whatever the
	// configuration has by then.
	InPlace *scope `json:"in_place,omitempty"`
}

// step of a transaction: a flip, or commands.
type step struct {
	Name     string         `json:"name"`
	Commands []configs.Hook `json:"commands,omitempty"`
}

// Names of steps.
const (
	stepStop  = "stop"
	stepFlip  = "flip"
	stepStart = "start"
	stepAfter = "after_switch"
)

const stateVersion = 1

// Errors that callers branch on.
var (
	ErrNotAdopted = errors.New("it has no generations yet")
	ErrBusy       = errors.New("its generations are being changed")
)

// readState reads the state beside a root; nil where there is none.
func readState(dir string) (*state, error) {
	return durable.ReadState(filepath.Join(dir, live.StateFile), (*state).check)
}

// check refuses names that lead elsewhere.
func (s *state) check() error {
	if s.Version != stateVersion {
		return fmt.Errorf("it is of version %d", s.Version)
	}
	for _, g := range s.Generations {
		if g == nil || !namePattern.MatchString(g.Name) {
			return errors.New("it names a generation that cannot be one")
		}
	}
	if t := s.Transaction; t != nil && !s.possible(t) {
		return errors.New("its transaction is none")
	}
	return nil
}

// possible reports whether a transaction can be gone on with.
func (s *state) possible(t *transaction) bool {
	named := false
	switch t.Kind {
	case "switch", "rollback":
		named = s.find(t.From) != nil && s.find(t.To) != nil && (s.Method != methodCopy || t.InPlace != nil)
	case "adopt":
		named = namePattern.MatchString(t.To)
	case "release":
		named = s.find(t.From) != nil
	}
	beneath := !slices.ContainsFunc(t.Data, func(path string) bool { return !filepath.IsLocal(path) || filepath.Clean(path) != path })
	return named && beneath && t.Begun >= 0 && t.Begun <= len(t.Steps)
}

func (s *state) find(name string) *Generation {
	i := slices.IndexFunc(s.Generations, func(g *Generation) bool { return g.Name == name })
	if i < 0 {
		return nil
	}
	return s.Generations[i]
}

func (s *state) drop(name string) {
	s.Generations = slices.DeleteFunc(s.Generations, func(g *Generation) bool { return g.Name == name })
}

// adopted reports whether there is a generation.
func (s *state) adopted() bool { return s != nil && len(s.Generations) > 0 }

// before is the generation that a rollback goes to: the good one that was live last, except
// the one that is live. Nil where there is none.
func (s *state) before(live string) (best *Generation) {
	for _, g := range s.Generations {
		if g.Status == Committed && g.Name != live && (best == nil || g.LeftAt.After(best.LeftAt)) {
			best = g
		}
	}
	return best
}

// last is the good generation of some that was live last; nil where there is none.
func (s *state) last(among func(*Generation) bool) (last *Generation) {
	for _, g := range s.Generations {
		if g.Status != Bad && g.Status != Staged && among(g) && (last == nil || g.LiveAt.After(last.LiveAt)) {
			last = g
		}
	}
	return last
}

// newest are the generations, the one that was built last first.
func (s *state) newest() []*Generation {
	all := slices.Clone(s.Generations)
	slices.Reverse(all)
	return all
}
