package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
)

// kills is how often the tests below kill the program.
func kills() int {
	if slow() {
		return 80
	}
	return 12
}

// killer kills a program at a random moment of its run, as far as earlier
// runs show how long that is.
type killer struct {
	random *rand.Rand
	whole  time.Duration // of the last run that was let be
}

func newKiller(t *testing.T) *killer {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return &killer{random: rand.New(rand.NewPCG(seed, 0)), whole: 100 * time.Millisecond}
}

// kill runs the program and kills it; killed is false when it ended before,
// which it must have done with success.
func (k *killer) kill(t *testing.T, m *machine, args ...string) (killed bool) {
	t.Helper()
	o := k.try(t, m, args...)
	if o.code != -1 {
		o.captured(t)
	}
	return o.code == -1
}

func (k *killer) try(t *testing.T, m *machine, args ...string) *outcome {
	t.Helper()
	cmd, wait := m.start(t, args...)
	time.Sleep(time.Duration(k.random.Int64N(int64(k.whole))))
	_ = cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	return wait()
}

// let runs the program to its end.
func (k *killer) let(t *testing.T, m *machine, args ...string) string {
	t.Helper()
	started := time.Now()
	out := m.run(t, args...).captured(t)
	k.whole = time.Since(started)
	return out
}

// write makes a file of n random bytes.
func (k *killer) write(t *testing.T, file string, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(k.random.Uint32())
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKill(t *testing.T) {
	t.Parallel()
	t.Run("snapshots that are killed harm nothing", testSnapshotsThatAreKilledHarmNothing)
	t.Run("restores that are killed go on", testRestoresThatAreKilledGoOn)
	t.Run("restores in place that are killed leave whole files", testRestoresInPlaceThatAreKilledLeaveWholeFiles)
}

func testSnapshotsThatAreKilledHarmNothing(t *testing.T) {
	t.Parallel()
	m, k := newMachine(t, filepath.Join(t.TempDir(), "repo")), newKiller(t)
	dir := treetest.TempDir(t)
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	treetest.Generate(t, src, treetest.Seed(1), treetest.Shape{Nodes: 30, MaxFile: 1 << 20})
	bulk := filepath.Join(src, "bulk")
	want := map[string]treetest.Tree{}
	last := 0
	killed, committed := 0, 0
	for round := range kills() {
		treetest.Mutate(t, src, treetest.Seed(k.random.Uint64()), 5, treetest.Shape{MaxFile: 1 << 20})
		if err := treetest.Remove(bulk); err != nil { // it may have become a fifo
			t.Fatal(err)
		}
		k.write(t, bulk, 1+k.random.IntN(12<<20))
		if k.kill(t, m, "snapshot", "--env", "web", src) {
			killed++
		}
		refs := m.refs(t)
		if len(refs) > last {
			committed++
		}
		if len(refs) > last+1 || !slices.IsSorted(numbers(t, refs)) {
			t.Fatalf("round %d: there were %d snapshots, now there are %v", round, last, refs)
		}
		m.must(t, "check")
		ref := strings.TrimSpace(k.let(t, m, "snapshot", "--env", "web", src))
		if last = len(refs) + 1; ref != fmt.Sprintf("web@%d", last) {
			t.Fatalf("round %d: the snapshot after %v is %s", round, refs, ref)
		}
		if round%8 == 0 || round == kills()-1 {
			want[ref] = treetest.Snapshot(t, src)
		}
	}
	t.Logf("%d of %d runs were killed; %d had committed", killed, kills(), committed)
	if committed == kills() {
		t.Error("no run was killed before it had committed")
	}
	m.must(t, "check", "--read-data")
	for ref, tree := range want {
		out := filepath.Join(dir, strings.ReplaceAll(ref, "@", "-"))
		m.bare(t).must(t, "restore", ref+":"+src, "--target", out)
		tree.Equal(t, out, treetest.Options{IgnoreOwners: os.Geteuid() != 0})
	}
}

// numbers of references to one environment.
func numbers(t *testing.T, refs []string) []int {
	t.Helper()
	out := make([]int, len(refs))
	for i, ref := range refs {
		if _, err := fmt.Sscanf(ref, "web@%d", &out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func testRestoresThatAreKilledGoOn(t *testing.T) {
	t.Parallel()
	m, k := newMachine(t, filepath.Join(t.TempDir(), "repo")), newKiller(t)
	dir := treetest.TempDir(t)
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	treetest.Generate(t, src, treetest.Seed(2), treetest.Shape{Nodes: 60})
	m.must(t, "snapshot", "--env", "web", src)
	options := treetest.Options{IgnoreOwners: os.Geteuid() != 0}
	killed := 0
	for round := range kills() / 5 {
		target := filepath.Join(dir, fmt.Sprint("out-", round))
		args := []string{"restore", "web:" + src, "--target", target}
		o := k.try(t, m, args...)
		for range 3 {
			if o.code != -1 {
				break
			}
			killed++
			o = k.try(t, m, args...)
		}
		if o.code == -1 {
			killed++
			o = m.run(t, args...)
		}
		// One that was killed when all was done, before it could report it, has
		// left nothing to go on with but the time of the target itself.
		if o.code != exit.Done && strings.Contains(o.stderr.String(), "the target directory is not empty") {
			o = m.run(t, append(args, "--in-place")...)
		}
		o.exits(t, exit.Done)
		treetest.Equal(t, src, target, options)
		if err := treetest.Remove(target); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d restores were killed", killed)
	if killed == 0 {
		t.Error("no restore was killed")
	}
}

// In place, a file is at every moment the old one or the new one, whole.
func testRestoresInPlaceThatAreKilledLeaveWholeFiles(t *testing.T) {
	t.Parallel()
	m, k := newMachine(t, filepath.Join(t.TempDir(), "repo")), newKiller(t)
	src := t.TempDir()
	const files = 40
	var versions [2][files][]byte
	name := func(i int) string { return filepath.Join(src, fmt.Sprintf("file-%02d", i)) }
	for v := range versions {
		for i := range files {
			versions[v][i] = k.write(t, name(i), 1+k.random.IntN(512<<10))
		}
		m.must(t, "snapshot", "--env", "web", src)
	}
	killed, mixed := 0, 0
	for round := range kills() {
		v := round % 2
		args := []string{"restore", fmt.Sprintf("web@%d:%s", v+1, src), "--in-place", "--delete"}
		if k.kill(t, m, args...) {
			killed++
		}
		restored := 0
		for i := range files {
			b, err := os.ReadFile(name(i))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(b, versions[v][i]) {
				restored++
			} else if !bytes.Equal(b, versions[1-v][i]) {
				t.Fatalf("round %d: %s is neither the old file nor the new one", round, name(i))
			}
		}
		if restored > 0 && restored < files {
			mixed++
		}
		k.let(t, m, args...)
		left, err := os.ReadDir(src)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) != files {
			t.Fatalf("round %d: there are %d files, want %d: %v", round, len(left), files, left)
		}
		for i := range files {
			if b, err := os.ReadFile(name(i)); err != nil || !bytes.Equal(b, versions[v][i]) {
				t.Fatalf("round %d: %s is not restored (%v)", round, name(i), err)
			}
		}
	}
	t.Logf("%d restores were killed, %d of them with some files done", killed, mixed)
	if killed == 0 {
		t.Error("no restore was killed")
	}
}
