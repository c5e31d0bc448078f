package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"
)

const (
	changedShare = 100      // one in so many files or runs is changed
	runBytes     = 64 << 10 // of a run of changed bytes
)

// original is a file before it was appended to.
type original struct {
	path  string
	size  int64
	mtime time.Time
}

// appendToFiles appends to one file in a hundred; in each round to others.
func appendToFiles(dir string, round int) (undo func() error, err error) {
	var changed []original
	undo = func() error {
		var errs []error
		for _, o := range changed {
			errs = append(errs, os.Truncate(o.path, o.size), os.Chtimes(o.path, time.Time{}, o.mtime))
		}
		return errors.Join(errs...)
	}
	n := 0
	err = eachFile(context.Background(), dir, func(path string, info fs.FileInfo) error {
		n++
		if n%changedShare != round%changedShare {
			return nil
		}
		changed = append(changed, original{path, info.Size(), info.ModTime()})
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "\nappended in round %d to file %d\n", round, n)
		return errors.Join(err, f.Close())
	})
	return undo, err
}

// overwriteRuns changes one run of bytes in a hundred, of each file. Changing
// the same runs again takes it back.
func overwriteRuns(dir string, round int) (undo func() error, err error) {
	change := func() error {
		return eachFile(context.Background(), dir, func(path string, info fs.FileInfo) error {
			return overwrite(path, info.Size(), rand.NewChaCha8([32]byte{byte(round), 'r'}))
		})
	}
	return change, change()
}

// overwrite changes bytes by exclusive or with what the generator yields.
func overwrite(path string, size int64, source *rand.ChaCha8) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	choose := rand.New(source)
	data, mask := make([]byte, runBytes), make([]byte, runBytes)
	for at := int64(0); at+runBytes <= size; at += runBytes {
		if choose.IntN(changedShare) != 0 {
			continue
		}
		if _, err := f.ReadAt(data, at); err != nil {
			return err
		}
		if _, err := source.Read(mask); err != nil {
			return err
		}
		for i := range data {
			data[i] ^= mask[i]
		}
		if _, err := f.WriteAt(data, at); err != nil {
			return err
		}
	}
	return f.Close()
}

// changes are the rounds that a tree has gone through.
type changes struct {
	tree  *tree
	undos []func() error
}

// apply changes the tree by one more round.
func (c *changes) apply() error {
	if err := os.WriteFile(c.tree.dirty, nil, 0o644); err != nil {
		return err
	}
	undo, err := c.tree.change(c.tree.path, len(c.undos)+1)
	c.undos = append(c.undos, undo)
	return err
}

// undo brings the tree back to what it was; its marker stays when it cannot,
// so that the next run makes the tree again.
func (c *changes) undo() error {
	if len(c.undos) == 0 {
		return nil
	}
	for i := len(c.undos) - 1; i >= 0; i-- {
		if err := c.undos[i](); err != nil {
			return fmt.Errorf("take back the changes of %s: %w", c.tree.path, err)
		}
	}
	c.undos = nil
	return os.Remove(c.tree.dirty)
}
