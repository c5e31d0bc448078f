package instance

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/posix"
	"knowngood/restore/generation"
)

// maxInstances is how many a directory can have, so that its state stays below durable.MaxState.
const maxInstances = 10_000

// stock is the trees, and the instances that are made from them: it makes and removes both, and
// runs nothing.
type stock struct{ journal }

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
func (s *stock) Tree(ctx context.Context, t *Tree, fill func(ctx context.Context, dir string) error) (*Tree, error) {
	if have := s.state.tree(t.Name); have != nil {
		return have, nil
	}
	t.Digest, t.Built = "", s.Now()
	s.state.Trees = append(s.state.Trees, t)
	if err := s.save("tree"); err != nil {
		return nil, err
	}
	top := s.treePath(t.Name)
	err := os.MkdirAll(s.path(treesDir), 0o700)
	if err == nil {
		err = generation.MakeTop(top, true)
	}
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

func (s *stock) removeTree(t *Tree) error {
	for _, name := range []string{t.Name, t.Name + recordExt} {
		if err := s.remove(filepath.Join(treesDir, name)); err != nil {
			return err
		}
	}
	s.state.Trees = slices.DeleteFunc(s.state.Trees, func(x *Tree) bool { return x == t })
	return s.save("tree is removed")
}

// prune removes trees that nothing is made from any more.
func (s *stock) prune() error {
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
func (s *stock) Spawn(ctx context.Context, t *Tree, count int) ([]*Instance, error) {
	s.state.Current = t.Name
	if err := s.save("current"); err != nil {
		return nil, err
	}
	return s.add(ctx, t, count-len(s.state.alive()))
}

// add makes n more instances from a tree.
func (s *stock) add(ctx context.Context, t *Tree, n int) ([]*Instance, error) {
	if n <= 0 {
		return nil, nil
	}
	if all := len(s.state.Instances) + n; all > maxInstances {
		return nil, fmt.Errorf("%s would have %d instances, and can have %d: use further directories", s.dir, all, maxInstances)
	}
	if err := generation.VerifyTree(ctx, "tree "+t.Name, s.treePath(t.Name), s.treePath(t.Name)+recordExt, t.Digest); err != nil {
		return nil, fmt.Errorf("no instance is made from a tree that is not as it was recorded: %w (remove the instances, then begin again)", err)
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
func (s *stock) discard(in *Instance) error {
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
