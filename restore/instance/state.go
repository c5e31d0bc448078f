package instance

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"knowngood/internal/durable"
)

// Status of an instance.
type Status string

// Statuses, in the order in which an instance has them.
const (
	Building Status = "building" // it may be there in part
	Made     Status = "made"     // its tree is complete, and nothing runs
	Starting Status = "starting" // its probes have not passed yet
	Ready    Status = "ready"    // it counts
	Draining Status = "draining" // before_retire has begun
	Stopping Status = "stopping" // what it runs is being stopped
	Removing Status = "removing" // nothing runs any more
)

// Tree is what instances are made from: a snapshot, or a directory of it, as it was restored.
type Tree struct {
	Name     string    `json:"name"` // of its directory
	Snapshot string    `json:"snapshot"`
	ID       string    `json:"id"`    // of the snapshot
	Under    string    `json:"under"` // path in the snapshot; empty for all
	Proof    string    `json:"proof,omitempty"`
	Digest   string    `json:"digest,omitempty"` // empty while it is restored
	Paths    uint64    `json:"paths"`
	Built    time.Time `json:"built"`
}

// Instance is one of many equal trees.
type Instance struct {
	Number int       `json:"number"`
	Tree   string    `json:"tree"` // that it was made from
	Way    string    `json:"way"`  // how: overlay, btrfs snapshot, reflinks or copies
	Status Status    `json:"state"`
	Made   time.Time `json:"made"`
	Boot   string    `json:"boot"` // ID of the boot in which it was mounted and started
}

// roll is a switch to another tree under way.
type roll struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Count   int    `json:"count"` // of instances
	Undoing bool   `json:"undoing"`
	Why     string `json:"why,omitempty"` // it goes back
}

// state is what the state file holds. It is replaced as a whole, durably, before each step
// that it announces.
type state struct {
	Version     int         `json:"version"`
	Environment string      `json:"environment"`
	Current     string      `json:"current"` // tree of new instances
	Trees       []*Tree     `json:"trees"`
	Instances   []*Instance `json:"instances"`
	ChangedAt   time.Time   `json:"changed_at,omitzero"` // the number was
	Roll        *roll       `json:"roll,omitempty"`
	// Problem is what failed when a roll went back, until the next one.
	Problem string `json:"problem,omitempty"`
}

const (
	stateVersion = 1
	maxState     = 4 << 20
)

var treePattern = regexp.MustCompile(`^[0-9]+-[0-9a-f]{8}(-[0-9a-f]{8})?$`)

// readState reads the state of a directory; nil where there is none.
func readState(dir string) (*state, error) {
	s, path := &state{}, filepath.Join(dir, stateFile)
	found, err := durable.ReadJSON(path, maxState, s)
	if found && err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read by this version (version %d): %w", path, s.Version, err)
	}
	if !found {
		return nil, nil
	}
	return s, nil
}

// check refuses names that lead elsewhere.
func (s *state) check() error {
	if s.Version != stateVersion {
		return errors.New("it is of another version")
	}
	for _, t := range s.Trees {
		if t == nil || !treePattern.MatchString(t.Name) {
			return errors.New("it names a tree that cannot be one")
		}
	}
	seen := map[int]bool{}
	for _, in := range s.Instances {
		if in == nil || in.Number < 1 || seen[in.Number] || s.tree(in.Tree) == nil {
			return errors.New("it has an instance that cannot be one")
		}
		seen[in.Number] = true
	}
	if r := s.Roll; r != nil && (s.tree(r.From) == nil || s.tree(r.To) == nil) {
		return errors.New("its switch is none")
	}
	return nil
}

func (s *state) find(number int) *Instance {
	i := slices.IndexFunc(s.Instances, func(in *Instance) bool { return in.Number == number })
	if i < 0 {
		return nil
	}
	return s.Instances[i]
}

func (s *state) tree(name string) *Tree {
	i := slices.IndexFunc(s.Trees, func(t *Tree) bool { return t.Name == name })
	if i < 0 {
		return nil
	}
	return s.Trees[i]
}

// save makes the state durable. at names the moment, for tests that end the process there.
func (s *Set) save(at string) error {
	s.point("before " + at)
	if err := durable.ReplaceJSON(s.path(stateFile), s.state, 0o600); err != nil {
		return fmt.Errorf("state of instances: %w", err)
	}
	s.point("after " + at)
	return nil
}

// alive are the instances that run or can be started, the oldest first.
func (s *state) alive() (alive []*Instance) {
	for _, in := range s.Instances {
		if in.Status == Made || in.Status == Starting || in.Status == Ready {
			alive = append(alive, in)
		}
	}
	slices.SortStableFunc(alive, func(a, b *Instance) int { return a.Made.Compare(b.Made) })
	return alive
}

// View is the instances of a directory as they are shown.
type View struct {
	Dir       string      `json:"directory"`
	Current   *Tree       `json:"tree"` // of new instances; nil before the first
	Instances []*Instance `json:"instances"`
	Ready     int         `json:"ready"` // how many count
	Problem   string      `json:"problem,omitempty"`
}

// View returns what there is.
func (s *Set) View() *View {
	v := &View{Dir: s.dir, Current: s.state.tree(s.state.Current), Instances: slices.Clone(s.state.Instances), Problem: s.state.Problem}
	slices.SortFunc(v.Instances, func(a, b *Instance) int { return a.Number - b.Number })
	for _, in := range v.Instances {
		if in.Status == Ready {
			v.Ready++
		}
	}
	return v
}
