package systemd

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/internal/treetest"
)

// places are where systemd's sandboxes hide things, and some others.
var places = []string{"/boot", "/etc", "/home/somebody", "/mnt", "/opt", "/root", "/run/somewhere", "/srv", "/tmp", "/usr/lib/modules", "/var/lib/private", "/var/log", "/var/tmp"}

// forest is a machine on which the package is installed, with a repository and
// an environment "tree" of a random tree in each place.
func forest(t *testing.T, shape treetest.Shape) *machine {
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
	m.repository("knowngood-snapshot@.service")
	return m
}

// byUnit takes a snapshot in the sandbox and returns its name.
func (m *machine) byUnit() string {
	m.t.Helper()
	m.start("knowngood-snapshot@tree.service")
	names := m.snapshots()
	return names[len(names)-1]
}

// differences of what was restored from what is there.
func (m *machine) differences(target string) (all []treetest.Difference) {
	m.t.Helper()
	for _, place := range places {
		if _, err := os.Stat(m.path(target + place + "/tree")); err != nil {
			all = append(all, treetest.Difference{Path: place, Kind: treetest.Missing, Want: "a tree", Got: err.Error()})
			continue
		}
		for _, d := range treetest.Compare(m.t, m.path(place)+"/tree", m.path(target+place)+"/tree", treetest.Options{}) {
			d.Path = place + "/" + d.Path
			all = append(all, d)
		}
	}
	return all
}

// restored restores a snapshot by hand and compares.
func (m *machine) restored(snapshot string) []treetest.Difference {
	m.t.Helper()
	target := "/restored-" + snapshot
	m.must("knowngood", "restore", "-q", "--identity", "/root/identity", snapshot, "--target", target)
	m.cleared(target)
	return m.differences(target)
}

// cleared removes a directory when the test ends, whatever its modes.
func (m *machine) cleared(dir string) {
	m.t.Cleanup(func() {
		if err := treetest.Remove(m.path(dir)); err != nil {
			m.t.Error(err)
		}
	})
}

func (m *machine) equal(who string, found []treetest.Difference) {
	m.t.Helper()
	for _, d := range found {
		m.t.Errorf("%s: %v", who, d)
	}
}

