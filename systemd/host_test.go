package systemd

import (
	"encoding/json"
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
    drill:
      isolation: namespaces
      services:
        - name: bus
          command: [/usr/bin/dbus-daemon, --config-file=/usr/share/dbus-1/session.conf, --nofork, "--address=unix:path=/tmp/bus"]
          user: messagebus
          data: [/usr/share/dbus-1]
          ready: {file: /tmp/bus}
      probes:
        - {name: packages, command: [dpkg-query, -W, "-f=${db:Status-Status}", knowngood], output: installed}
        - {name: release, command: [/bin/sh, -c, ". /etc/os-release && echo $ID"], output: debian}
        - {name: names, command: [dbus-send, "--bus=unix:path=/tmp/bus", --print-reply, --dest=org.freedesktop.DBus, /, org.freedesktop.DBus.ListNames], user: messagebus, output: org.freedesktop.DBus}
`

// mounted are directories of other file systems, of which a capture has the
// only the directory: their times are those of this boot, or of this sandbox.
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
	isDrilledAboveNothing(m)
}

// isDrilledAboveNothing starts programs and a service of the whole host, with its own
// loader, libraries and users, with nothing of this machine beneath.
func isDrilledAboveNothing(m *machine) {
	m.t.Helper()
	var d struct {
		Passed    bool
		Level     string
		Probes    []struct{ Name, Status string }
		Isolation struct{ Rung, Base string }
	}
	out := m.must("knowngood", "drill", "tree@2", "--identity", "/root/identity", "--json", "--quiet")
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		m.t.Fatalf("%v: %s", err, out)
	}
	if !d.Passed || d.Level != "probed" || d.Isolation.Base != "none" || d.Isolation.Rung != "namespaces" || len(d.Probes) != 4 || !strings.Contains(out, `"/tmp/bus is there"`) {
		m.t.Errorf("a drill of the whole host: %s", out)
	}
}
