package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/treetest"
)

// Steps, in the order in which they are taken.
const (
	stepFirst     = "first"
	stepUnchanged = "unchanged"
	stepChanged   = "changed"
	stepRestore   = "restore"
	stepInPlace   = "in-place"
	stepCheck     = "check"
	stepFile      = "file"  // only on S3
	stepYoung     = "young" // only of A
)

func stepNames() []string {
	return []string{stepFirst, stepUnchanged, stepChanged, stepRestore, stepInPlace, stepCheck, stepFile, stepYoung}
}

// side is a contender and where it has its things.
type side struct {
	contender
	name     string
	place    place
	target   string
	restored bool // the target holds the newest snapshot
}

// comparison of all sides on one tree, with repositories in directories.
type comparison struct {
	*bench
	tree    *tree
	sides   []*side
	changes changes
	want    treetest.Tree // the tree as it is, when it was needed
}

func (b *bench) local(ctx context.Context, t *tree) (err error) {
	c := &comparison{bench: b, tree: t, changes: changes{tree: t}}
	names := append([]string{nameOurs}, b.peers...)
	if t.name == sectionMillion {
		names = names[:1] // what is asked there is no comparison
	}
	work := filepath.Join(b.dir, "work")
	defer func() { err = errors.Join(err, c.changes.undo(), c.remove(work)) }()
	for _, name := range names {
		dir := filepath.Join(work, name)
		c.sides = append(c.sides, &side{
			name:   name,
			place:  place{repo: filepath.Join(dir, "repo"), keys: filepath.Join(dir, "keys"), home: filepath.Join(dir, "home")},
			target: filepath.Join(dir, "target"),
		})
	}
	steps := []struct {
		name   string
		before func(context.Context) error
		do     func(context.Context, *side) (Sample, error)
	}{
		{stepFirst, nil, c.first},
		{stepUnchanged, nil, c.capture},
		{stepChanged, c.applyChange, c.capture},
		{stepRestore, nil, c.restore},
		{stepInPlace, nil, c.restoreInPlace},
		{stepCheck, nil, c.check},
		{stepYoung, nil, c.captureYoung}, // the last, because it leaves the tree young
	}
	for _, step := range steps {
		if t.name == sectionMillion && !slices.Contains([]string{stepFirst, stepUnchanged, stepRestore}, step.name) {
			continue
		}
		if step.name == stepYoung && t.name != sectionA {
			continue
		}
		if err := c.step(ctx, step.name, step.before, step.do); err != nil {
			return fmt.Errorf("tree %s, %s: %w", t.name, step.name, err)
		}
	}
	return nil
}

