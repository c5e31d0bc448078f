package systemd

import (
	"slices"
	"strings"
	"testing"
)

// hostConfig captures all of the machine's disk but what changes by itself.
const hostConfig = `repository: {url: "file:///backup"}
host: machine
environments:
  tree:
    sources:
      - path: /
        one_file_system: true
        exclude: [/backup, /var/log, /var/lib/systemd, /var/tmp/systemd-private-*, /tmp/systemd-private-*]
`

// mounted are directories of other file systems, of which a capture has the
// directory alone: their times are those of this boot, or of this sandbox.
var mounted = []string{"m /dev", "m /proc", "m /run", "m /sys"}

func testAWholeHostIsTheSameFromTheSandbox(t *testing.T) {
	m := boot(t)
	m.must("dpkg", "-i", "/knowngood.deb")
	m.write("/etc/knowngood/config.yaml", hostConfig)
	m.repository("knowngood-snapshot@.service")
	// What did not change since the shell read it would not be read again.
	m.dropIn("knowngood-snapshot@.service", "again", "[Service]\nExecStart=\nExecStart=/usr/bin/knowngood snapshot --reread --config /etc/knowngood/config.yaml %i\n")
	m.must("knowngood", "snapshot", "-q", "--reread", "tree")
	if unit := m.byUnit(); unit != "tree@2" {
		t.Fatalf("the unit made %s", unit)
	}
	for _, file := range []string{"/etc/shadow", "/usr/bin/dpkg", "/root/identity"} {
		if m.cat("tree@2:"+file) == "" {
			t.Errorf("%s is empty in the snapshot", file)
		}
	}
	for line := range strings.Lines(m.must("knowngood", "diff", "--identity", "/root/identity", "tree@1", "tree@2")) {
		line = strings.TrimSpace(line)
		// Services make and remove files in /tmp; the last line counts.
		if !slices.Contains(mounted, line) && line != "m /tmp" && !strings.HasPrefix(line, "0 added, 0 removed, 0 modified") {
			t.Errorf("from the shell to the sandbox: %s", line)
		}
	}
}
