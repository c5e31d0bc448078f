package systemd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// daemonConfig has what needs more than the sandbox: a dump that only root may
// take, and a file system that is mounted for the time of the run.
const daemonConfig = `repository: {url: "file:///backup"}
host: machine
environments:
  web:
    schedule: "@every 1s"
    sources:
      - path: /srv/web
      - command: ["sh", "-c", "id -u; echo $KNOWNGOOD_NOTHING; touch /etc/outside"]
        as: db/dump
        outside: true
      - command: ["sh", "-c", "id -un; ! touch /etc/inside; cat /root/secret; mktemp"]
        as: db/inside
    hooks:
      before:
        - command: ["mount", "-t", "tmpfs", "-o", "size=1m", "late", "/srv/web/late"]
          outside: true
        - command: ["sh", "-c", "echo $KNOWNGOOD_ENVIRONMENT >/srv/web/late/file"]
          outside: true
      after:
        - command: ["umount", "/srv/web/late"]
          outside: true
`

// configured is a machine with the package, a repository, and an environment
// whose daemon was not started yet.
func configured(t *testing.T) *machine {
	t.Helper()
	m := boot(t)
	m.must("dpkg", "-i", "/knowngood.deb")
	m.configure()
	return m
}

func (m *machine) configure() {
	m.t.Helper()
	m.write("/root/secret", "hidden from others\n")
	m.write("/srv/web/index.html", "hello\n")
	m.must("mkdir", "-p", "/srv/web/late")
	m.write("/etc/knowngood/config.yaml", daemonConfig)
	m.repository("knowngood.service")
}

// repository makes one in /backup, and lets units write there.
func (m *machine) repository(units ...string) {
	m.t.Helper()
	m.must("install", "-d", "-m", "0700", "-o", "knowngood", "-g", "knowngood", "/backup")
	m.must("knowngood", "init", "--identity", "/root/identity", "--identity-type", "x25519")
	for _, unit := range units {
		m.dropIn(unit, "repository", strings.ReplaceAll(m.example("repository"), "/backup/knowngood", "/backup"))
	}
}

// snapshots are the names of what the repository holds, newest last.
func (m *machine) snapshots() (names []string) {
	m.t.Helper()
	var listed struct {
		Snapshots []struct{ Ref string }
	}
	if out := m.must("knowngood", "list", "--json"); json.Unmarshal([]byte(out), &listed) != nil {
		m.t.Fatalf("list said %s", out)
	}
	for _, s := range listed.Snapshots {
		names = append(names, s.Ref)
	}
	slices.Sort(names)
	return names
}

// cat is a file of a snapshot.
func (m *machine) cat(ref string) string {
	m.t.Helper()
	return m.must("knowngood", "cat", "--identity", "/root/identity", ref)
}

func testTheDaemonRunsInItsUnitAndHooksOutsideOfIt(t *testing.T) {
	m := configured(t)
	m.must("systemctl", "start", "knowngood.service")
	if state := m.property("knowngood.service", "ActiveState"); state != "active" {
		t.Fatalf("the unit is %s\n%s", state, m.said("knowngood.service"))
	}
	m.until("two scheduled snapshots are there", func() error {
		if n := len(m.snapshots()); n < 2 {
			return fmt.Errorf("there are %d snapshots\n%s", n, m.said("knowngood.service"))
		}
		return nil
	})
	for path, want := range map[string]string{
		"srv/web/index.html": "hello\n",
		"srv/web/late/file":  "web\n", // was mounted after the sandbox was made
		"db/dump":            "0\n\n",
	} {
		if got := m.cat("web@1:/" + path); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	if got := m.cat("web@1:/db/inside"); !strings.HasPrefix(got, "knowngood\nhidden from others\n/var/cache/knowngood/") {
		t.Errorf("a command inside said %q", got)
	}
	if _, err := os.Stat(m.path("/etc/inside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a command of the daemon wrote to /etc: %v", err)
	}
	if _, err := os.Stat(m.path("/etc/outside")); err != nil {
		t.Errorf("a command outside did not: %v", err)
	}
	if out := m.must("knowngood", "status"); !strings.Contains(out, "web") {
		t.Errorf("status says\n%s", out)
	}
	m.must("systemctl", "stop", "knowngood.service")
	if result := m.property("knowngood.service", "Result"); result != "success" {
		t.Errorf("stopped with %s\n%s", result, m.said("knowngood.service"))
	}
	if failed := m.must("systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
		t.Errorf("there are failed units:\n%s\n%s", failed, m.said("knowngood-outside@*"))
	}
}

func testADaemonThatDiesOrHangsIsStartedAgainAndABrokenConfigurationIsNotTaken(t *testing.T) {
	m := configured(t)
	m.dropIn("knowngood.service", "soon", "[Service]\nRestartSec=100ms\nWatchdogSec=3s\n")
	m.must("systemctl", "start", "knowngood.service")
	pid := m.property("knowngood.service", "MainPID")

	m.write("/etc/knowngood/config.yaml", daemonConfig+"nonsense: true\n")
	m.must("systemctl", "reload", "knowngood.service")
	m.until("the configuration is refused", func() error {
		if said := m.said("knowngood.service"); !strings.Contains(said, "nonsense") {
			return fmt.Errorf("it says\n%s", said)
		}
		return nil
	})
	if now := m.property("knowngood.service", "MainPID"); now != pid {
		t.Errorf("process %s became %s by a broken configuration", pid, now)
	}

	m.must("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "knowngood.service")
	m.until("systemd starts it again", func() error {
		if n := m.property("knowngood.service", "NRestarts"); n == "0" {
			return errors.New("it was not")
		}
		return nil
	})
	m.write("/etc/knowngood/config.yaml", daemonConfig)
	m.until("it runs with a configuration that is right again", func() error {
		if state := m.property("knowngood.service", "SubState"); state != "running" {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
	restarts := m.property("knowngood.service", "NRestarts")
	m.must("systemctl", "kill", "--kill-whom=main", "-s", "STOP", "knowngood.service")
	m.until("the watchdog ends one that hangs", func() error {
		if n := m.property("knowngood.service", "NRestarts"); n == "0" || n == restarts {
			return fmt.Errorf("it was started again %s times", n)
		}
		return nil
	})
	before := len(m.snapshots())
	m.until("it takes snapshots again", func() error {
		if n := len(m.snapshots()); n <= before {
			return fmt.Errorf("there are %d still", n)
		}
		return nil
	})
}
