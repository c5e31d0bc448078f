package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
)

func TestTogether(t *testing.T) {
	t.Parallel()
	t.Run("processes at the same time all commit", testProcessesAtTheSameTimeAllCommit)
}

// testProcessesAtTheSameTimeAllCommit starts several processes of one host,
// for the same environment and for others, round after round.
func testProcessesAtTheSameTimeAllCommit(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, m *machine) {
		dir := treetest.TempDir(t)
		const rounds, processes = 3, 4
		var sources [processes]string
		envs := [processes]string{"web", "web", "web", "db"}
		for i := range sources {
			sources[i] = filepath.Join(dir, fmt.Sprint("src-", i))
			if err := os.Mkdir(sources[i], 0o755); err != nil {
				t.Fatal(err)
			}
			treetest.Generate(t, sources[i], treetest.Seed(uint64(i)), treetest.Shape{Nodes: 10, MaxFile: 1 << 20, LargeDir: 20})
		}
		type taken struct {
			source int
			tree   treetest.Tree
		}
		want := map[string]taken{}
		for round := range rounds {
			var waits [processes]wait
			for i, src := range sources {
				treetest.Mutate(t, src, treetest.Seed(uint64(100*round+i)), 5, treetest.Shape{MaxFile: 1 << 20})
			}
			for i, src := range sources {
				_, waits[i] = m.start(t, "snapshot", "--env", envs[i], src)
			}
			for i, src := range sources {
				ref := strings.TrimSpace(waits[i]().exits(t, exit.Done))
				if _, ok := want[ref]; ok {
					t.Fatalf("two processes took %s", ref)
				}
				want[ref] = taken{i, treetest.Snapshot(t, src)}
			}
		}
		refs := m.refs(t)
		for n := range 3 * rounds {
			if ref := fmt.Sprintf("web@%d", n+1); !slices.Contains(refs, ref) {
				t.Errorf("%s is missing in %v", ref, refs)
			}
		}
		if len(refs) != processes*rounds {
			t.Errorf("there are %d snapshots, want %d", len(refs), processes*rounds)
		}
		m.must(t, "check", "--read-data")
		bare := m.bare(t)
		for ref, w := range want {
			out := filepath.Join(dir, strings.ReplaceAll(ref, "@", "-"))
			bare.must(t, "restore", ref+":"+sources[w.source], "--target", out)
			w.tree.Equal(t, out, treetest.Options{IgnoreOwners: os.Geteuid() != 0})
			if err := treetest.Remove(out); err != nil {
				t.Fatal(err)
			}
		}
	})
}
