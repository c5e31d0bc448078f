// Package treetest makes real trees for tests of capture and restore, changes
// them, and compares them.
//
// Generate fills a directory with every kind of node that Linux knows, Mutate
// edits it at random, Snapshot remembers what it holds, and Compare names each
// difference between two trees. All of them reach nodes component by component
// from an open directory, so that paths may be longer than PATH_MAX, and never
// follow a symbolic link. Nothing here shares code with what it tests.
//
// What the machine's file system or the rights of the process refuse is left
// out and counted in the Report. As root, mode 0000 is used everywhere; other
// users keep the rights to read and change what they made.
package treetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// T is what *testing.T, *testing.B, *testing.F and *rapid.T have in common.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Choices are the source of everything random. The same choices make the same
// tree, on the same machine.
type Choices interface {
	// IntN chooses from 0 ... n-1.
	IntN(n int) int
	// Uint64 chooses the seed of something whose details do not matter.
	Uint64() uint64
	// Keep reports whether an optional part is kept.
	Keep() bool
}

// Seed makes Choices that keep every part.
func Seed(seed uint64) Choices { return seeded{rand.New(rand.NewPCG(seed, 0))} }

type seeded struct{ *rand.Rand }

func (seeded) Keep() bool { return true }

// Rapid makes Choices that rapid can shrink: to fewer parts and plainer nodes.
func Rapid(t *rapid.T) Choices { return drawn{t} }

type drawn struct{ t *rapid.T }

func (d drawn) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "choice") }
func (d drawn) Uint64() uint64 { return rapid.Uint64().Draw(d.t, "seed") }
func (d drawn) Keep() bool     { return rapid.IntRange(0, 7).Draw(d.t, "keep") > 0 }

// Part of a tree, as it can be left out and as it is counted.
type Part string

// Parts of a tree. Plain files and directories are always there.
const (
	SparseFiles  Part = "sparse files"
	Symlinks     Part = "symlinks"
	Fifos        Part = "fifos"
	Sockets      Part = "sockets"
	CharDevices  Part = "character devices"
	BlockDevices Part = "block devices"
	HardLinks    Part = "hard links"
	LargeDirs    Part = "large directories"
	DeepPaths    Part = "paths beyond PATH_MAX"
	OddNames     Part = "odd names"
	OddModes     Part = "odd modes"
	Owners       Part = "owners"
	UserXattrs   Part = "user xattrs"
	RootXattrs   Part = "trusted xattrs"
	ACLs         Part = "ACLs"
	Capabilities Part = "capabilities"
	OddTimes     Part = "odd times"
)

// TempDir makes a directory that is removed after the test, whatever the modes
// and the depth of what it holds then.
func TempDir(t T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "treetest-")
	if err != nil {
		t.Fatalf("making a temporary directory: %v", err)
	}
	t.Cleanup(func() {
		if err := Remove(dir); err != nil {
			t.Errorf("removing a temporary directory: %v", err)
		}
	})
	return dir
}

// Empty removes everything below dir, as Remove does, but not dir. That dir
// does not exist is no error.
func Empty(dir string) error {
	r, err := openRoot(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.close()
	if err := eachEntry(r.fd, ".", removeAt); err != nil {
		return fmt.Errorf("emptying %s: %w", dir, err)
	}
	return nil
}

// Remove removes dir and everything below it: also directories that forbid it
// by their mode, and paths beyond PATH_MAX. That dir does not exist is no
// error.
func Remove(dir string) error {
	parent, err := openRoot(filepath.Dir(filepath.Clean(dir)))
	if err != nil {
		return err
	}
	defer parent.close()
	err = removeAt(parent.fd, filepath.Base(dir))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	return nil
}
