package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/snapshot/check"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// A synthetic history: an environment of some small files of words, of which one
// changes before each snapshot, captured by the engine without waiting.
const (
	growthFiles    = 200
	growthFileSize = 12 << 10 // bytes
)

// historyCost is what a history of some length takes.
type historyCost struct {
	snapshots int
	stored    int64 // bytes of all objects
	content   int64 // of them, the frames of packs
	objects   int64
	cold      usage // a list by a machine without memory
	warm      usage // by one that did it before
	prune     usage // a dry run of the host, which has done one before
	check     usage // of everything but data
}

// usage of a store by one command.
type usage struct{ requests, bytes, inFlight int64 }

// keySpread is by how much chance may make a history larger: its random keys decide
// where segments end. Of 24 histories the largest had 15 percent more beside content than
// the smallest, and from 30 snapshots to 120 that grew with powers of 0.043 to 0.081.
const keySpread = 1.08

// growthRow is a cost that the table names, and how it may grow: with the power of the
// number of snapshots that most is, from the first length of the history to the last.
type growthRow struct {
	name   string
	of     func(historyCost) int64
	most   float64
	free   int64   // what is less counts as that much
	chance float64 // a factor that only chance may make
}

func growthRows() []growthRow {
	return []growthRow{
		{"stored, bytes", func(c historyCost) int64 { return c.stored }, 1, 1, 1},
		{"stored beside content, bytes a snapshot", func(c historyCost) int64 { return (c.stored - c.content) / int64(c.snapshots) }, 0.06, 1, keySpread},
		{"objects", func(c historyCost) int64 { return c.objects }, 1, 1, 1},
		{"list, cold, requests", func(c historyCost) int64 { return c.cold.requests }, 0.6, 1, 1},
		{"list, warm, requests", func(c historyCost) int64 { return c.warm.requests }, 0.2, 1, 1},
		{"prune --dry-run, second, requests", func(c historyCost) int64 { return c.prune.requests }, 0.4, 1, 1},
		{"prune --dry-run, second, bytes read", func(c historyCost) int64 { return c.prune.bytes }, 0.5, 64 << 10, 1},
		{"check, requests", func(c historyCost) int64 { return c.check.requests }, 1.05, 1, 1},
		{"check, bytes read", func(c historyCost) int64 { return c.check.bytes }, 1.2, 1, 1},
	}
}

// exponent is that of the power by which a cost grows.
func (r growthRow) exponent(from, to historyCost) float64 {
	return math.Log(float64(max(r.of(to), r.free))/float64(max(r.of(from), r.free))) / math.Log(float64(to.snapshots)/float64(from.snapshots))
}

// bound is the greatest exponent that is no growth beyond most and chance.
func (r growthRow) bound(from, to historyCost) float64 {
	return r.most + math.Log(r.chance)/math.Log(float64(to.snapshots)/float64(from.snapshots))
}

