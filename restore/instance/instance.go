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
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/posix"
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
	// reserveFile is room for the state on a full disk.
	reserveFile = "reserve"
	envExt      = ".env"
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
type Set struct {
	*Options
	layout
	state *state
	lock  *os.File
}

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
	s := &Set{Options: o, layout: layout{filepath.Join(parent, filepath.Base(o.Dir))}}
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
	if s.Environment == "" {
		s.Environment = s.state.Environment
	}
	if s.state.Environment != s.Environment {
		return fmt.Errorf("%s has instances of environment %q, not of %q: choose another directory", s.dir, s.state.Environment, s.Environment)
	}
	return s.recover(ctx)
}

// Close unlocks.
func (s *Set) Close() {
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
}

// TreeName is the name of the tree of a snapshot, or of what is below a path of it.
func TreeName(number uint64, id [32]byte, under string) string {
	name := fmt.Sprintf("%d-%x", number, id[:4])
	if under != "" {
		sum := sha256.Sum256([]byte(under))
		name += fmt.Sprintf("-%x", sum[:4])
	}
	return name
}

// Tree returns the tree of a snapshot, of which new instances are made. Where there is none
// fill makes an empty directory hold it, and it is recorded.
func (s *Set) Tree(ctx context.Context, t *Tree, fill func(ctx context.Context, dir string) error) (*Tree, error) {
	if have := s.state.tree(t.Name); have != nil {
		return have, nil
	}
	t.Digest, t.Built = "", s.Now()
	s.state.Trees = append(s.state.Trees, t)
	if err := s.save("tree"); err != nil {
		return nil, err
	}
	top := s.treePath(t.Name)
	err := s.makeTop(top)
	if err == nil {
		err = fill(ctx, top)
	}
	s.point("after filling")
	if err == nil {
		err = posix.SyncFS(s.dir)
	}
	if err == nil {
		t.Digest, t.Paths, err = generation.RecordTree(ctx, top, top+recordExt)
	}
	if err == nil {
		err = s.save("tree is there")
	}
	if err != nil {
		t.Digest = ""
		return nil, errors.Join(err, s.removeTree(t))
	}
	return t, nil
}

func (s *Set) removeTree(t *Tree) error {
	for _, name := range []string{t.Name, t.Name + recordExt} {
		if err := s.remove(filepath.Join(treesDir, name)); err != nil {
			return err
		}
	}
	s.state.Trees = slices.DeleteFunc(s.state.Trees, func(x *Tree) bool { return x == t })
	return s.save("tree is removed")
}

// prune removes trees that nothing is made from any more.
func (s *Set) prune() error {
	for _, t := range slices.Clone(s.state.Trees) {
		used := t.Name == s.state.Current || t.Name == s.state.Previous || slices.ContainsFunc(s.state.Instances, func(in *Instance) bool { return in.Tree == t.Name })
		if used {
			continue
		}
		if err := s.removeTree(t); err != nil {
			return err
		}
	}
	return nil
}

// Spawn makes the number of instances up to count, from a tree, and returns the new ones.
// Either all of them are there in the end, or none of the new ones.
func (s *Set) Spawn(ctx context.Context, t *Tree, count int) ([]*Instance, error) {
	s.state.Current = t.Name
	if err := s.save("current"); err != nil {
		return nil, err
	}
	return s.add(ctx, t, count-len(s.state.alive()))
}

// maxInstances is how many a directory can have, so that its state stays below maxState.
const maxInstances = 10_000

// add makes n more instances from a tree.
func (s *Set) add(ctx context.Context, t *Tree, n int) ([]*Instance, error) {
	if n <= 0 {
		return nil, nil
	}
	if all := len(s.state.Instances) + n; all > maxInstances {
		return nil, fmt.Errorf("%s would have %d instances, and can have %d: use further directories", s.dir, all, maxInstances)
	}
	if err := generation.VerifyTree(ctx, "tree "+t.Name, s.treePath(t.Name), s.treePath(t.Name)+recordExt, t.Digest); err != nil {
		return nil, fmt.Errorf("no instance is made from a tree that was changed: %w (remove the instances, then begin again)", err)
	}
	var added []*Instance
	for number := 1; len(added) < n; number++ {
		if s.state.find(number) == nil {
			in := &Instance{Number: number, Tree: t.Name, Status: Building, Made: s.Now(), Boot: generation.BootID()}
			if s.Overlay {
				in.Way = overlay
			}
			s.state.Instances, added = append(s.state.Instances, in), append(added, in)
		}
	}
	if err := s.save("building"); err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, in := range added {
		g.Go(func() error {
			if err := s.build(gctx, in, s.Environment, s.point); err != nil {
				return fmt.Errorf("instance %d: %w", in.Number, err)
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil {
		s.point("after building")
		err = posix.SyncFS(s.dir)
	}
	if err == nil {
		for _, in := range added {
			in.Status = Made
		}
		err = s.save("made")
	}
	if err != nil {
		for _, in := range added {
			in.Status = Building
			err = errors.Join(err, s.discard(in))
		}
		return nil, err
	}
	return added, nil
}

// discard removes an instance of which nothing runs any more. One that a process uses stays,
// and the next command removes it.
func (s *Set) discard(in *Instance) error {
	if in.Status != Building {
		in.Status = Removing
		if err := s.save("removing"); err != nil {
			return err
		}
		if held := generation.HeldBy(s.Path(in)); len(held) > 0 {
			return fmt.Errorf("instance %d is still used by %s: end it, and the next command removes the instance", in.Number, held[0])
		}
	}
	if err := s.unmount(in); err != nil {
		return err
	}
	s.point("before removing")
	for _, rel := range []string{strconv.Itoa(in.Number), strconv.Itoa(in.Number) + envExt, filepath.Join(layersDir, strconv.Itoa(in.Number))} {
		if err := s.remove(rel); err != nil {
			return err
		}
	}
	s.state.Instances = slices.DeleteFunc(s.state.Instances, func(x *Instance) bool { return x == in })
	return s.save("removed")
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
	for _, name := range []string{layersDir, treesDir, reserveFile, stateFile, lockFile} {
		if err := s.remove(name); err != nil {
			return err
		}
	}
	if err := os.Remove(s.dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}
