package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/printable"
	"knowngood/internal/treetest"
)

var (
	tortureTime = flag.Duration("torture.time", 0, "how long TestTorture goes on; 0: some seconds, or minutes with KNOWNGOOD_SLOW")
	tortureSeed = flag.Uint64("torture.seed", 1, "seed of random choices; 0: another one each time")
)

// TestTorture does to a repository and its hosts whatever may happen to them,
// in random order, and holds the program to a model of what must be
// restorable. A failure prints the seed and the steps; the same seed makes the
// same choices, except the moments at which programs are killed.
//
//	go test ./cmd/knowngood -run TestTorture -torture.time 2h -torture.seed 7 -v -timeout 0
func TestTorture(t *testing.T) {
	t.Parallel()
	duration := *tortureTime
	if duration == 0 && slow() {
		duration = 3 * time.Minute
	} else if duration == 0 {
		duration = 8 * time.Second
	}
	seed := chosenSeed(t)

	w := newWorld(t)
	started := time.Now()
	for ; time.Since(started) < duration && !t.Failed(); w.step++ {
		w.random = rand.New(rand.NewPCG(seed, uint64(w.step)))
		w.next()
	}
	w.verifyAll()
	t.Logf("%d steps, %d runs of the program, %d killed", w.step, w.runs, w.killed)
}

// chosenSeed is the seed of a test's random choices. It is the same each time
// unless asked otherwise, so that a test does not fail for whom its code does
// not concern; runs by hand draw others.
func chosenSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *tortureSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-torture.seed %d", seed)
	return seed
}

// world is a repository, its hosts, and what must hold of them.
type world struct {
	t      *testing.T
	random *rand.Rand
	dir    string // for what comes and goes
	repo   string
	hosts  []*torturedHost

	step         int
	runs, killed int
	whole        time.Duration // how long a run takes that is not killed
}

// torturedHost is a host with its environments.
type torturedHost struct {
	*machine
	name string
	envs []*environment
}

// environment is a live tree and its snapshots, by number.
type environment struct {
	name, src string
	snapshots map[int]*snapshotModel
	newest    int
}

// snapshotModel is what must come back of a snapshot.
type snapshotModel struct {
	ref  string // with its host
	src  string
	tree treetest.Tree
	// busy means that what lies below that directory changed while it was
	// captured; the tree does not have it then.
	busy      bool
	forgotten bool
	prunable  bool // prune has deleted something since it was forgotten
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := treetest.TempDir(t)
	w := &world{t: t, dir: dir, repo: filepath.Join(dir, "repo"), random: rand.New(rand.NewPCG(0, 0)), whole: 100 * time.Millisecond}
	w.addHost("init", "--identity-type", "x25519")
	return w
}

// addHost makes a host by init, with one environment or two.
func (w *world) addHost(args ...string) {
	w.t.Helper()
	name := fmt.Sprint("h", len(w.hosts))
	h := &torturedHost{name: name, machine: &machine{repo: w.repo, identity: filepath.Join(w.dir, "identity"), state: filepath.Join(w.dir, "state-"+name)}}
	for i := range 1 + len(w.hosts)%2 {
		e := &environment{name: fmt.Sprint("e", i), src: filepath.Join(w.dir, fmt.Sprint("src-", name, "-", i)), snapshots: map[int]*snapshotModel{}}
		makeDir(w.t, e.src)
		treetest.Generate(w.t, e.src, treetest.Seed(w.random.Uint64()), w.shape())
		h.envs = append(h.envs, e)
	}
	w.must(h, args...)
	w.hosts = append(w.hosts, h)
}

func (w *world) shape() treetest.Shape {
	return treetest.Shape{Nodes: 15, MaxFile: 400 << 10, LargeDir: 30, Without: []treetest.Part{treetest.DeepPaths}}
}

// log prints what is done, as it would be typed.
func (w *world) log(format string, args ...any) {
	w.t.Helper()
	w.t.Logf("step %d: %s", w.step, fmt.Sprintf(format, args...))
}

// run runs the program as a host.
func (w *world) run(h *torturedHost, args ...string) *outcome {
	w.t.Helper()
	if args[0] == "init" { // later it goes by the keys in the state directory
		args = append(args, "--host", h.name)
	}
	started := time.Now()
	o := h.machine.run(w.t, args...)
	w.runs++
	w.whole = time.Since(started)
	w.log("knowngood %s: %d", strings.Join(quotedArgs(args), " "), o.code)
	return o
}

func quotedArgs(args []string) (out []string) {
	for _, a := range args {
		out = append(out, printable.Word(a))
	}
	return out
}

func (w *world) must(h *torturedHost, args ...string) string {
	w.t.Helper()
	return w.run(h, args...).exits(w.t, exit.Done)
}

// kill runs the program and kills it at a random moment; killed is false when
// it had ended before.
func (w *world) kill(h *torturedHost, args ...string) (o *outcome, killed bool) {
	w.t.Helper()
	if args[0] == "init" { // later it goes by the keys in the state directory
		args = append(args, "--host", h.name)
	}
	k := &killer{random: w.random, whole: w.whole}
	o = k.try(w.t, h.machine, args...)
	w.runs++
	if killed = o.code == -1; killed {
		w.killed++
	}
	w.log("knowngood %s: killed %v, %d", strings.Join(quotedArgs(args), " "), killed, o.code)
	return o, killed
}

// host and environment are random ones.
func (w *world) host() *torturedHost { return w.hosts[w.random.IntN(len(w.hosts))] }

func (w *world) environment() (*torturedHost, *environment) {
	h := w.host()
	return h, h.envs[w.random.IntN(len(h.envs))]
}

// all yields all snapshots.
func (w *world) all(yield func(*torturedHost, *environment, int, *snapshotModel) bool) {
	for _, h := range w.hosts {
		for _, e := range h.envs {
			for n := 1; n <= e.newest; n++ {
				if s := e.snapshots[n]; s != nil && !yield(h, e, n, s) {
					return
				}
			}
		}
	}
}

// kept chooses a snapshot that must be restorable, or nil.
func (w *world) kept() (h *torturedHost, s *snapshotModel) {
	n := 0
	w.all(func(of *torturedHost, _ *environment, _ int, one *snapshotModel) bool {
		if !one.forgotten {
			if n++; w.random.IntN(n) == 0 {
				h, s = of, one
			}
		}
		return true
	})
	return h, s
}

// scratch is a directory that does not exist and that discard removes.
func (w *world) scratch() string {
	return filepath.Join(w.dir, fmt.Sprint("scratch-", w.step, "-", w.runs))
}

func (w *world) discard(dir string) {
	w.t.Helper()
	if err := treetest.Remove(dir); err != nil {
		w.t.Fatal(err)
	}
}

// anybody is a machine that has the identity and nothing else; there is one at
// a time.
func (w *world) anybody() *torturedHost {
	m := *w.hosts[0].machine
	m.repo, m.state = w.repo, filepath.Join(w.dir, "anybody")
	w.discard(m.state)
	return &torturedHost{machine: &m}
}
