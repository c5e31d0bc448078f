package restore

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/target"
	"knowngood/snapshot/manifest"
	"knowngood/storage/chunk"
)

// examiner compares files with what is there, by content, on all cores. Those that
// differ are fetched.
type examiner struct {
	target   *target.Target
	report   *report
	metadata *metadata
	replacer *replacer
	links    *links
	chunkKey [32]byte
	dryRun   bool

	ctx   context.Context
	g     *errgroup.Group
	queue queue
}

// newExaminer starts the comparison of the files that send gets.
func newExaminer(ctx context.Context, r *restorer) *examiner {
	x := &examiner{target: r.target, report: r.report, metadata: r.files.metadata, replacer: r.files.commit.replacer, links: r.links, chunkKey: r.Tree.Reader.Domain().ChunkKey(), dryRun: r.DryRun}
	x.queue = queue{files: make(chan *file, 256), turns: slices.Repeat([]uint64{noTurn}, runtime.GOMAXPROCS(0))}
	x.queue.moved.L = &x.queue.mu
	x.g, x.ctx = errgroup.WithContext(ctx)
	for worker := range x.queue.turns {
		x.g.Go(func() error { return x.work(worker) })
	}
	return x
}

func (x *examiner) send(f *file) error { return x.queue.send(x.ctx, f) }

// wait waits until all files are compared that were sent.
func (x *examiner) wait() error {
	close(x.queue.files)
	return x.g.Wait()
}

func (x *examiner) work(worker int) error {
	defer x.queue.setTurn(worker, noTurn)
	c := &comparer{hasher: chunk.NewHasher(x.chunkKey)}
	for f := x.queue.take(worker); f != nil; f = x.queue.take(worker) {
		if err := x.ctx.Err(); err != nil {
			return context.Cause(x.ctx)
		}
		if err := x.report.fatal(f.entry.Path, x.file(c, f)); err != nil {
			return err
		}
	}
	return nil
}

// file compares a file, and leaves it as it is, gives it its metadata, or writes
// it again, reusing the chunks that are still good.
func (x *examiner) file(c *comparer, f *file) error {
	e := f.entry
	fd, st, err := x.open(e)
	switch {
	case errors.Is(err, unix.ENOENT):
		c.good = c.good[:0]
		return x.write(c, f, -1)
	case err != nil:
		return f.giveUp(err)
	}
	f.action = "change"
	if fd >= 0 {
		defer unix.Close(fd)
	}

	same, err := c.compare(fd, &st, e)
	if err != nil && x.dryRun {
		x.report.problem(e.Path, err)
		f.group.fail()
		return nil
	}
	if err == nil && same { // what cannot be read is written again
		keeps, err := x.keep(f, fd, &st)
		if err != nil || keeps {
			return err
		}
	}
	return x.write(c, f, fd)
}

// open opens what is at the place of a file. The descriptor is -1 where
// something else is that the file may replace.
func (x *examiner) open(e *manifest.Entry) (fd int, st posix.Stat, err error) {
	err = x.target.With(e.Path, func() error {
		h, name, err := x.target.Above(e.Path)
		if err != nil && x.dryRun {
			return unix.ENOENT // which would be made
		}
		if err != nil {
			return err
		}
		defer h.Release()

		fd, st, err = posix.OpenFile(h.FD(), name)
		return err
	})
	refused := errors.Is(err, unix.EACCES) && !x.dryRun
	if !refused && !errors.Is(err, posix.ErrNotRegular) {
		return fd, st, err
	}
	if st, err = x.target.Stat(e.Path); err == nil && st.Type == manifest.Dir {
		err = x.replacer.mayClear(e.Path)
	}
	return -1, st, err
}

// write writes a file again, with the good chunks of the open one.
func (x *examiner) write(c *comparer, f *file, fd int) error {
	if x.dryRun {
		return f.planned(c.good)
	}
	f.temp = true
	f.group.renew()
	if fd >= 0 && len(c.good) > 0 {
		if err := x.reuse(c, f, fd); err != nil {
			return f.giveUp(err)
		}
	}
	return f.fetch(x.ctx)
}

// keep leaves the content of a file as it is, and applies its metadata. It reports
// whether the inode can stay at all: not when it has names elsewhere, which would
// change with it, and not when it is another file's as well, because the two
// become separate again.
func (x *examiner) keep(f *file, fd int, st *posix.Stat) (bool, error) {
	e := f.entry
	same, err := x.metadata.same(fd, st, e)
	if err != nil && x.dryRun {
		x.report.problem(e.Path, err)
	}
	if st.Nlink > 1 {
		switch {
		case same:
		case f.group == nil:
			return false, nil
		case !x.links.second:
			x.links.wait(f.group)
			return true, nil
		case !x.links.holdsAll(f.group, st):
			return false, nil
		}
		if x.queue.await(f); !x.links.claim(st, f.group) {
			return false, nil
		}
	}

	if f.group != nil {
		f.group.inode = st.ID()
	}
	f.action = "unchanged"
	if !same {
		f.action = "metadata"
		if !x.dryRun {
			x.metadata.apply(fd, e)
		}
	}
	x.report.progress.Bytes.Add(e.Size)
	x.report.progress.Found.Add(e.Size)
	return true, f.placed()
}

// reuse copies the chunks that are still good into the new version.
func (x *examiner) reuse(c *comparer, f *file, fd int) error {
	f.mu.Lock()
	err := f.open()
	f.mu.Unlock()
	if err != nil {
		return err
	}
	f.present = make([]bool, len(f.entry.Chunks))
	at := uint64(0)
	for i := range f.entry.Chunks {
		n := uint64(f.entry.Chunks[i].Len)
		if i < len(c.good) && c.good[i] {
			b := c.buffer(int(n))
			err := readContent(fd, f.entry, at, b)
			// It may have changed since: what is copied is verified too.
			if err == nil && c.hasher.ID(b) == f.entry.Chunks[i].ID {
				if err := writeContent(f.fd, f.entry, at, b); err != nil {
					return err
				}
				f.present[i] = true
				x.report.progress.Bytes.Add(n)
				x.report.progress.Found.Add(n)
			}
		}
		at += n
	}
	return nil
}

// queue hands files to workers in their order, and knows which files are not done.
type queue struct {
	files chan *file
	sent  uint64

	taking sync.Mutex // files are taken in their order
	mu     sync.Mutex
	moved  sync.Cond // of turns
	turns  []uint64  // of the file that each worker has, or noTurn
}

const noTurn = math.MaxUint64

func (q *queue) send(ctx context.Context, f *file) error {
	f.turn = q.sent
	q.sent++
	select {
	case q.files <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take takes the next file for a worker; nil when there are no more.
func (q *queue) take(worker int) *file {
	q.setTurn(worker, noTurn)
	q.taking.Lock()
	defer q.taking.Unlock()
	f := <-q.files
	if f != nil {
		q.setTurn(worker, f.turn)
	}
	return f
}

func (q *queue) setTurn(worker int, turn uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turns[worker] = turn
	q.moved.Broadcast()
}

// await waits until all files before one are done with, so that what is first
// come, first served does not depend on which worker is faster.
func (q *queue) await(f *file) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for slices.Min(q.turns) < f.turn {
		q.moved.Wait()
	}
}
