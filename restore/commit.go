package restore

import (
	"sync"

	"golang.org/x/sys/unix"

	"knowngood/restore/target"
	"knowngood/snapshot/walk"
)

// committer puts files that were written beside their names in their places:
// sync, then rename, in batches. What was there stays intact until then.
type committer struct {
	target   *target.Target
	report   *report
	replacer *replacer

	mu    sync.Mutex
	files []*file // complete, waiting for their rename

	parts sync.Map // of *file: the temporary files that are there
}

const commitBatch = 2048

// opened adds a temporary file, gone removes one that is not there any more.
func (c *committer) opened(f *file) { c.parts.Store(f, nil) }
func (c *committer) gone(f *file)   { c.parts.Delete(f) }

func (c *committer) add(f *file) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = append(c.files, f)
	if len(c.files) < commitBatch {
		return nil
	}
	return c.flushLocked()
}

func (c *committer) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *committer) flushLocked() error {
	if len(c.files) == 0 {
		return nil
	}
	if err := c.target.Sync(); err != nil {
		return err
	}
	for len(c.files) > 0 {
		f := c.files[0]
		c.files = c.files[1:]
		if err := c.report.fatal(f.entry.Path, c.place(f)); err != nil {
			return err
		}
	}
	c.files = nil
	return nil
}

// place gives a file its name.
func (c *committer) place(f *file) error {
	if err := c.target.With(f.entry.Path, func() error { return c.rename(f) }); err != nil {
		f.remove()
		f.group.fail()
		return notRestored(err)
	}
	c.gone(f)
	return f.placed()
}

func (c *committer) rename(f *file) error {
	h, name, err := c.target.Above(f.entry.Path)
	if err != nil {
		return err
	}
	defer h.Release()
	if f.part != "" { // which never replaces anything
		return renameNew(h.FD(), walk.PartName(name), name)
	}
	return c.replacer.replace(h, walk.PartName(name), name, f.entry.Path)
}

// discard removes the temporary files that are left when a restore ends early.
func (c *committer) discard() {
	c.parts.Range(func(key, _ any) bool {
		f := key.(*file)
		if f.fd >= 0 {
			unix.Close(f.fd)
			f.fd = -1
		}
		f.remove()
		return true
	})
}