// growth measures histories of some lengths, and what a peer stores of one.
func (b *bench) growth(ctx context.Context) error {
	lengths, peers := []int{100, 1000, 3000}, 300
	if b.small {
		lengths, peers = []int{30, 120}, 10
	}
	about := fmt.Sprintf("a history of snapshots of %d files of %d bytes of words, of which one changes before each", growthFiles, growthFileSize)
	fmt.Printf("\n%s: %s\n", sectionGrowth, about)
	costs := growHistory(b.stage, lengths)
	var text strings.Builder
	fmt.Fprintf(&text, "Tree: %s.\n\nMeasured %s with `%s`. A request is a GET, or 1000 keys of a listing. What grows with the power 0 does not grow.\n\n| snapshots |", about, time.Now().Format(time.DateOnly), b.report.Command)
	for _, n := range lengths {
		fmt.Fprintf(&text, " %d |", n)
	}
	text.WriteString(" grows with the power | at most |\n|" + strings.Repeat(" --- |", len(lengths)+3) + "\n")
	var err error
	for _, r := range growthRows() {
		fmt.Fprintf(&text, "| %s |", r.name)
		for _, c := range costs {
			fmt.Fprintf(&text, " %d |", r.of(c))
		}
		e, bound := r.exponent(costs[0], costs[len(costs)-1]), r.bound(costs[0], costs[len(costs)-1])
		fmt.Fprintf(&text, " %.2f | %.2f |\n", e, bound)
		if e > bound {
			err = errors.Join(err, fmt.Errorf("%s grows with the power %.2f of the number of snapshots, more than %.2f", r.name, e, bound))
		}
	}
	if slices.Contains(b.peers, nameRestic) {
		stored, perr := b.resticHistory(ctx, peers)
		if perr != nil {
			return perr
		}
		fmt.Fprintf(&text, "\nrestic stores %d bytes of the first %d of these snapshots, knowngood %d.\n", stored, peers, growHistory(b.stage, []int{peers})[0].stored)
	}
	fmt.Print("\n" + text.String())
	if err == nil && b.docs != "" {
		err = rewrite(b.docs, sectionGrowth, text.String())
	}
	return err
}

// growthTree is the tree of a synthetic history.
type growthTree struct{ dir string }

func newGrowthTree(t treetest.T) growthTree {
	g := growthTree{filepath.Join(treetest.TempDir(t), "tree")}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	for i := range growthFiles {
		g.write(t, i, 0)
	}
	return g
}

// change makes the tree that of a snapshot.
func (g growthTree) change(t treetest.T, snapshot int) {
	if snapshot > 1 {
		g.write(t, snapshot*37%growthFiles, snapshot)
	}
}

func (g growthTree) write(t treetest.T, file, version int) {
	words := rand.New(rand.NewPCG(1, 1))
	vocabulary := make([]string, 4000)
	for i := range vocabulary {
		w := make([]byte, 3+words.IntN(7))
		for j := range w {
			w[j] = byte('a' + words.IntN(26))
		}
		vocabulary[i] = string(w)
	}
	r := rand.New(rand.NewPCG(uint64(file), uint64(version)))
	var b []byte
	for len(b) < growthFileSize {
		b = append(append(b, vocabulary[r.IntN(len(vocabulary))]...), ' ')
	}
	if err := os.WriteFile(filepath.Join(g.dir, fmt.Sprintf("file-%03d.conf", file)), b[:growthFileSize], 0o644); err != nil {
		t.Fatalf("%v", err)
	}
}

// growHistory takes snapshots, and measures when there are as many as each of lengths.
func growHistory(t treetest.T, lengths []int) []historyCost {
	m := &meter{Store: storagetest.NewPlainMemory()}
	w := enginetest.NewLocked(t, m, trust.Lock{})
	w.Apart = false
	tree := newGrowthTree(t)
	var costs []historyCost
	for n := 1; n <= slices.Max(lengths); n++ {
		tree.change(t, n)
		w.MustCapture("web", tree.dir)
		if slices.Contains(lengths, n) {
			costs = append(costs, measureHistory(t, w, m, n))
		}
	}
	return costs
}

func measureHistory(t treetest.T, w *enginetest.World, m *meter, n int) historyCost {
	c := historyCost{snapshots: n}
	c.stored, c.objects, c.content = inventory(t, w)
	memory := treetest.TempDir(t)
	list := func(state string) func() {
		return func() {
			r := w.Open(state)
			r.Unlock(w.ID)
			seen := 0
			for _, err := range r.Snapshots(w.Ctx, enginetest.Host, "web") {
				w.Check(err)
				seen++
			}
			if seen != n {
				t.Fatalf("%d snapshots are listed of %d", seen, n)
			}
		}
	}
	c.cold = m.during(list(memory))
	c.warm = m.during(list(memory))

	dryRun := func() {
		_, err := prune.Run(w.Ctx, w.Open(w.State), prune.Options{DryRun: true, Policy: func(string, string) *retention.Policy { return nil }})
		w.Check(err)
	}
	dryRun()
	c.prune = m.during(dryRun)
	c.check = m.during(func() {
		r, err := check.Run(w.Ctx, w.Bare(), check.Options{})
		w.Check(err)
		for _, d := range r.Damage {
			t.Errorf("%s: %v", d.Object, d.Err)
		}
	})
	return c
}

