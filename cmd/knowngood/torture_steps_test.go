package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
)

// next does one random thing.
func (w *world) next() {
	w.t.Helper()
	type kind struct {
		weight int
		do     func()
		writes bool // to the repository: all is verified afterwards
	}
	kinds := []kind{
		{8, w.change, false}, {5, w.capture, true}, {3, w.killCapture, true}, {2, w.captureWhileBusy, true}, {2, w.captureTogether, true},
		{3, w.forget, true}, {1, w.forgetByPolicy, true}, {2, w.undo, true}, {1, w.killForget, true},
		{2, w.prune, true}, {2, w.ageAndPrune, true}, {2, w.killPrune, true},
		{1, w.loseState, true}, {1, w.join, true}, {3, w.damage, false},
		{2, w.restoreNew, false}, {2, w.restoreLive, false}, {2, w.restoreOver, false}, {1, w.restoreDirectory, false}, {2, w.restoreFile, false},
		{1, w.dryRun, false}, {2, w.cat, false}, {2, w.killRestore, false},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	at := w.random.IntN(total)
	for _, k := range kinds {
		if at -= k.weight; at >= 0 {
			continue
		}
		k.do()
		if k.writes {
			w.verify()
		}
		return
	}
}

func (w *world) change() {
	_, e := w.environment()
	done := treetest.Mutate(w.t, e.src, treetest.Seed(w.random.Uint64()), 1+w.random.IntN(8), w.shape())
	w.log("in %s: %s", e.src, strings.Join(done, "; "))
}

// took enters a new snapshot of an environment, by what the program printed.
func (w *world) took(h *torturedHost, e *environment, stdout string, tree treetest.Tree, busy bool) {
	w.t.Helper()
	number := 0
	if _, err := fmt.Sscanf(strings.TrimSpace(stdout), e.name+"@%d", &number); err != nil || number <= e.newest {
		w.t.Fatalf("a snapshot after %s@%d is called %q (%v)", e.name, e.newest, stdout, err)
	}
	e.newest = number
	e.snapshots[number] = &snapshotModel{ref: fmt.Sprintf("%s/%s@%d", h.name, e.name, number), src: e.src, tree: tree, busy: busy}
}

// suspect reports whether a snapshot was taken that is suspect: much was changed
// before it.
func (o *outcome) suspect() bool {
	return o.code == exit.Incomplete && strings.Contains(o.stderr.String(), "; suspect\n")
}

// captured demands a snapshot, and returns what was printed.
func (o *outcome) captured(t *testing.T) string {
	t.Helper()
	if o.suspect() {
		return o.stdout.String()
	}
	return o.exits(t, exit.Done)
}

func (w *world) capture() {
	h, e := w.environment()
	args := []string{"snapshot", "--env", e.name, e.src}
	if w.random.IntN(6) == 0 {
		args = append(args, "--reread")
	}
	w.took(h, e, w.run(h, args...).captured(w.t), treetest.Snapshot(w.t, e.src), false)
}

func (w *world) killCapture() {
	h, e := w.environment()
	o, killed := w.kill(h, "snapshot", "--env", e.name, e.src)
	if !killed {
		o.captured(w.t)
	}
	w.adopt(h, e, treetest.Snapshot(w.t, e.src))
}

// adopt enters what a run may have committed that died before it could report it.
func (w *world) adopt(h *torturedHost, e *environment, tree treetest.Tree) {
	w.t.Helper()
	for _, s := range w.listed() {
		if s.Host == h.name && s.Environment == e.name && s.Number > e.newest {
			if s.Status != "complete" && s.Status != "suspect" {
				w.t.Errorf("%s/%s of a tree that stands still is %s", s.Host, s.Ref, s.Status)
			}
			w.took(h, e, s.Ref, tree, false)
		}
	}
}

// captureWhileBusy takes a snapshot while files come and go in one directory.
func (w *world) captureWhileBusy() {
	h, e := w.environment()
	busy := filepath.Join(e.src, "busy")
	if err := os.Mkdir(busy, 0o755); err != nil && !os.IsExist(err) {
		w.t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				stopped <- n
				return
			default:
			}
			// What cannot be done, such as in what is no directory, is left.
			name := filepath.Join(busy, fmt.Sprint(n%17))
			_ = os.Remove(name + ".new") // which may have another name elsewhere
			_ = os.WriteFile(name+".new", []byte(strings.Repeat(name, n%1000)), 0o644)
			_ = os.Rename(name+".new", name)
			_ = os.Link(name, filepath.Join(busy, fmt.Sprint("link-", n%5)))
			_ = os.RemoveAll(filepath.Join(busy, fmt.Sprint((n+5)%17)))
			_ = os.Remove(filepath.Join(busy, fmt.Sprint("link-", (n+2)%5)))
			n++
		}
	}()
	o := w.run(h, "snapshot", "--env", e.name, e.src)
	close(stop)
	w.log("%d changes in %s meanwhile", <-stopped, busy)
	if o.code != exit.Incomplete {
		o.exits(w.t, exit.Done)
	}
	for line := range strings.Lines(o.stderr.String()) {
		if path, ok := strings.CutPrefix(line, "knowngood: /"); ok && !strings.Contains(path, "/busy") {
			w.t.Errorf("told of what stood still: %s", line)
		}
	}
	w.took(h, e, o.stdout.String(), treetest.Snapshot(w.t, e.src), true)
}

