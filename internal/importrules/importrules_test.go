// Package importrules holds the direction of imports: a package may use those
// below it, never those above.
package importrules

import (
	"os/exec"
	"strings"
	"testing"
)

// layers from the bottom up; a package belongs to the last one whose prefix
// it has.
var layers = [][]string{
	{"knowngood/internal/", "knowngood/storage/internal/"},
	{"knowngood/storage/seal", "knowngood/storage/pack", "knowngood/storage/chunk", "knowngood/storage/statement", "knowngood/storage/index", "knowngood/snapshot/manifest"},
	{"knowngood/internal/posix", "knowngood/snapshot/filter"},
	{"knowngood/storage"},
	{"knowngood/storage/dir", "knowngood/storage/s3", "knowngood/storage/throttle", "knowngood/storage/identity"},
	{"knowngood/storage/stores", "knowngood/storage/storagetest"},
	{"knowngood/storage/repository"},
	{"knowngood/snapshot", "knowngood/snapshot/walk"},
	{"knowngood/restore"},
	{"knowngood/internal/enginetest"},
	{"knowngood/cmd"},
}

func layer(pkg string) int {
	best, length := -1, 0
	for i, prefixes := range layers {
		for _, p := range prefixes {
			exact := pkg == strings.TrimSuffix(p, "/")
			if (exact || strings.HasPrefix(pkg, p) && (strings.HasSuffix(p, "/") || p == "knowngood/cmd")) && len(p) > length {
				best, length = i, len(p)
			}
		}
	}
	return best
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func TestImportsRunOneWay(t *testing.T) {
	for _, line := range list(t, "-f", "{{.ImportPath}}: {{join .Imports \" \"}}", "knowngood/...") {
		pkg, imports, _ := strings.Cut(line, ": ")
		at := layer(pkg)
		for _, i := range strings.Fields(imports) {
			if to := layer(i); at >= 0 && to > at {
				t.Errorf("%s imports %s, which lies above it", pkg, i)
			}
		}
	}
}

func TestTheStorageContractNeedsOnlyTheStandardLibrary(t *testing.T) {
	for _, i := range list(t, "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "knowngood/storage") {
		if i != "knowngood/storage" && i != "" {
			t.Errorf("knowngood/storage needs %s", i)
		}
	}
}

func TestThePureCodecsDoNoNetworkAndKnowNoStores(t *testing.T) {
	for _, pkg := range []string{"knowngood/storage/seal", "knowngood/storage/pack", "knowngood/storage/chunk", "knowngood/storage/statement", "knowngood/storage/index", "knowngood/snapshot/manifest"} {
		for _, i := range list(t, "-deps", pkg) {
			if i == "net/http" || i == "knowngood/storage" || strings.Contains(i, "minio") {
				t.Errorf("%s needs %s", pkg, i)
			}
		}
	}
}

func TestTestServersAreNotLinked(t *testing.T) {
	for _, i := range list(t, "-deps", "knowngood/cmd/knowngood") {
		if strings.Contains(i, "versitygw") || strings.Contains(i, "minio/minio/") || strings.Contains(i, "testing") && strings.HasPrefix(i, "knowngood/") {
			t.Errorf("the program links %s", i)
		}
	}
}
