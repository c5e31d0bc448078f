package systemd

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patchConfig is an environment that is the host itself.
const patchConfig = `repository: {url: "file:///backup"}
host: machine
environments:
  host:
    sources: [{path: /usr}, {path: /etc}, {path: /var/lib/dpkg}]
    switch:
      watch: 2s
      after_switch: [{command: [systemctl, daemon-reload]}, {command: [systemctl, restart, greeter]}]
    drill: {probes: [{name: greeter, command: [sh, -c, "systemctl is-active -q greeter && grep -q hello /run/greeter"]}]}
`

// greeter builds a package with a service, of a version, whose program is a script.
func (m *machine) greeter(version int, program, postinst string) (deb string) {
	m.t.Helper()
	dir := fmt.Sprintf("/build/greeter-%d", version)
	for path, text := range map[string]string{
		"DEBIAN/control":                             fmt.Sprintf("Package: greeter\nVersion: %d\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: says hello\n", version),
		"DEBIAN/conffiles":                           "/etc/greeter.conf\n",
		"DEBIAN/postinst":                            "#!/bin/sh\nset -e\n[ -d /run/systemd/system ] || exit 0\nsystemctl daemon-reload\n" + postinst + "systemctl restart greeter\n",
		"etc/greeter.conf":                           fmt.Sprintf("version %d\n", version),
		"usr/bin/greeter":                            "#!/bin/sh\n" + program,
		"usr/lib/systemd/system/greeter.service":     fmt.Sprintf("[Service]\nExecStart=/usr/bin/greeter\nEnvironment=VERSION=%d\n", version),
		fmt.Sprintf("usr/share/greeter/%d", version): "only of this version\n",
	} {
		m.write(dir+"/"+path, text)
	}
	m.must("chmod", "-R", "u=rwX,go=rX", dir)
	m.must("chmod", "755", dir+"/DEBIAN/postinst", dir+"/usr/bin/greeter")
	deb = dir + ".deb"
	m.must("dpkg-deb", "--root-owner-group", "--build", dir, deb)
	return deb
}