// captureTogether takes snapshots of all hosts at once, while one prunes.
func (w *world) captureTogether() {
	var waits []wait
	var envs []*environment
	pruning := w.host()
	_, pruned := pruning.machine.start(w.t, "prune", "--host", pruning.name)
	for _, h := range w.hosts {
		e := h.envs[w.random.IntN(len(h.envs))]
		_, done := h.machine.start(w.t, "snapshot", "--env", e.name, e.src, "--host", h.name)
		waits, envs = append(waits, done), append(envs, e)
	}
	w.log("prune of %s and snapshots of all %d hosts at once", pruning.name, len(waits))
	for i, done := range waits {
		w.took(w.hosts[i], envs[i], done().captured(w.t), treetest.Snapshot(w.t, envs[i].src), false)
	}
	pruned().exits(w.t, exit.Done)
	w.pruned(true)
}

// older chooses a snapshot that is not the newest of its environment.
func (w *world) older(forgotten bool) (h *torturedHost, s *snapshotModel) {
	n := 0
	w.all(func(of *torturedHost, in *environment, number int, one *snapshotModel) bool {
		if number < in.newest && one.forgotten == forgotten {
			if n++; w.random.IntN(n) == 0 {
				h, s = of, one
			}
		}
		return true
	})
	return h, s
}

func (w *world) forget() {
	if h, s := w.older(false); s != nil {
		w.must(h, "forget", s.ref)
		s.forgotten = true
	}
}

func (w *world) forgetByPolicy() {
	h, e := w.environment()
	if e.newest == 0 {
		return
	}
	// Suspect snapshots have places of their own, and the newest holds back all.
	kept := map[bool][]int{}
	waits := false
	for _, l := range w.listed() {
		s := e.snapshots[l.Number]
		if l.Host != h.name || l.Environment != e.name || s == nil || s.forgotten {
			continue
		}
		suspect := l.Status == "suspect"
		kept[suspect] = append(kept[suspect], l.Number)
		waits = waits || suspect && l.Number == e.newest
	}
	w.must(h, "forget", "--env", e.name, "--keep-last", "2")
	for _, numbers := range kept {
		slices.Sort(numbers)
		for _, n := range numbers[:max(0, len(numbers)-2)] {
			e.snapshots[n].forgotten = !waits
		}
	}
}

// undo takes back that a snapshot was forgotten. What prune may have deleted
// may be refused.
func (w *world) undo() {
	h, s := w.older(true)
	if s == nil {
		return
	}
	o := w.run(h, "forget", "--undo", s.ref)
	if o.code == exit.Done {
		s.forgotten, s.prunable = false, false
		return
	}
	if !s.prunable {
		o.exits(w.t, exit.Done)
	}
}

func (w *world) killForget() {
	h, s := w.older(false)
	if s == nil {
		return
	}
	if o, killed := w.kill(h, "forget", s.ref); !killed {
		o.exits(w.t, exit.Done)
	}
	s.forgotten = true
	for _, l := range w.listed() {
		if l.Host+"/"+l.Ref == s.ref {
			s.forgotten = l.Forgotten
		}
	}
}

// pruned notes that what is forgotten may be gone.
func (w *world) pruned(deleted bool) {
	w.all(func(_ *torturedHost, _ *environment, _ int, s *snapshotModel) bool {
		s.prunable = s.forgotten && (s.prunable || deleted)
		return true
	})
}

func (w *world) prune() {
	args := []string{"prune", "--announce", "48h"}
	if w.random.IntN(2) == 0 {
		args = append(args, "--all-hosts")
	}
	if w.random.IntN(3) == 0 {
		args = append(args, "--max-repack", "1GiB")
	}
	w.must(w.host(), args...)
	w.pruned(true)
}

// ageAndPrune lets three days pass, by the clock of the store, between prunes.
func (w *world) ageAndPrune() {
	w.age(3 * 24 * time.Hour)
	w.prune()
	if w.random.IntN(2) == 0 {
		w.age(3 * 24 * time.Hour)
		w.prune()
	}
}

func (w *world) killPrune() {
	w.age(3 * 24 * time.Hour)
	if o, killed := w.kill(w.host(), "prune", "--announce", "48h", "--all-hosts", "--max-repack", "1GiB"); !killed {
		o.exits(w.t, exit.Done)
	}
	w.pruned(true)
}

// age makes everything in the repository older.
func (w *world) age(by time.Duration) {
	w.t.Helper()
	w.log("all of the repository is older by %v", by)
	err := filepath.WalkDir(w.repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			at := info.ModTime().Add(-by)
			err = os.Chtimes(path, at, at)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// loseState loses what a host remembers, its key included or not.
func (w *world) loseState() {
	h := w.host()
	keys, err := filepath.Glob(filepath.Join(h.state, "repos", "*", "host.key"))
	if err != nil || len(keys) != 1 {
		w.t.Fatalf("keys of %s: %q, %v", h.name, keys, err)
	}
	key, err := os.ReadFile(keys[0])
	if err == nil {
		err = os.RemoveAll(h.state)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if w.random.IntN(2) == 0 {
		w.log("%s loses its state", h.name)
		w.must(h, "init", "--join", "--reenrol")
		w.forgetAgain(h)
		return
	}
	w.log("%s loses its state but for its key", h.name)
	if err = os.MkdirAll(filepath.Dir(keys[0]), 0o700); err == nil {
		err = os.WriteFile(keys[0], key, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// forgetAgain repeats for a host that was enrolled again what it has forgotten: what
// its old key signed forgets nothing any more. What prune cannot have deleted
// is there again.
func (w *world) forgetAgain(h *torturedHost) {
	w.t.Helper()
	w.all(func(of *torturedHost, _ *environment, _ int, s *snapshotModel) bool {
		if of == h && s.forgotten && s.prunable {
			w.must(h, "forget", s.ref)
		} else if of == h {
			s.forgotten = false
		}
		return true
	})
}

func (w *world) join() {
	if len(w.hosts) < 3 {
		w.addHost("init", "--join")
	}
}
