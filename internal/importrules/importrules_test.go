// Package importrules holds the direction of imports: a package may use those
// of its own layer and those below, never those above. It also bounds how large
// packages and types get.
package importrules

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// layers from the bottom up. Every package is in one of them.
var layers = [][]string{
	{"internal/importrules", "internal/wordlist", "internal/wire", "internal/densemap", "internal/duration", "internal/durable", "internal/inode", "internal/posix", "internal/printable", "internal/scratch", "internal/userdir", "daemon/report", "internal/command", "internal/outside", "restore/isolate"},
	{"internal/schedule", "snapshot/manifest", "snapshot/signs", "snapshot/suspect", "storage/chunk", "storage/index", "storage/inventory", "storage/layout", "storage/pack", "storage/seal", "storage/statement"},
	{"internal/fusetest", "internal/treetest", "snapshot/bisect", "snapshot/filter", "snapshot/live", "snapshot/retention"},
	{"configs"},
	{"storage"},
	{"storage/authentic", "storage/dir", "storage/identity", "storage/localstate", "storage/replay", "storage/s3", "storage/throttle"},
	{"storage/ledger", "storage/stores", "storage/storagetest"},
	{"storage/trust"},
	{"storage/deletion"},
	{"storage/attest"},
	{"storage/history"},
	{"storage/objects"},
	{"storage/repository"},
	{"snapshot", "snapshot/check", "snapshot/prune", "snapshot/walk"},
	{"restore/fetch", "restore/owners", "restore/target", "snapshot/diff", "snapshot/selection"},
	{"restore"},
	{"internal/enginetest", "restore/load", "restore/probe"},
	{"restore/drill", "restore/generation"},
	{"restore/drift", "restore/instance"},
	{"daemon/notify", "daemon/web"},
	{"daemon/checking", "daemon/child", "daemon/jobfiles", "daemon/places", "daemon/runner", "daemon/validation", "daemon/warnings"},
	{"daemon"},
	{"cmd/knowngood/console", "cmd/knowngood/exit", "cmd/knowngood/human", "cmd/knowngood/logging", "cmd/knowngood/usage"},
	{"cmd/knowngood/captures", "cmd/knowngood/catalog", "cmd/knowngood/session"},
	{"cmd/knowngood/completion", "cmd/knowngood/present"},
	{"cmd/knowngood/proof"},
	{"cmd/knowngood/drills", "cmd/knowngood/quickstart", "cmd/knowngood/stats", "cmd/knowngood/take"},
	{"cmd/knowngood/drifts", "cmd/knowngood/generations"},
	{"cmd/knowngood/findgood", "cmd/knowngood/status"},
	{"cmd/knowngood"},
	{"systemd"},
}

// pure packages do no network I/O and know no stores.
var pure = layers[1]

const module = "knowngood"

// layer of a package of ours; -1 when it is in none.
func layer(pkg string) int {
	return slices.IndexFunc(layers, func(l []string) bool {
		return slices.Contains(l, strings.TrimPrefix(pkg, module+"/"))
	})
}

func ours(pkg string) bool { return strings.HasPrefix(pkg, module+"/") }

// built are the packages that each package of ours is built from, itself included.
var built = sync.OnceValues(func() (map[string][]string, error) {
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	of := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		names := strings.Fields(line)
		of[names[0]] = names
	}
	return of, nil
})

func packages(t *testing.T) map[string][]string {
	t.Helper()
	of, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return of
}

// deps are all packages that a package of ours is built from, itself included.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	found := packages(t)[module+"/"+pkg]
	if found == nil {
		t.Fatalf("there is no package %s", pkg)
	}
	return found
}

func TestImports(t *testing.T) {
	t.Run("every package is in a layer", func(t *testing.T) {
		for pkg := range packages(t) {
			if layer(pkg) < 0 {
				t.Errorf("%s is in no layer: add it to the list of this test, and to docs/ARCHITECTURE.md", pkg)
			}
		}
	})

	t.Run("run one way", func(t *testing.T) {
		for at, l := range layers {
			for _, pkg := range l {
				for _, dep := range deps(t, pkg) {
					if ours(dep) && layer(dep) > at {
						t.Errorf("%s needs %s, which lies above it", pkg, dep)
					}
				}
			}
		}
	})

	t.Run("the storage contract needs only the standard library", func(t *testing.T) {
		for _, dep := range deps(t, "storage") {
			if strings.Contains(dep, ".") || ours(dep) && dep != module+"/storage" {
				if !strings.HasPrefix(dep, "vendor/") { // the standard library's own
					t.Errorf("storage needs %s", dep)
				}
			}
		}
	})

	t.Run("the pure codecs use no network and know no stores", func(t *testing.T) {
		for _, pkg := range pure {
			for _, dep := range deps(t, pkg) {
				if dep == "net/http" || dep == module+"/storage" || strings.HasPrefix(dep, "github.com/minio/minio-go") {
					t.Errorf("%s needs %s", pkg, dep)
				}
			}
		}
	})

	t.Run("test helpers are not linked", func(t *testing.T) {
		for _, dep := range deps(t, "cmd/knowngood") {
			if dep == "testing" || ours(dep) && strings.HasSuffix(dep, "test") && !strings.HasSuffix(dep, "/attest") {
				t.Errorf("the program links %s", dep)
			}
		}
	})

	// Test servers live in tools/go.mod. Their modules are wide: required here
	// they would choose the versions of what the program is built from.
	t.Run("test servers are in no go.mod of ours", func(t *testing.T) {
		text, err := os.ReadFile("../../go.mod")
		if err != nil {
			t.Fatal(err)
		}
		servers := regexp.MustCompile(`github\.com/(minio/minio|versity/versitygw|johannesboyne/gofakes3|rclone/rclone)[ /]`)
		if found := servers.Find(text); found != nil {
			t.Errorf("go.mod requires %s: put it into tools/go.mod", found)
		}
	})
}
