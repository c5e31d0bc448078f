package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage/dir"
)

// withPeak runs a program and writes into a file how much memory it had at most, in
// KiB: with-peak FILE PROGRAM ARGUMENT... What the kernel counts of a process
// includes that of the one that started it, which is small here.
func withPeak() {
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fatal("%v", err)
	}
	peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	if err := os.WriteFile(os.Args[1], fmt.Append(nil, peak), 0o644); err != nil {
		fatal("%v", err)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// peak runs the program and returns how much memory it had at most, in MiB.
func (m *machine) peak(t treetest.T, args ...string) int {
	t.Helper()
	file := filepath.Join(treetest.TempDir(t), "peak")
	cmd := m.command(args...)
	cmd.Args = append([]string{"with-peak", file}, cmd.Args...)
	cmd.Path = strings.TrimSuffix(cmd.Path, "knowngood") + "with-peak"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("knowngood %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v", err)
	}
	kib, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return kib >> 10
}

// history takes snapshots of 200 small files, of which one changes before each, by the
// engine, which does not start a process for each.
func (m *machine) history(t *testing.T, env string, snapshots int) {
	t.Helper()
	store, err := dir.Open(m.repo)
	if err != nil {
		t.Fatalf("%v", err)
	}
	w := (&enginetest.World{T: t, Ctx: t.Context(), URL: m.repo, State: m.state}).Over(store)
	src := treetest.TempDir(t)
	content := make([]byte, 4<<10)
	r := rand.New(rand.NewPCG(1, 1))
	write := func(i int) {
		for j := range content {
			content[j] = 'a' + byte(r.IntN(26))
		}
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("file-%03d", i%200)), content, 0o644); err != nil {
			t.Fatalf("%v", err)
		}
	}
	for i := range 200 {
		write(i)
	}
	for i := range snapshots {
		write(i * 37)
		w.MustCapture(env, src)
	}
}

func TestPeakMemory(t *testing.T) {
	t.Run("of a prune of a long history is at most 60 MiB", testAPruneTakesLittleMemory)
}

// A prune of a machine that never did one reads every root and every list of objects.
func testAPruneTakesLittleMemory(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(treetest.TempDir(t), "repo"))
	snapshots, limit := 200, 60
	if slow() {
		snapshots = 3000
	}
	m.history(t, "web", snapshots)
	for _, args := range [][]string{{"prune", "--dry-run"}, {"prune", "--dry-run"}, {"prune"}} {
		peak := m.peak(t, args...)
		t.Logf("%v of %d snapshots: %d MiB", args, snapshots, peak)
		if peak > limit {
			t.Errorf("%v of %d snapshots takes %d MiB, want at most %d", args, snapshots, peak, limit)
		}
	}
}
