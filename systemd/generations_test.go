package systemd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// trialConfig is an environment whose service runs from its root; a switch waits for a commit.
const trialConfig = `repository: {url: "file:///backup"}
host: machine
environments:
  web:
    sources: [{path: /srv/app}]
    root: /srv/app
    switch:
      watch: 0s
      trial: %s
      confirm: external
      stop: [{command: [systemctl, stop, app]}]
      start: [{command: [systemctl, start, app]}]
`

// A switch that nobody commits goes back: by the timer, while the daemon runs in its sandbox
// beside it, and at boot, before the service that runs from the root starts.
func testWhatNobodyCommitsGoesBack(t *testing.T) {
	m := boot(t)
	m.must("dpkg", "-i", "/knowngood.deb")
	config := func(trial string) { m.write("/etc/knowngood/config.yaml", fmt.Sprintf(trialConfig, trial)) }
	config("5s")
	m.must("chmod", "644", "/etc/knowngood/config.yaml")
	m.repository("knowngood.service")
	for v := 1; v <= 3; v++ {
		program := fmt.Sprintf("/build/%d/app", v)
		m.write(program, fmt.Sprintf("#!/bin/sh\necho %d >>/var/started\nexec sleep infinity\n", v))
		m.must("chmod", "755", program)
	}
	m.must("cp", "-a", "/build/1", "/srv/app")
	m.write("/etc/systemd/system/app.service", "[Service]\nExecStart=/srv/app/app\n[Install]\nWantedBy=multi-user.target\n")
	m.dropIn("knowngood-generations-check.timer", "often", "[Timer]\nOnActiveSec=\nOnUnitActiveSec=\nOnActiveSec=1s\nOnUnitActiveSec=1s\nAccuracySec=100ms\n")
	m.must("knowngood", "generations", "web", "--adopt")
	m.must("systemctl", "enable", "--now", "app.service", "knowngood.service", "knowngood-generations.service", "knowngood-generations-check.timer")
	started := func(want string) {
		t.Helper()
		m.until("the service was started as "+want, func() error {
			got := strings.Join(strings.Fields(m.must("cat", "/var/started")), " ")
			if got != want {
				return fmt.Errorf("it was started as %s\n%s", got, m.said("knowngood-generations-check.service"))
			}
			return nil
		})
	}
	started("1")
	m.must("knowngood", "snapshot", "web")
	if out := m.must("knowngood", "switch", "web", "--from", "/build/2", "--unproven"); !strings.Contains(out, "knowngood commit web") {
		t.Errorf("the switch said %s", out)
	}
	started("1 2 1")
	if out := m.must("knowngood", "generations", "web"); !strings.Contains(out, "bad: ") {
		t.Errorf("generations says %s", out)
	}

	config("1h")
	m.must("knowngood", "switch", "web", "--from", "/build/3", "--unproven")
	started("1 2 1 3")
	m.stop()
	if err := os.WriteFile(filepath.Join(m.dir, ".boot_id"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m.boot()
	started("1 2 1 3 1")
	if at, app := m.property("knowngood-generations.service", "ExecMainExitTimestampMonotonic"), m.property("app.service", "ExecMainStartTimestampMonotonic"); len(at) > len(app) || len(at) == len(app) && at > app {
		t.Errorf("what was on trial went back at %s, and the service started at %s", at, app)
	}
	if out := m.must("knowngood", "generations", "web"); strings.Count(out, "bad: ") != 2 {
		t.Errorf("generations says %s\n%s", out, m.said("knowngood-generations.service"))
	}
}