// inventory adds up what lies in the store.
func inventory(t treetest.T, w *enginetest.World) (stored, objects, content int64) {
	t.Helper()
	r := w.Bare()
	s, err := r.Head(w.Ctx, enginetest.Host, "web")
	w.Check(err)
	reader := r.NewReader(enginetest.Host, s.Domain)
	defer reader.Close()
	for o, err := range w.Store.List(w.Ctx, storage.ListOptions{}) {
		w.Check(err)
		stored += o.Size
		objects++
		if id, ok := deletion.ParseKey(o.Key); ok && id.Kind == wire.KindPack {
			_, contents, err := reader.Contents(w.Ctx, wire.KindPack, id.Hash, o.Size)
			w.Check(err)
			for _, f := range contents.Files {
				content += int64(f.SealedLen)
			}
		}
	}
	return stored, objects, content
}

// resticHistory is how many bytes restic stores of a history of a length.
func (b *bench) resticHistory(ctx context.Context, length int) (int64, error) {
	dir := treetest.TempDir(b.stage)
	side := b.contender(nameRestic, place{repo: filepath.Join(dir, "repo"), home: filepath.Join(dir, "home")})
	tree := newGrowthTree(b.stage)
	run := func(c command) error {
		if out, err := c.build(ctx).CombinedOutput(); err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return fmt.Errorf("%s: %w", strings.Join(c.argv, " "), err)
		}
		return nil
	}
	if err := run(side.Init()); err != nil {
		return 0, err
	}
	for n := 1; n <= length; n++ {
		tree.change(b.stage, n)
		if err := run(side.Capture(tree.dir)); err != nil {
			return 0, err
		}
	}
	var stored int64
	err := filepath.WalkDir(filepath.Join(dir, "repo"), func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			stored += info.Size()
		}
		return err
	})
	return stored, err
}

// meter counts what is asked of a store.
type meter struct {
	storage.Store
	requests, fetched atomic.Int64

	mu             sync.Mutex
	inFlight, most int64
}

func (m *meter) begin() (end func()) {
	m.requests.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inFlight++
	m.most = max(m.most, m.inFlight)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.inFlight--
	}
}

// Get implements storage.Store. The request is under way until the body is closed.
func (m *meter) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	end := m.begin()
	r, err := m.Store.Get(ctx, key, offset, length)
	if err != nil {
		end()
		return nil, err
	}
	return &meteredBody{r, m, sync.OnceFunc(end)}, nil
}

// pageKeys is how many keys one request lists.
const pageKeys = 1000

// List implements storage.Store.
func (m *meter) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		defer m.begin()()
		n := 0
		for x, err := range m.Store.List(ctx, o) {
			if n++; n%pageKeys == 0 {
				m.requests.Add(1)
			}
			if !yield(x, err) {
				return
			}
		}
	}
}

type meteredBody struct {
	io.ReadCloser
	m   *meter
	end func()
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.m.fetched.Add(int64(n))
	return n, err
}

func (b *meteredBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

// during is what f asks of the store.
func (m *meter) during(f func()) usage {
	requests, bytes := m.requests.Load(), m.fetched.Load()
	m.mu.Lock()
	m.most = m.inFlight
	m.mu.Unlock()
	f()
	m.mu.Lock()
	defer m.mu.Unlock()
	return usage{m.requests.Load() - requests, m.fetched.Load() - bytes, m.most}
}
