package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
)

// fullStore is a machine whose repository lies on a disk of its own, where a
// first snapshot is forgotten. Only the programs that the test starts see it.
func fullStore(t *testing.T) (m *machine, disk, src string) {
	t.Helper()
	ownDisks(t)
	disk = t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unmount(t, disk) })
	m = newMachine(t, filepath.Join(disk, "repo"))
	src = t.TempDir()
	for _, size := range []int{6_000_000, 5_000_000} {
		grow(t, src, "file", size)
		m.snapshot(t, "web", src)
	}
	m.must(t, "forget", "web@1")
	return m, disk, src
}

// older moves the times of all objects back.
func older(t *testing.T, disk, by string) {
	t.Helper()
	must(t, "find", disk, "-type", "f", "-exec", "sh", "-c", `for f; do touch -d "$(date -Ins -r "$f") - `+by+`" "$f"; done`, "sh", "{}", "+")
}

// fill takes all room that is left on a disk.
func fill(t *testing.T, disk string) {
	t.Helper()
	out, err := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(disk, "fill"), "bs=4k").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "No space left") {
		t.Fatalf("the disk did not become full: %v: %s", err, out)
	}
}

type pruned struct {
	Domains []struct {
		Announced, Deleted, Waiting struct{ Objects, Bytes uint64 }
	}
}

func (m *machine) prune(t treetest.T) pruned {
	t.Helper()
	return decode[pruned](t, m.must(t, "prune", "--json"))
}

func TestFullStore(t *testing.T) {
	t.Parallel()
	t.Run("prune frees space on a full store", testPruneFreesSpaceOnAFullStore)
	t.Run("prune on a full store without a reserve reports how much it needs", testPruneOnAFullStoreWithoutAReserveReportsHowMuchItNeeds)
}

func testPruneFreesSpaceOnAFullStore(t *testing.T) {
	t.Parallel()
	m, disk, src := fullStore(t)
	m.prune(t) // all is too young, and the reserve is kept from now on
	older(t, disk, "3 days")
	fill(t, disk)

	if d := m.prune(t).Domains; len(d) != 1 || d[0].Announced.Objects == 0 {
		t.Fatalf("nothing was announced: %+v", d)
	}
	// The store stays full for as long as it takes.
	for range 12 {
		if d := m.prune(t).Domains; len(d) != 1 || d[0].Waiting.Objects == 0 {
			t.Fatalf("nothing waits: %+v", d)
		}
		must(t, "rm", filepath.Join(disk, "fill"))
		fill(t, disk)
	}
	older(t, disk, "8 days")

	if d := m.prune(t).Domains; len(d) != 1 || d[0].Deleted.Bytes < 5_000_000 {
		t.Errorf("deleted: %+v", d)
	}
	m.must(t, "check", "--read-data")
	grow(t, src, "more", 1_000_000)
	s := m.snapshot(t, "web", src)
	restores(t, m, s.Ref, src, contents(t, src))
}

func testPruneOnAFullStoreWithoutAReserveReportsHowMuchItNeeds(t *testing.T) {
	t.Parallel()
	m, disk, _ := fullStore(t)
	older(t, disk, "3 days")
	m.prune(t)
	older(t, disk, "8 days")
	must(t, "find", disk, "-name", "reserve-*", "-delete")
	fill(t, disk)

	before, err := exec.Command("find", disk, "-type", "f").Output()
	if err != nil {
		t.Fatal(err)
	}
	o := m.run(t, "prune")
	if o.code != exit.Failed || !strings.Contains(o.stderr.String(), "free 128 KiB by other means") {
		t.Errorf("exit code %d: %s", o.code, &o.stderr)
	}
	after, err := exec.Command("find", disk, "-type", "f").Output()
	if err != nil || string(after) != string(before) {
		t.Errorf("files of the store went: %v\n%s\nwant\n%s", err, after, before)
	}

	must(t, "truncate", "-s", "-128K", filepath.Join(disk, "fill"))
	if d := m.prune(t).Domains; len(d) != 1 || d[0].Deleted.Bytes < 5_000_000 {
		t.Errorf("deleted: %+v", d)
	}
}
