// Package instance makes many equal trees from one, each with an own writable part, and keeps
// as many of them running as are asked for (docs/GENERATIONS.md).
//
// It promises that the first tree is restored and verified once, and compared with its record
// before others are made from it; that an instance counts only when its probes passed; that
// one is drained before it is stopped, and removed only when nothing uses it; and that after
// the process or the machine died, the next Open finds what was not finished, and finishes or
// removes it.
//
// It refuses a directory that holds other things, or on the way to which others than root and
// the running user could put something.
package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/durable"
	"knowngood/restore/generation"
	"knowngood/snapshot/live"
)

// Names in the directory.
const (
	stateFile = "instances.json"
	lockFile  = "lock"
	treesDir  = "trees" // with the trees that instances are made from, only for their owner
	layersDir = "upper" // with the writable parts of overlays
	recordExt = ".files"
	envExt    = ".env"
)

// Errors that callers branch on.
var (
	ErrBusy  = errors.New("its instances are being changed")
	ErrNone  = errors.New("there are no instances")
	ErrProbe = errors.New("its probes did not pass")
)

// Options of a set of instances.
type Options struct {
	Dir         string
	Environment string // empty is that of the instances that are there
	// Config is how they are started and retired; nil where they are only made, by spawn.
	Config *configs.Scale
	// Probes are asked of each new instance; their placeholders are not filled in.
	Probes []configs.Probe
	// Ask asks one probe of the machine.
	Ask func(context.Context, []configs.Probe) error
	// Overlay makes new instances overlays.
	Overlay bool
	Now     func() time.Time
	// Note gets what a person should know; text of programs is printable.
	Note func(format string, args ...any)
	// Point, when set, is called at each moment at which a test may end the process.
	Point func(name string)
}

func (o *Options) point(name string) {
	if o.Point != nil {
		o.Point(name)
	}
}

// Set is the instances of a directory, locked by this process until Close.
type Set struct{ fleet }

// Open locks the instances of a directory, and finishes what another process left under way.
// Where there is no directory it makes one, if it may, and else the error is ErrNone. It is
// ErrBusy while another process changes them.
func Open(ctx context.Context, o *Options, create bool) (*Set, error) {
	if create {
		if err := makeParents(o.Dir); err != nil {
			return nil, err
		}
	}
	parent, err := live.Parent(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Set{fleet{stock{journal{Options: o, layout: layout{filepath.Join(parent, filepath.Base(o.Dir))}}}}}
	if owner := live.Owner(s.dir); owner != "" {
		return nil, fmt.Errorf("%s lies in the generations of %s: choose another directory", s.dir, owner)
	}
	for d := parent; d != "/"; d = filepath.Dir(d) { // which may take it for an instance
		if _, err := os.Lstat(filepath.Join(d, stateFile)); err == nil {
			return nil, fmt.Errorf("%s lies in %s, which has instances: choose a directory beside that", s.dir, d)
		}
	}
	if err := s.prepare(create); err != nil {
		return nil, err
	}
	if s.lock, err = generation.HoldFile(s.path(lockFile)); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: %w by another process: wait for it", s.dir, ErrBusy)
	} else if err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// begin reads the state under the lock, and finishes what was left under way.
func (s *Set) begin(ctx context.Context) (err error) {
	if s.state, err = readState(s.dir); err != nil {
		return err
	}
	s.state = cmp.Or(s.state, &state{Version: stateVersion, Environment: s.Environment, Trees: []*Tree{}, Instances: []*Instance{}})
	s.Environment = cmp.Or(s.Environment, s.state.Environment)
	if s.state.Environment != s.Environment {
		return fmt.Errorf("%s has instances of environment %q, not of %q: choose another directory", s.dir, s.state.Environment, s.Environment)
	}
	return s.recover(ctx)
}

// Remove removes all instances, and the directory. Instances that were started are refused:
// those who know how stop them.
func (s *Set) Remove() error {
	for _, in := range s.state.Instances {
		if in.Status != Made && in.Status != Removing {
			return fmt.Errorf("instance %d of %s is %s: knowngood scale %s --to 0 stops and removes them first", in.Number, s.dir, in.Status, s.Environment)
		}
	}
	for _, in := range slices.Clone(s.state.Instances) {
		if err := s.discard(in); err != nil {
			return err
		}
	}
	s.state.Current, s.state.Previous = "", ""
	if err := s.prune(); err != nil {
		return err
	}
	for _, name := range []string{layersDir, treesDir, durable.Reserve, stateFile, lockFile} {
		if err := s.remove(name); err != nil {
			return err
		}
	}
	if err := os.Remove(s.dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}
