package systemd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// drillConfig has a probe that only programs in namespaces can pass, and the identity
// as a credential of the daemon's unit.
const drillConfig = `repository: {url: "file:///backup"}
host: machine
identity: /run/credentials/knowngood.service/identity
environments:
  web:
    schedule: "@every 2s"
    sources: [{path: /srv/web}]
    drill:
      schedule: "@every 3s"
      isolation: namespaces
      base: host
      probes:
        - {name: page, file: {path: /srv/web/index.html, not_empty: true}}
        - {name: alone, command: [/bin/sh, -c, "! test -e /etc/knowngood && grep -q hello /srv/web/index.html"]}
`

func testAScheduledDrillRunsInAUnitOfItsOwn(t *testing.T) {
	m := configured(t)
	m.write("/etc/knowngood/config.yaml", drillConfig)
	m.must("install", "-m", "0600", "/root/identity", "/etc/credstore/knowngood.identity")
	m.must("systemctl", "start", "knowngood.service")
	type drill struct {
		Passed    bool
		Level     string
		Isolation struct{ Rung, Base, Limits string }
	}
	var listed struct{ Drills []drill }
	m.until("two scheduled drills passed", func() error {
		out, err := m.try("knowngood", "drill", "list", "--json")
		if err != nil || json.Unmarshal([]byte(out), &listed) != nil || len(listed.Drills) < 2 {
			return fmt.Errorf("%w: %s\n%s", err, out, m.said("knowngood.service"))
		}
		return nil
	})
	for _, d := range listed.Drills {
		if !d.Passed || d.Level != "probed" || d.Isolation.Rung != "namespaces" || d.Isolation.Base != "host" {
			t.Errorf("a drill: %+v", d)
		}
	}
	t.Logf("the limits are those of %s", listed.Drills[0].Isolation.Limits)
	if out := m.must("knowngood", "status"); !strings.Contains(out, "web") || strings.Contains(out, "drill") {
		t.Errorf("status says\n%s", out)
	}

	// The daemon's user gets drills of the configuration there, and nothing else.
	for _, argv := range [][]string{{"id"}, {"/proc/self/exe", "drill", "--json", "--quiet", "--job", "other"}, {"/proc/self/exe", "restore", "web@1", "--target", "/tmp/x"}} {
		ask := append([]string{"-u", "knowngood", "--", "knowngood", "outside", "--socket", "/run/knowngood-drill.sock", "--"}, argv...)
		if out, err := m.try("runuser", ask...); err == nil || !strings.Contains(err.Error(), "is nothing") {
			t.Errorf("it runs %v: %s, %v", argv, out, err)
		}
	}
	if _, err := m.try("runuser", "-u", "nobody", "--", "knowngood", "outside", "--socket", "/run/knowngood-drill.sock", "--", "id"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("anybody may ask: %v", err)
	}

	// A daemon that is killed in a drill: the next one goes on, and nothing is left.
	m.dropIn("knowngood.service", "soon", "[Service]\nRestartSec=100ms\n")
	m.until("a drill is under way", func() error {
		if out := m.must("systemctl", "list-units", "--plain", "--no-legend", "knowngood-drill@*"); out == "" {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	m.must("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "knowngood.service")
	before := len(listed.Drills)
	m.until("drills pass again", func() error {
		out, err := m.try("knowngood", "drill", "list", "--json")
		if err != nil || json.Unmarshal([]byte(out), &listed) != nil || len(listed.Drills) <= before+1 {
			return fmt.Errorf("%w: %s", err, m.said("knowngood.service"))
		}
		return nil
	})
	m.must("systemctl", "stop", "knowngood.service", "knowngood-drill.socket")
	m.until("the drill ends with the daemon", func() error {
		if out := m.must("systemctl", "list-units", "--plain", "--no-legend", "knowngood-drill@*"); out != "" {
			return fmt.Errorf("there is %s", out)
		}
		return nil
	})
	if left, err := filepath.Glob(m.path("/var/lib/knowngood-drills/*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(m.path("/var/lib/knowngood-drills")); err != nil {
		t.Errorf("the scratch space was elsewhere: %v", err)
	}
	m.instances()
	if failed := m.must("systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
		t.Errorf("there are failed units:\n%s\n%s", failed, m.said("knowngood-drill@*"))
	}
}