// is demands the version of the package that is installed, whole, and that runs.
func (m *machine) is(version string) {
	m.t.Helper()
	if got := m.must("dpkg-query", "-W", "-f", "${Version} ${Status}", "greeter"); got != version+" install ok installed" {
		m.t.Errorf("installed is %q", got)
	}
	if out, err := m.try("dpkg", "--verify", "greeter"); err != nil || out != "" {
		m.t.Errorf("the files of the package: %s %v", out, err)
	}
	if out := m.must("ls", "/usr/share/greeter"); out != version+"\n" {
		m.t.Errorf("there are files of other versions: %s", out)
	}
	m.must("dpkg", "--audit")
	m.until("the service runs", func() error {
		out, err := m.try("cat", "/run/greeter")
		if err == nil && out != "hello from "+version+"\n" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
}

// An upgrade in place that breaks its service is undone, one that is interrupted is, and
// one that works is kept; no identity takes part.
func testAnUpgradeThatBreaksItsServiceIsUndone(t *testing.T) {
	m := boot(t)
	m.must("dpkg", "-i", "/knowngood.deb")
	m.write("/etc/knowngood/config.yaml", patchConfig)
	m.repository()
	m.must("mv", "/root/identity", "/root/elsewhere")
	const works = "while :; do echo hello from $VERSION >/run/greeter; sleep 0.1; done\n"
	m.must("dpkg", "-i", m.greeter(1, works, ""))
	m.is("1")

	began := time.Now()
	_, err := m.try("knowngood", "patch", "host", "--", "dpkg", "--force-confnew", "-i", m.greeter(2, "echo broken >/run/greeter; exit 1\n", ""))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 14 || !strings.Contains(err.Error(), "is put back: probe greeter failed") {
		t.Fatalf("the upgrade that breaks its service ends with %v", err)
	}
	t.Logf("undone after %v: %v", time.Since(began), err)
	m.is("1")

	// It is killed while a script of the package runs.
	hangs := m.greeter(3, works, "touch /run/hangs; sleep 1000\n")
	killed := exec.Command("nsenter", "--target", m.pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "knowngood", "patch", "host", "--", "dpkg", "--force-confnew", "-i", hangs)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	m.until("the script hangs", func() error { _, err := m.try("test", "-e", "/run/hangs"); return err })
	// What was started is the program itself: nsenter replaces itself, or waits for its child.
	m.must("sh", "-c", "for p in /proc/[0-9]*; do case $(readlink $p/exe) in /usr/bin/knowngood*) kill -KILL ${p#/proc/};; esac; done")
	_ = killed.Process.Signal(syscall.SIGKILL)
	_ = killed.Wait()
	m.must("knowngood", "generations", "--recover")
	m.is("1")

	out := m.must("knowngood", "patch", "host", "--", "dpkg", "--force-confnew", "-i", m.greeter(4, works, ""))
	if !strings.Contains(out, "host is changed and kept") {
		t.Errorf("it said %s", out)
	}
	m.is("4")
	if out := m.must("cat", "/etc/greeter.conf"); out != "version 4\n" {
		t.Errorf("its configuration is %s", out)
	}
	testAptUpgrades(m, works)
	if names := m.snapshots(); len(names) != 7 {
		t.Errorf("there are the snapshots %v", names)
	}
	if out := m.must("sh", "-c", "ls -A /var/lib/knowngood-patches/host"); strings.Join(strings.Fields(out), " ") != "generations.json lock reserve watch.lock" {
		t.Errorf("left: %s", out)
	}
}

// testAptUpgrades has apt-get upgrade the package in place, to one that breaks its service and
// to one that works, from a repository of this machine.
func testAptUpgrades(m *machine, works string) {
	m.t.Helper()
	m.write("/etc/apt/sources.list", "deb [trusted=yes] file:/build ./\n")
	upgrade := func() (string, error) {
		m.must("apt-get", "update")
		return m.try("knowngood", "patch", "host", "--", "apt-get", "-y", "-o", "Dpkg::Options::=--force-confnew", "upgrade")
	}
	m.offer(m.greeter(5, "echo broken >/run/greeter; exit 1\n", ""))
	var exit *exec.ExitError
	if _, err := upgrade(); !errors.As(err, &exit) || exit.ExitCode() != 14 {
		m.t.Fatalf("the upgrade that breaks its service ends with %v", err)
	}
	m.is("4")
	m.offer(m.greeter(6, works, ""))
	if out, err := upgrade(); err != nil || !strings.Contains(out, "host is changed and kept") {
		m.t.Fatalf("the upgrade that works ends with %s %v", out, err)
	}
	m.is("6")
}

// offer makes a package the one that apt finds in /build.
func (m *machine) offer(deb string) {
	m.t.Helper()
	m.must("sh", "-c", "cd /build && { dpkg-deb -f $1; echo Filename: ./${1#/build/}; echo Size: $(stat -c %s $1); echo SHA256: $(sha256sum $1 | cut -d' ' -f1); } >Packages", "sh", deb)
}

// serveConfig is an environment of which the root is a whole system.
const serveConfig = `repository: {url: "file:///backup"}
host: machine
environments:
  system:
    sources: [{path: /srv/system}]
    root: /srv/system
    switch: {watch: 0s}
    drill: {limits: {disk: 4GiB}}
`

// A patch of a root that is a whole system: apt-get in it fetches from a server of the machine
// with --network, and without it reaches nothing.
func testAptUpgradesAWholeSystemOverTheNetwork(t *testing.T) {
	m := boot(t)
	m.must("dpkg", "-i", "/knowngood.deb")
	m.write("/etc/knowngood/config.yaml", serveConfig)
	m.repository()
	m.must("sh", "-c", "mkdir -p /srv/system/tmp /srv/system/proc && cp -a /bin /sbin /lib* /usr /etc /var /srv/system")
	m.write("/srv/system/etc/apt/sources.list", "deb [trusted=yes] http://127.0.0.1:8000 ./\n")
	m.offer(m.greeter(1, "", ""))
	m.write("/serve.pl", `use IO::Socket; my $s = IO::Socket::INET->new(Listen => 9, LocalAddr => "127.0.0.1:8000", ReuseAddr => 1) or die;
while (my $c = $s->accept) {
	my ($p) = <$c> =~ m{^GET (\S+)};
	while (<$c>) { last if /^\s*$/ }
	if (open my $f, "<", "/build$p") { local $/; my $b = <$f>; print $c "HTTP/1.1 200 OK\r\nContent-Length: " . length($b) . "\r\nConnection: close\r\n\r\n$b" }
	else { print $c "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" }
	close $c;
}`)
	m.must("systemd-run", "perl", "/serve.pl")
	m.must("knowngood", "generations", "system", "--adopt")
	install := func(flags ...string) (string, error) {
		return m.try("knowngood", append(append([]string{"patch", "system", "--unproven"}, flags...), "--", "chroot", "/srv/system", "sh", "-ec", "apt-get update -o APT::Update::Error-Mode=any; apt-get -y install greeter")...)
	}
	if _, err := install(); err == nil || !strings.Contains(err.Error(), "nothing of it is live") {
		t.Errorf("without the network it ends with %v", err)
	}
	if out, err := install("--network"); err != nil || !strings.Contains(out, "is live at /srv/system") {
		t.Fatalf("it ends with %s %v", out, err)
	}
	if got := m.must("chroot", "/srv/system", "dpkg-query", "-W", "-f", "${Version} ${Status}", "greeter"); got != "1 install ok installed" {
		t.Errorf("installed is %q", got)
	}
	if _, err := m.try("dpkg-query", "-W", "greeter"); err == nil {
		t.Error("it is installed on the machine, too")
	}
}
