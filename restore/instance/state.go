package instance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"knowngood/internal/durable"

	"golang.org/x/sys/unix"
)

// Status of an instance.
type Status string

// Statuses, in the order in which an instance has them.
const (
	Building Status = "building" // it may be there in part
	Made     Status = "made"     // its tree is complete, and nothing runs
	Starting Status = "starting" // its probes have not passed yet
	Started  Status = "started"  // it counts, and no probe is asked of it
	Ready    Status = "ready"    // it counts: its probes passed
	Failed   Status = "failed"   // it came up, and its probes do not pass any more
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
	// Probed is when its probes passed last; zero where none are asked.
	Probed time.Time `json:"probed,omitzero"`
	Why    string    `json:"why,omitempty"` // it failed
}

// maxWhy is how many bytes of a state all reasons take for which instances failed.
const maxWhy = 1 << 20

// setFailed remembers why an instance failed, one of many that may have.
func (in *Instance) setFailed(err error, of int) {
	in.Status, in.Why = Failed, durable.Text(err.Error(), min(durable.MaxText, maxWhy/of))
}

// roll is a switch to another tree under way.
type roll struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Count   int    `json:"count"` // of instances
	Undoing bool   `json:"undoing"`
	Why     string `json:"why,omitempty"` // it goes back
}

// badTree is a tree whose instances went back.
type badTree struct {
	Tree string `json:"tree"`
	Why  string `json:"why"`
}

// state is what the state file holds. It is replaced as a whole, durably, before each step
// that it announces.
type state struct {
	Version     int         `json:"version"`
	Environment string      `json:"environment"`
	Current     string      `json:"current"`            // tree of new instances
	Previous    string      `json:"previous,omitempty"` // tree that a rollback goes back to
	Bad         *badTree    `json:"bad,omitempty"`      // that went back last
	Trees       []*Tree     `json:"trees"`
	Instances   []*Instance `json:"instances"`
	Wanted      int         `json:"wanted"`              // how many there should be
	ChangedAt   time.Time   `json:"changed_at,omitzero"` // the number was
	CheckedAt   time.Time   `json:"checked_at,omitzero"` // the probes of all were asked
	Roll        *roll       `json:"roll,omitempty"`
	// Problem is what failed when a roll went back, until the next one.
	Problem string `json:"problem,omitempty"`
}

const stateVersion = 1

var treePattern = regexp.MustCompile(`^[0-9]+-[0-9a-f]{8}(-[0-9a-f]{8})?$`)

// readState reads the state of a directory; nil where there is none.
func readState(dir string) (*state, error) {
	return durable.ReadState(filepath.Join(dir, stateFile), (*state).check)
}

// check refuses names that lead elsewhere.
func (s *state) check() error {
	if s.Version != stateVersion {
		return fmt.Errorf("it is of version %d", s.Version)
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
	if s.Previous != "" && s.tree(s.Previous) == nil {
		return errors.New("its release before is none")
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

// alive are the instances that run or can be started, in the order in which they stay: the
// oldest first, and last those that failed.
func (s *state) alive() []*Instance {
	sound, failed := s.in(Made, Starting, Started, Ready), s.in(Failed)
	for _, some := range [][]*Instance{sound, failed} {
		slices.SortStableFunc(some, func(a, b *Instance) int { return a.Made.Compare(b.Made) })
	}
	return append(sound, failed...)
}

// in are the instances in one of some states.
func (s *state) in(statuses ...Status) (in []*Instance) {
	for _, x := range s.Instances {
		if slices.Contains(statuses, x.Status) {
			in = append(in, x)
		}
	}
	return in
}

// idle reports whether nothing is under way.
func (s *state) idle() bool {
	return s.Roll == nil && len(s.in(Made, Started, Ready, Failed)) == len(s.Instances) && !slices.ContainsFunc(s.Trees, func(t *Tree) bool { return t.Digest == "" })
}

// View is the instances of a directory as they are shown.
type View struct {
	Environment string      `json:"environment"`
	Dir         string      `json:"directory"`
	Current     *Tree       `json:"tree"`               // of new instances; nil before the first
	Previous    *Tree       `json:"previous,omitempty"` // that a rollback goes back to
	Instances   []*Instance `json:"instances"`
	Wanted      int         `json:"wanted"`     // how many there should be
	Ready       int         `json:"ready"`      // how many count, and passed their probes
	NotProbed   int         `json:"not_probed"` // how many count, and no probe is asked of them
	Failed      int         `json:"failed"`
	CheckedAt   time.Time   `json:"checked_at,omitzero"` // the probes of all were asked
	Busy        bool        `json:"busy"`                // another process changes them
	Problem     string      `json:"problem,omitempty"`
}

func (s *state) view(dir string) *View {
	v := &View{Environment: s.Environment, Dir: dir, Current: s.tree(s.Current), Previous: s.tree(s.Previous), Instances: slices.Clone(s.Instances), Wanted: s.Wanted, Ready: len(s.in(Ready)), NotProbed: len(s.in(Started)), Failed: len(s.in(Failed)), CheckedAt: s.CheckedAt, Problem: s.Problem}
	slices.SortFunc(v.Instances, func(a, b *Instance) int { return a.Number - b.Number })
	return v
}

// Look returns what a directory has. It only reads, also while another process changes it.
func Look(dir string) (*View, error) {
	s, err := readState(dir)
	if err == nil && s == nil {
		err = layout{dir}.none()
	}
	if err != nil {
		return nil, err
	}
	v := s.view(dir)
	// Whoever owns the directory may have put anything at the name.
	if f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
		v.Busy = errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
		f.Close()
	}
	return v, nil
}
