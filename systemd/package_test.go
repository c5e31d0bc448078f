package systemd

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// kept are places in which every machine changes by itself, and those of the
// test.
var kept = []string{"/var/lib/dpkg", "/var/log", "/var/cache", "/var/lib/systemd", "/var/tmp", "/tmp", "/backup", "/srv", "/root", "/knowngood.deb"}

// files of the machine's disk.
func (m *machine) files() []string {
	m.t.Helper()
	var files []string
	for file := range strings.Lines(m.must("find", "/", "-xdev")) {
		file = strings.TrimSpace(file)
		if !slices.ContainsFunc(kept, func(p string) bool { return file == p || strings.HasPrefix(file, p+"/") }) {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	return files
}

// added are those of after that are not among before.
func added(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(after), func(f string) bool {
		_, found := slices.BinarySearch(before, f)
		return found
	})
}

func testThePackageIsInstalledUpgradedAndRemovedCleanly(t *testing.T) {
	m := boot(t)
	before := m.files()

	m.must("dpkg", "-i", "/knowngood.deb")
	for _, unit := range []string{"knowngood.service", "knowngood-outside.socket", "knowngood-drill.socket"} {
		if state := m.property(unit, "ActiveState") + " " + m.property(unit, "UnitFileState"); state != "inactive disabled" {
			t.Errorf("%s is %s after installation", unit, state)
		}
	}
	for path, want := range map[string]string{"/etc/knowngood": "700 root", "/etc/knowngood/config.yaml": "600 root", "/var/lib/knowngood": "700 knowngood", "/usr/bin/knowngood": "755 root"} {
		if got := strings.TrimSpace(m.must("stat", "-c", "%a %U", path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	m.must("knowngood", "config", "check")
	// A configuration that names nothing is taken, with a warning.
	m.must("systemctl", "start", "knowngood.service")
	m.must("systemctl", "stop", "knowngood.service")
	if said := m.said("knowngood.service"); !strings.Contains(said, "nothing is captured") {
		t.Errorf("without a configuration it says\n%s", said)
	}

	m.configure()
	m.must("systemctl", "enable", "--now", "knowngood.service", "knowngood-snapshot@web.timer", "knowngood-scale@web.timer", "knowngood-generations.service", "knowngood-generations-check.timer")
	pid := m.property("knowngood.service", "MainPID")
	m.must("dpkg", "-i", "/knowngood.deb")
	if now := m.property("knowngood.service", "MainPID"); now == pid || now == "0" {
		t.Errorf("after an upgrade process %s is %s", pid, now)
	}

	m.must("dpkg", "-r", "knowngood")
	for _, unit := range []string{"knowngood.service", "knowngood-outside.socket", "knowngood-drill.socket", "knowngood-snapshot@web.timer", "knowngood-scale@web.timer", "knowngood-generations-check.timer"} {
		if state := m.property(unit, "ActiveState") + " " + m.property(unit, "LoadState"); state != "inactive not-found" {
			t.Errorf("%s is %s after the removal", unit, state)
		}
	}
	ours := func(f string) bool {
		for _, p := range []string{"/etc/knowngood", "/var/lib/knowngood", "/etc/systemd/system/knowngood.service.d"} {
			if f == p || strings.HasPrefix(f, p+"/") {
				return true
			}
		}
		// The user, whom systemd-sysusers made, the place of credentials, and what
		// the hook of the configuration makes.
		return slices.Contains([]string{"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock", "/etc/credstore", "/etc/outside"}, f)
	}
	for _, f := range added(before, m.files()) {
		if !ours(f) {
			t.Errorf("%s is left", f)
		}
	}
	if _, err := os.Stat(m.path("/etc/knowngood/config.yaml")); err != nil {
		t.Errorf("the configuration is gone after the removal: %v", err)
	}
	if _, err := os.Stat(m.path("/run/knowngood-outside.sock")); err == nil {
		t.Error("the socket is left")
	}

	said := m.must("dpkg", "-P", "knowngood")
	if _, err := os.Stat(m.path("/etc/knowngood")); err == nil {
		t.Error("/etc/knowngood, in which nothing is, outlives a purge")
	}
	if !strings.Contains(said, "/var/lib/knowngood may hold keys and is left") {
		t.Errorf("of the state directory a purge says\n%s", said)
	}
	if keys := m.must("find", "/var/lib/knowngood", "-name", "host.key"); keys == "" {
		t.Error("a purge removed the host's key")
	}
}

func testBothPackagesHoldTheSame(t *testing.T) {
	for _, tool := range []string{"rpm", "dpkg-deb"} {
		needs(t, tool)
	}
	b := packages(t)
	// Where the distributions differ.
	own := func(f string) bool {
		return strings.Contains(f, "/zsh/") || strings.HasSuffix(f, "/copyright") || strings.Contains(f, "/licenses/")
	}
	list := func(lines string, path func(string) string) (files []string) {
		for line := range strings.Lines(lines) {
			if f := path(strings.TrimSpace(line)); f != "" && !own(f) {
				files = append(files, f)
			}
		}
		slices.Sort(files)
		return files
	}
	deb := list(run(t, "dpkg-deb", "-c", b.deb), func(line string) string {
		fields := strings.Fields(line)
		if strings.HasPrefix(fields[0], "d") {
			return ""
		}
		return fields[0] + " " + strings.TrimPrefix(fields[5], ".")
	})
	rpm := list(run(t, "rpm", "-qp", "--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\n]", b.rpm), func(line string) string {
		if strings.HasPrefix(line, "d") {
			return ""
		}
		return line
	})
	if !slices.Equal(deb, rpm) || len(deb) < 40 {
		t.Errorf("the .deb holds\n%s\nand the .rpm\n%s", strings.Join(deb, "\n"), strings.Join(rpm, "\n"))
	}
	if scripts := run(t, "rpm", "-qp", "--scripts", b.rpm); strings.Count(scripts, "/bin/sh") < 3 {
		t.Errorf("the scripts of the .rpm are\n%s", scripts)
	}
}
