package systemd

import (
	"encoding/json"
	"fmt"
	"time"
)

const scaleConfig = `repository: {url: "file:///backup"}
host: machine
identity: /root/identity
environments:
  app:
    sources: [{path: /srv/app}]
    root: /srv/app
    scale:
      dir: /srv/instances
      max: 4
      cooldown: 0s
      target: {command: [cat, /srv/wanted]}
      start: [{command: [systemctl, start, "{unit}"]}]
      stop: [{command: [systemctl, stop, "{unit}"]}]
      probes: [{file: {path: "{path}/serving"}}, {command: [systemctl, is-active, "{unit}"]}]
`

// instances runs instances from trees with a shell of their own, scaled by the timer, and
// measures them by their units.
func (m *machine) instances() {
	m.t.Helper()
	began := time.Now()
	defer func() { m.t.Logf("instances took %v", time.Since(began)) }()
	m.must("sh", "-c", `mkdir -p /srv/app/var && cd /srv/app && for f in /bin/sh /bin/sleep /bin/cat $(ldd /bin/sh /bin/sleep /bin/cat | grep -o '/[^ ]*' | grep -v :); do mkdir -p ".${f%/*}" && cp -L "$f" ".$f"; done`)
	m.write("/srv/app/instance", "#!/bin/sh\ncat /proc/self/cgroup >/cgroup\necho \"$KNOWNGOOD_INSTANCE $KNOWNGOOD_INSTANCE_PATH $KNOWNGOOD_ENVIRONMENT\" >/serving\nwhile :; do :; done\n")
	m.must("chmod", "755", "/srv/app/instance")
	m.write("/srv/wanted", "2\n")
	m.write("/etc/knowngood/config.yaml", scaleConfig)
	m.must("knowngood", "snapshot", "app")
	m.must("knowngood", "switch", "app", "app@latest", "--unproven")
	m.dropIn("knowngood-scale@.timer", "soon", "[Timer]\nOnActiveSec=100ms\nAccuracySec=1ms\n")
	m.must("systemctl", "start", "knowngood-scale@app.timer")
	m.until("two instances run", func() error {
		if out, err := m.try("cat", "/srv/instances/1/serving", "/srv/instances/2/serving"); err != nil || out != "1 /srv/instances/1 app\n2 /srv/instances/2 app\n" {
			return fmt.Errorf("%w: %q\n%s", err, out, m.said("knowngood-scale@app.service"))
		}
		return nil
	})
	m.must("systemctl", "stop", "knowngood-scale@app.timer")
	m.until("the scale service ends", func() error {
		_, err := m.try("sh", "-c", "! systemctl is-active knowngood-scale@app.service")
		return err
	})

	// Two busy instances ask for more, by the CPU of their units.
	m.must("sed", "-i", "s,cat\\, /srv/wanted,/usr/share/knowngood/hooks/scale-by-cpu\\, \"1\"\\, \"1\",", "/etc/knowngood/config.yaml")
	var result struct{ Wanted, Ready int }
	if out := m.must("knowngood", "scale", "app", "--json", "--quiet"); json.Unmarshal([]byte(out), &result) != nil || result.Wanted < 3 || result.Ready < 3 {
		m.t.Errorf("scale-by-cpu asks for %+v: %s", result, out)
	}
	m.must("knowngood", "scale", "app", "--to", "0")
	if out := m.must("systemctl", "list-units", "--plain", "--no-legend", "--state=active", "knowngood-instance@*"); out != "" {
		m.t.Errorf("there are still\n%s", out)
	}
	m.must("knowngood", "spawn", "--dir", "/srv/instances", "--remove")
}