func testTheSandboxHidesNothingThatIsCaptured(t *testing.T) {
	m := forest(t, treetest.Shape{Nodes: 40, Without: []treetest.Part{treetest.RootXattrs}})
	m.write("/srv/tree/others", "read before the tree is compared")
	read := time.Unix(1_000_000_000, 0)
	for _, err := range []error{os.Chown(m.path("/srv/tree/others"), 4711, 4711), os.Chtimes(m.path("/srv/tree/others"), read, time.Unix(1_500_000_000, 0))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	unit := m.byUnit()
	var st syscall.Stat_t
	if err := syscall.Stat(m.path("/srv/tree/others"), &st); err != nil || st.Atim.Sec != read.Unix() {
		t.Errorf("a capture changed an access time to %v, %v", st.Atim, err)
	}
	m.must("knowngood", "snapshot", "-q", "tree")
	names := m.snapshots()
	shell := names[len(names)-1]
	if unit == shell {
		t.Fatalf("the shell's snapshot is that of the unit, %s", unit)
	}
	m.equal("from the unit", m.restored(unit))
	m.equal("from the shell", m.restored(shell))

	// The drop-in for restores, with the identity as a credential.
	m.must("install", "-d", "-m", "0700", "/etc/credstore")
	m.must("cp", "/root/identity", "/etc/credstore/knowngood.identity")
	m.dropIn("knowngood-snapshot@restore.service", "50-restore", m.example("50-restore"))
	m.dropIn("knowngood-snapshot@restore.service", "command", "[Service]\nExecStart=\nExecStart=/usr/bin/knowngood restore -q --identity ${CREDENTIALS_DIRECTORY}/identity "+shell+" --target /var/lib/knowngood/drill\n")
	m.start("knowngood-snapshot@restore.service")
	m.cleared("/var/lib/knowngood/drill")
	m.equal("restored by a unit", m.differences("/var/lib/knowngood/drill"))

	// What would be seen if it did hide something.
	m.dropIn("knowngood-snapshot@tree.service", "hide", "[Service]\nPrivateTmp=yes\nProtectHome=yes\nProtectKernelModules=yes\n")
	if _, err := m.try("systemctl", "start", "knowngood-snapshot@tree.service"); err == nil {
		names := m.snapshots()
		if found := m.restored(names[len(names)-1]); len(found) == 0 {
			t.Error("a sandbox that hides /tmp and /home passes for one that hides nothing")
		}
	}
}

func testTrustedAttributesNeedTheirDropIn(t *testing.T) {
	m := forest(t, treetest.Shape{Nodes: 40})
	lacking := m.restored(m.byUnit())
	for _, d := range lacking {
		if d.Kind != treetest.Xattr || !strings.Contains(d.String(), "trusted.") {
			t.Errorf("without the drop-in: %v", d)
		}
	}
	if len(lacking) == 0 {
		t.Error("the drop-in for trusted attributes is not needed")
	}
	m.dropIn("knowngood-snapshot@.service", "trusted-xattrs", m.example("trusted-xattrs"))
	// What is unchanged is not read again.
	m.dropIn("knowngood-snapshot@.service", "again", "[Service]\nExecStart=\nExecStart=/usr/bin/knowngood snapshot --reread --config /etc/knowngood/config.yaml %i\n")
	m.equal("with the drop-in", m.restored(m.byUnit()))
}

func testTheSandboxHolds(t *testing.T) {
	m := boot(t)
	m.must("dpkg", "-i", "/knowngood.deb")
	m.write("/root/secret", "read\n")
	m.must("mkdir", "-p", "/home/somebody")
	// Each line of the script that succeeds is printed.
	script := "#!/bin/sh\n"
	forbidden := []string{"touch /etc/x", "touch /home/somebody/x", "touch /root/x", "touch /tmp/x", "touch /srv/x", "touch /usr/x", "chmod 0777 /root/secret", "echo x >/proc/sys/kernel/hostname",
		"mount -t tmpfs tmpfs /mnt", "unshare --mount true", "unshare --user true", "chown root /var/lib/knowngood", "mknod /var/lib/knowngood/null c 1 3", "nsenter --target 1 --mount true",
		"kill -0 1", "systemctl stop dbus.service", "systemd-run --quiet true"}
	for i, line := range forbidden {
		script += fmt.Sprintf("if %s 2>/dev/null; then echo 'DONE %d'; fi\n", line, i)
	}
	script += "cat /root/secret\ntouch /var/lib/knowngood/state && echo state\ngrep -E '^(Cap(Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status\n"
	m.write("/opt/try", script)
	m.must("chmod", "0755", "/opt/try")
	m.dropIn("knowngood-snapshot@try.service", "command", "[Service]\nExecStart=\nExecStart=/opt/try\n")
	m.start("knowngood-snapshot@try.service")
	said := m.said("knowngood-snapshot@try.service")
	for i, line := range forbidden {
		if strings.Contains(said, fmt.Sprintf("DONE %d\n", i)) {
			t.Errorf("it may: %s", line)
		}
	}
	const readSearch = "0000000000000004" // CAP_DAC_READ_SEARCH is bit 2
	for _, want := range []string{"read\n", "state\n", "CapEff:\t" + readSearch, "CapBnd:\t" + readSearch, "CapAmb:\t" + readSearch, "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not among\n%s", want, said)
		}
	}
}

func testASnapshotThatLacksSomethingIsASuccessThatSaysSo(t *testing.T) {
	m := boot(t)
	m.must("dpkg", "-i", "/knowngood.deb")
	m.write("/srv/there", "here")
	// /sys/bus/cpu has files that are only for writing, whoever reads.
	m.write("/etc/knowngood/config.yaml", "repository: {url: \"file:///backup\"}\nhost: machine\nenvironments:\n  tree:\n    sources:\n      - path: /srv/there\n      - path: /sys/bus/cpu\n")
	m.repository("knowngood-snapshot@.service")
	m.byUnit()
	if said := m.said("knowngood-snapshot@tree.service"); !strings.Contains(said, "partial") || !strings.Contains(said, "/sys/bus/cpu/") || !strings.Contains(said, "permission denied") {
		t.Errorf("what is missing is not named:\n%s", said)
	}
	m.must("systemctl", "start", "knowngood-snapshot@tree.timer")
	if next := m.property("knowngood-snapshot@tree.timer", "NextElapseUSecRealtime"); next == "" {
		t.Error("the timer has no next time")
	}
	if failed := m.must("systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
		t.Errorf("there are failed units:\n%s", failed)
	}
}
