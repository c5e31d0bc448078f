package walk

import (
	"cmp"
	"container/heap"
	"errors"
	"sync"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

const (
	// aheadBytes is how much memory nodes may take that the consumer has not
	// come to, and aheadNames their directories' names. A single directory
	// may exceed the latter: its names have to be sorted.
	aheadBytes = 10 << 20
	aheadNames = 6 << 20
	// remoteWorkers join as soon as a file system is met that has to be asked
	// for attributes: each of them waits for one answer at a time.
	remoteWorkers = 48
)

// walker hands pieces of work to whoever comes first: a worker, in path order,
// or the consumer, when it needs one.
type walker struct {
	opts Options
	wg   sync.WaitGroup

	mu     sync.Mutex
	work   sync.Cond // for workers: there may be something to do
	ready  sync.Cond // for the consumer: something was done
	halted error
	subs   tasks // directories to list
	rest   tasks // further blocks of directories
	bytes  int64 // of described nodes not yet consumed
	names  int64

	remote  sync.Once // more workers were started
	volumes posix.Volumes
}

func newWalker(opts Options) *walker {
	w := &walker{opts: opts}
	w.work.L, w.ready.L = &w.mu, &w.mu
	return w
}

func (w *walker) start(workers int) {
	for range workers {
		w.wg.Go(w.serve)
	}
}

var errStopped = errors.New("the walk has ended")

// halt makes everybody stop.
func (w *walker) halt(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.halted = cmp.Or(w.halted, err)
	w.work.Broadcast()
	w.ready.Broadcast()
}

// stop halts and waits for the workers.
func (w *walker) stop() {
	w.halt(errStopped)
	w.wg.Wait()
}

// task is where a worker goes on: with the directories of a block from its
// i-th node on, or with the k-th block of a directory.
type task struct {
	key   string // the path where the work begins
	dir   *dir
	block *block // nil: describe block i of dir
	i     int
}

// tasks is a heap in path order.
type tasks []task

func (t tasks) Len() int           { return len(t) }
func (t tasks) Less(i, j int) bool { return manifest.Compare(t[i].key, t[j].key) < 0 }
func (t tasks) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *tasks) Push(x any)        { *t = append(*t, x.(task)) }
func (t *tasks) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = task{}
	*t = old[:len(old)-1]
	return last
}

// serve is a worker.
func (w *walker) serve() {
	l := newLister(w)
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		t, ok := w.next()
		if w.halted != nil {
			return
		}
		switch {
		case !ok:
			w.work.Wait()
		case t.block == nil:
			w.claimBlock(l, t.dir, t.i)
		default:
			w.claimDir(l, t.block.nodes[t.i].sub)
		}
	}
}

// next takes the task that comes first in path order among those that the
// budget allows, and leaves its successor.
func (w *walker) next() (task, bool) {
	if w.bytes > aheadBytes {
		return task{}, false
	}
	from := &w.rest
	if len(w.subs) > 0 && w.names <= aheadNames && (len(w.rest) == 0 || manifest.Compare(w.subs[0].key, w.rest[0].key) < 0) {
		from = &w.subs
	}
	if len(*from) == 0 {
		return task{}, false
	}
	t := heap.Pop(from).(task)
	if t.block != nil {
		w.offerDirs(t.block, t.i+1)
	} else {
		w.offerBlock(t.dir, t.i+1)
	}
	return t, true
}

// offerDirs leaves a task for the first directory of a block, from its i-th
// node on, that nobody has listed.
func (w *walker) offerDirs(b *block, i int) {
	for ; i < len(b.nodes); i++ {
		if s := b.nodes[i].sub; s != nil && s.phase == idle {
			heap.Push(&w.subs, task{key: s.path, block: b, i: i})
			w.work.Signal()
			return
		}
	}
}

// offerBlock leaves a task for the first block of a directory, from the k-th
// on, that nobody has described.
func (w *walker) offerBlock(d *dir, k int) {
	for ; k < len(d.claim); k++ {
		if d.claim[k] == idle {
			from, _ := d.span(k)
			heap.Push(&w.rest, task{key: d.path + "/" + string(d.names.name(from)), dir: d, i: k})
			w.work.Signal()
			return
		}
	}
}

// claimDir lists a directory unless somebody does or did. The lock is held,
// and released meanwhile.
func (w *walker) claimDir(l *lister, d *dir) {
	if d.phase != idle {
		return
	}
	d.phase = running
	w.mu.Unlock()
	l.list(d)
	w.mu.Lock()
	d.phase = done
	w.names += d.names.memory()
	if len(d.blocks) > 0 {
		w.described(d.blocks[0])
		w.offerBlock(d, 1)
	}
	w.ready.Signal()
}

// claimBlock is claimDir for a block of a directory.
func (w *walker) claimBlock(l *lister, d *dir, k int) {
	if d.claim[k] != idle {
		return
	}
	d.claim[k] = running
	w.mu.Unlock()
	b := l.describe(d, k)
	w.mu.Lock()
	d.blocks[k], d.claim[k] = b, done
	w.described(b)
	w.ready.Signal()
}

func (w *walker) described(b *block) {
	w.bytes += b.memory
	w.offerDirs(b, 0)
}

// needDir returns when a directory is listed; only the consumer calls it.
func (w *walker) needDir(l *lister, d *dir) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claimDir(l, d)
	for d.phase != done && w.halted == nil {
		w.ready.Wait()
	}
	return w.halted
}

// needBlock returns the k-th block of a listed directory.
func (w *walker) needBlock(l *lister, d *dir, k int) (*block, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claimBlock(l, d, k)
	for d.claim[k] != done && w.halted == nil {
		w.ready.Wait()
	}
	return d.blocks[k], w.halted
}

// consumed gives the memory of a block back to the budget.
func (w *walker) consumed(b *block) {
	w.mu.Lock()
	defer w.mu.Unlock()
	over := w.bytes > aheadBytes
	w.bytes -= b.memory
	if over && w.bytes <= aheadBytes {
		w.work.Broadcast()
	}
}

// left gives the memory of a directory's names back.
func (w *walker) left(d *dir) {
	w.mu.Lock()
	defer w.mu.Unlock()
	over := w.names > aheadNames
	w.names -= d.names.memory()
	d.names, d.blocks = names{}, nil
	if over && w.names <= aheadNames {
		w.work.Broadcast()
	}
}
