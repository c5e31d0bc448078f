// Package systemd tests the units and the packages: what they hold, and on a
// machine whose process 1 is systemd what comes of it.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// needs skips a test where a program is missing.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
}

// settings of a unit file, by section.
func settings(t *testing.T, file string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sections, section := map[string][]string{}, ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		default:
			sections[section] = append(sections[section], line)
		}
	}
	return sections
}

// own are settings in which the two services differ, for what they run.
var own = []string{"Type=", "NotifyAccess=", "ExecStart", "ExecReload=", "WatchdogSec=", "OOMPolicy=", "Restart", "TimeoutStartSec=", "SuccessExitStatus=", "RuntimeDirectory"}

func TestUnits(t *testing.T) {
	t.Parallel()

	t.Run("both services have the same sandbox", func(t *testing.T) {
		t.Parallel()
		shared := func(file string) []string {
			return slices.DeleteFunc(settings(t, file)["[Service]"], func(line string) bool {
				return slices.ContainsFunc(own, func(prefix string) bool { return strings.HasPrefix(line, prefix) })
			})
		}
		daemon, once := shared("knowngood.service"), shared("knowngood-snapshot@.service")
		if !slices.Equal(daemon, once) {
			t.Errorf("knowngood.service has\n%s\nand knowngood-snapshot@.service\n%s", strings.Join(daemon, "\n"), strings.Join(once, "\n"))
		}
	})

	t.Run("every unit is exposed by at most two", func(t *testing.T) {
		t.Parallel()
		needs(t, "systemd-analyze")
		for _, unit := range []string{"knowngood.service", "knowngood-snapshot@.service"} {
			run(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", unit)
		}
	})

	t.Run("every drop in is understood", func(t *testing.T) {
		t.Parallel()
		needs(t, "systemd-analyze")
		examples, err := filepath.Glob("knowngood.service.d/*.conf.example")
		if err != nil || len(examples) == 0 {
			t.Fatalf("%d examples, %v", len(examples), err)
		}
		for _, example := range examples {
			dir := t.TempDir()
			// What would be reported of commands and of other units is none of ours.
			unit := "[Service]\nExecStart=/bin/true\n"
			if err := os.WriteFile(filepath.Join(dir, "tried.service"), []byte(unit), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "tried.service.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(example)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "tried.service.d", "it.conf"), text, 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, "tried.service"))
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", example, err, out)
			}
		}
	})
}