// step runs one step on all sides in turn, as often as asked for. The first
// capture is taken even when it is not measured: all else needs it.
func (c *comparison) step(ctx context.Context, name string, before func(context.Context) error, do func(context.Context, *side) (Sample, error)) error {
	measured := wants(c.steps, name)
	runs := c.runs
	if c.tree.name == sectionMillion && name != stepUnchanged || !measured {
		runs = 1 // only memory is asked for, or nothing
	}
	if !measured && name != stepFirst {
		return nil
	}
	for run := range runs {
		if before != nil {
			if err := before(ctx); err != nil {
				return err
			}
		}
		for _, s := range c.sides {
			sample, err := do(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if measured {
				c.report.add(c.current, name, s.name, run, sample)
			}
		}
	}
	if name == stepInPlace {
		if err := c.trySilentChange(ctx); err != nil {
			return err
		}
	}
	return c.remove(c.attic())
}

// recent is how long ext4 passes over inodes that were freed, one by one, when
// it looks for a new one (recently_deleted in fs/ext4/ialloc.c): creating
// files just after many were removed takes several times as long, for whoever
// comes next.
const recent = 65 * time.Second

// remove removes a directory that may hold many files.
func (b *bench) remove(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if b.files >= fewFiles {
		defer func() { b.removed = time.Now() }()
	}
	return os.RemoveAll(dir)
}

// settle waits until what was removed does not slow down what comes.
func (b *bench) settle(ctx context.Context) {
	unix.Sync()
	select {
	case <-time.After(time.Until(b.removed.Add(recent))):
	case <-ctx.Done():
	}
}

// first captures into a new repository, with nothing known locally.
func (c *comparison) first(ctx context.Context, s *side) (Sample, error) {
	if err := s.empty(); err != nil {
		return Sample{}, err
	}
	s.contender = c.contender(s.name, s.place)
	if err := runQuietly(ctx, s.Init()); err != nil {
		return Sample{}, err
	}
	sample, err := c.capture(ctx, s)
	if err != nil {
		return sample, err
	}
	sample.Stored, err = storedBytes(ctx, s.place.repo)
	return sample, err
}

// empty takes away all that a side has, but leaves its directories.
func (s *side) empty() error {
	if err := os.RemoveAll(filepath.Dir(s.target)); err != nil {
		return err
	}
	s.restored = false
	return errors.Join(os.MkdirAll(s.place.keys, 0o700), os.MkdirAll(s.place.home, 0o700))
}

func (c *comparison) capture(ctx context.Context, s *side) (Sample, error) {
	s.restored = false
	// borg asks the kernel to forget each file that it has read.
	if _, _, err := readAll(ctx, c.tree.path); err != nil {
		return Sample{}, err
	}
	return measure(ctx, s.Capture(c.tree.path), false)
}

// applyChange changes the tree, and waits until that is old: the files of the
// round before would be read again with those of the next.
func (c *comparison) applyChange(ctx context.Context) error {
	c.want = nil
	if err := c.changes.apply(); err != nil {
		return err
	}
	c.touched = time.Now()
	if c.small {
		return nil // it costs a few files there
	}
	return c.age(ctx)
}

// captureYoung measures the capture that follows at once on that of a tree in
// which every file has just been touched. The time of its content stays.
func (c *comparison) captureYoung(ctx context.Context, s *side) (Sample, error) {
	err := eachFile(ctx, c.tree.path, func(path string, info fs.FileInfo) error { return os.Chmod(path, info.Mode()) })
	if err != nil {
		return Sample{}, err
	}
	if _, err := c.capture(ctx, s); err != nil {
		return Sample{}, err
	}
	return c.capture(ctx, s)
}

func (c *comparison) restore(ctx context.Context, s *side) (Sample, error) {
	if err := c.renew(s.target); err != nil {
		return Sample{}, err
	}
	c.settle(ctx)
	sample, err := measure(ctx, s.Restore(s.target), true)
	if err == nil {
		err = c.verify(s)
	}
	s.restored = err == nil
	return sample, err
}

// fewFiles is how many are removed in a moment.
const fewFiles = 1000

// renew makes a directory, or makes it empty. What is in it is put aside, to be
// removed after the step; see settle.
func (b *bench) renew(dir string) error {
	if b.files < fewFiles {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		return os.MkdirAll(dir, 0o700)
	}
	if err := os.MkdirAll(b.attic(), 0o700); err != nil {
		return err
	}
	b.aside++
	err := os.Rename(dir, filepath.Join(b.attic(), strconv.Itoa(b.aside)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

// attic is where renew puts things.
func (b *bench) attic() string { return filepath.Join(b.dir, "work", "aside") }

func (c *comparison) restoreInPlace(ctx context.Context, s *side) (Sample, error) {
	if !s.restored {
		if _, err := c.restore(ctx, s); err != nil {
			return Sample{}, err
		}
	}
	if err := s.makeRoom(); err != nil {
		return Sample{}, err
	}
	sample, err := measure(ctx, s.RestoreInPlace(s.target), true)
	if err != nil {
		return sample, err
	}
	return sample, c.verify(s)
}

// makeRoom takes symbolic links away for restic, which fails on those that are
// there already. The other sides manage.
func (s *side) makeRoom() error {
	if s.name != nameRestic {
		return nil
	}
	return filepath.WalkDir(s.target, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSymlink {
			return err
		}
		return os.Remove(path)
	})
}

func (c *comparison) check(ctx context.Context, s *side) (Sample, error) {
	return measure(ctx, s.Check(), false)
}

// verify demands that a restore is equal to the source in all that counts.
func (c *comparison) verify(s *side) error {
	if c.want == nil {
		c.want = treetest.Snapshot(c.stage, c.tree.path)
	}
	return equal(c.stage, c.want, s.target+c.tree.path)
}

func equal(st *stage, want treetest.Tree, dir string) error {
	different := want.Compare(treetest.Snapshot(st, dir), treetest.Options{})
	if len(different) == 0 {
		return nil
	}
	return fmt.Errorf("%s is not equal to the source: %d differences, the first: %v", dir, len(different), different[0])
}

// trySilentChange proves that restores in place go by content: one byte of a
// restored file changes, its size and time do not, and it has to come back.
func (c *comparison) trySilentChange(ctx context.Context) error {
	for _, s := range c.sides {
		if err := flipByte(ctx, s.target); err != nil {
			return err
		}
		if err := s.makeRoom(); err != nil {
			return err
		}
		if err := runQuietly(ctx, s.RestoreInPlace(s.target)); err != nil {
			return err
		}
		if err := c.verify(s); err != nil {
			return fmt.Errorf("%s does not verify by content: %w", s.name, err)
		}
	}
	return nil
}

var errFound = errors.New("found")

// flipByte changes the first byte of some file, but neither size nor time.
func flipByte(ctx context.Context, dir string) error {
	err := eachFile(ctx, dir, func(path string, info fs.FileInfo) error {
		if info.Size() == 0 {
			return nil
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, 0); err != nil {
			return err
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, 0); err != nil {
			return err
		}
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			return err
		}
		return errFound
	})
	if errors.Is(err, errFound) {
		return nil
	}
	return errors.Join(err, fmt.Errorf("%s holds no file to change", dir))
}
