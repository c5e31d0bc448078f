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
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
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
	treesDir  = "trees" // with the trees that instances are made from, for their owner alone
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

// Set is the instances of a directory, locked by this process until Close.
type Set struct {
	*Options
	dir   string // free of links
	state *state
	lock  *os.File
}

// Open locks the instances of a directory, and finishes what another process left under way.
// Where there is no directory it makes one, if it may, and else the error is ErrNone. It is
// ErrBusy while another process changes them.
func Open(ctx context.Context, o *Options, create bool) (*Set, error) {
	parent, err := live.Parent(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Set{Options: o, dir: filepath.Join(parent, filepath.Base(o.Dir))}
	if owner := live.Owner(s.dir); owner != "" {
		return nil, fmt.Errorf("%s lies in the generations of %s: choose another directory", s.dir, owner)
	}
	if err = s.prepare(create); err == nil {
		err = s.acquire()
	}
	if s.state != nil && s.Environment == "" {
		s.Environment = s.state.Environment
	}
	if err == nil && s.state.Environment != s.Environment {
		err = fmt.Errorf("%s has instances of environment %q, not of %q: choose another directory", s.dir, s.state.Environment, s.Environment)
	}
	if err == nil {
		err = s.recover(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// prepare makes the directory, and refuses one with other things.
func (s *Set) prepare(create bool) error {
	none := fmt.Errorf("%s: %w (knowngood spawn REF --dir DIR --count N, or knowngood scale, makes some)", s.dir, ErrNone)
	names, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) && create {
		err = os.Mkdir(s.dir, 0o755)
	} else if errors.Is(err, fs.ErrNotExist) {
		return none
	}
	if err == nil {
		err = live.Ours(s.dir)
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(s.path(stateFile)); errors.Is(err, fs.ErrNotExist) {
		for _, n := range names { // what a first call left that was killed
			if n.Name() != lockFile && !strings.HasPrefix(n.Name(), "."+stateFile) {
				return fmt.Errorf("%s holds %q and no instances: they need a directory of their own", s.dir, n.Name())
			}
		}
		if !create {
			return none
		}
	}
	return nil
}

// acquire takes the lock, and reads the state under it.
func (s *Set) acquire() (err error) {
	if s.lock, err = generation.HoldFile(s.path(lockFile)); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w by another process: wait for it", s.dir, ErrBusy)
	} else if err != nil {
		return err
	}
	if s.state, err = readState(s.dir); err == nil && s.state == nil {
		s.state = &state{Version: stateVersion, Environment: s.Environment, Trees: []*Tree{}, Instances: []*Instance{}}
	}
	return err
}

// Close unlocks.
func (s *Set) Close() {
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
}

func (s *Set) point(name string) {
	if s.Point != nil {
		s.Point(name)
	}
}

func (s *Set) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Set) treePath(name string) string { return s.path(filepath.Join(treesDir, name)) }

// Path is where the tree of an instance is.
func (s *Set) Path(in *Instance) string { return s.path(strconv.Itoa(in.Number)) }

// layers is where the writable part of an overlay is.
func (s *Set) layers(in *Instance) string {
	return s.path(filepath.Join(layersDir, strconv.Itoa(in.Number)))
}

// Unit is the systemd unit that runs an instance from its tree.
func (s *Set) Unit(in *Instance) string {
	return "knowngood-instance@" + unit.UnitNamePathEscape(s.Path(in)) + ".service"
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
	err := s.fill(ctx, t, fill)
	if err == nil {
		err = s.save("tree is there")
	}
	if err != nil {
		t.Digest = ""
		return nil, errors.Join(err, s.removeTree(t))
	}
	return t, nil
}

func (s *Set) fill(ctx context.Context, t *Tree, fill func(ctx context.Context, dir string) error) error {
	top := s.treePath(t.Name)
	if err := os.Mkdir(filepath.Dir(top), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := generation.MakeTop(top); err != nil {
		return err
	}
	if err := fill(ctx, top); err != nil {
		return err
	}
	s.point("after filling")
	if err := s.sync(); err != nil {
		return err
	}
	var err error
	t.Digest, t.Paths, err = generation.RecordTree(ctx, top, top+recordExt)
	return err
}

// sync makes all trees durable.
func (s *Set) sync() error {
	return os.NewSyscallError("syncfs", unix.Syncfs(int(s.lock.Fd())))
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
		used := t.Name == s.state.Current || slices.ContainsFunc(s.state.Instances, func(in *Instance) bool { return in.Tree == t.Name })
		if used {
			continue
		}
		if err := s.removeTree(t); err != nil {
			return err
		}
	}
	return nil
}

// remove removes something below the directory. No link is followed, and nothing that is
// mounted is entered.
func (s *Set) remove(rel string) error {
	d, err := posix.OpenDir(unix.AT_FDCWD, filepath.Dir(s.path(rel)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(d)
	if err := posix.RemoveAll(d, filepath.Base(rel)); err != nil {
		return fmt.Errorf("remove %s: %w", s.path(rel), err)
	}
	return nil
}

// Spawn makes the number of instances up to count, from a tree, and returns the new ones.
// Either all of them are there in the end, or none of the new ones.
func (s *Set) Spawn(ctx context.Context, t *Tree, count int) ([]*Instance, error) {
	s.state.Current = t.Name
	return s.add(ctx, t, count-len(s.alive()))
}

// add makes n more instances from a tree.
func (s *Set) add(ctx context.Context, t *Tree, n int) ([]*Instance, error) {
	if n <= 0 {
		return nil, s.save("nothing to add")
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
			if err := s.build(gctx, in); err != nil {
				return fmt.Errorf("instance %d: %w", in.Number, err)
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil {
		s.point("after building")
		err = s.sync()
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

// build makes the tree of an instance.
func (s *Set) build(ctx context.Context, in *Instance) (err error) {
	env := fmt.Sprintf("KNOWNGOOD_ENVIRONMENT=%s\nKNOWNGOOD_INSTANCE=%d\nKNOWNGOOD_INSTANCE_PATH=%s\n", s.Environment, in.Number, s.Path(in))
	if err := os.WriteFile(s.Path(in)+envExt, []byte(env), 0o644); err != nil {
		return err
	}
	if in.Way != overlay {
		in.Way, err = generation.CloneTree(ctx, s.treePath(in.Tree), s.Path(in))
		return err
	}
	upper := filepath.Join(s.layers(in), "upper")
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.layers(in)), 0o700), os.Mkdir(s.layers(in), 0o700), os.Mkdir(upper, 0o700), os.Mkdir(filepath.Join(s.layers(in), "work"), 0o700), os.Mkdir(s.Path(in), 0o700)); err != nil {
		return err
	}
	if err := generation.CopyTop(s.treePath(in.Tree), upper); err != nil { // it becomes that of the overlay
		return err
	}
	s.point("before mounting")
	return s.mount(in)
}

// overlay is the way of instances that lie above the first tree.
const overlay = "overlay"

// mount mounts an overlay, unless it is mounted.
func (s *Set) mount(in *Instance) error {
	mounts, err := posix.Mounts(s.Path(in))
	if err != nil || slices.ContainsFunc(mounts, func(m posix.Mount) bool { return m.Path == s.Path(in) }) {
		return err
	}
	if strings.ContainsAny(s.dir, `,:\`) {
		return fmt.Errorf("overlays need a directory whose path has no comma, colon or backslash, and %q has", s.dir)
	}
	// What a tree brings as attributes of an overlay leads nowhere: nothing is followed.
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%[2]s/work,redirect_dir=nofollow,metacopy=off", s.treePath(in.Tree), s.layers(in))
	if err := unix.Mount("knowngood", s.Path(in), "overlay", 0, options); err != nil {
		return fmt.Errorf("mount the overlay %s: %w (it takes root, and a file system below that can hold one)", s.Path(in), err)
	}
	return nil
}

// unmount unmounts an overlay of ours, and refuses where something else is mounted at or
// below an instance.
func (s *Set) unmount(in *Instance) error {
	mounts, err := posix.Mounts(s.Path(in))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Path != s.Path(in) || m.Type != "overlay" || in.Way != overlay {
			return fmt.Errorf("%s is mounted on %s: unmount it (umount %[2]s)", m.Type, m.Path)
		}
		if err := unix.Unmount(m.Path, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Path, err)
		}
	}
	return nil
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
	s.state.Current = ""
	if err := s.prune(); err != nil {
		return err
	}
	for _, name := range []string{layersDir, treesDir, stateFile, lockFile} {
		if err := s.remove(name); err != nil {
			return err
		}
	}
	if err := os.Remove(s.dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}
