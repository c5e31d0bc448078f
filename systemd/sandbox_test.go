package systemd

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"knowngood/internal/treetest"
)

// places are where systemd's sandboxes hide things, and some others.
var places = []string{"/boot", "/etc", "/home/somebody", "/mnt", "/opt", "/root", "/run/somewhere", "/srv", "/tmp", "/usr/lib/modules", "/var/lib/private", "/var/log", "/var/tmp"}

// world is a machine on which the package is installed, with a repository in
// a directory, and an environment "tree" of all places.
func world(t *testing.T, shape treetest.Shape) *machine {
	t.Helper()
	m := boot(t)
	m.must("dpkg", "-i", "/knowngood.deb")
	config := "repository: {url: \"file:///backup\"}\nhost: machine\nenvironments:\n  tree:\n    sources:\n"
	for i, place := range places {
		dir := m.path(place) + "/tree"
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Log(place, treetest.Generate(t, dir, treetest.Seed(uint64(i)), shape))
		config += fmt.Sprintf("      - path: %s/tree\n", place)
	}
	m.write("/etc/knowngood/config.yaml", config)
	m.must("install", "-d", "-m", "0700", "-o", "knowngood", "-g", "knowngood", "/backup")
	m.must("knowngood", "init", "--identity", "/root/identity", "--identity-type", "x25519")
	repository := strings.ReplaceAll(m.example("repository"), "/backup/knowngood", "/backup")
	m.dropIn("knowngood.service", "repository", repository)
	m.dropIn("knowngood-snapshot@.service", "repository", repository)
	return m
}

// restored compares what a snapshot holds with what is there.
func (m *machine) restored(snapshot string) {
	m.t.Helper()
	target := "/restored-" + snapshot
	m.must("knowngood", "restore", "-q", "--identity", "/root/identity", snapshot, "--target", target)
	defer func() {
		if err := treetest.Remove(m.path(target)); err != nil {
			m.t.Error(err)
		}
	}()
	for _, place := range places {
		treetest.Equal(m.t, m.path(place)+"/tree", m.path(target+place)+"/tree", treetest.Options{})
	}
}

func TestTheSandboxHidesNothingThatIsCaptured(t *testing.T) {
	m := world(t, treetest.Shape{Nodes: 40, Without: []treetest.Part{treetest.RootXattrs}})
	if made := strings.TrimSpace(m.must("knowngood", "snapshot", "-q", "tree")); !strings.Contains(made, "tree@1") {
		t.Fatalf("a shell made %q", made)
	}
	m.start("knowngood-snapshot@tree.service")
	if said := m.said("knowngood-snapshot@tree.service"); !strings.Contains(said, "tree@2") {
		t.Fatalf("the unit made no tree@2:\n%s", said)
	}
	m.restored("tree@1")
	m.restored("tree@2")
}
