package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/configs"
	"knowngood/internal/command"
)

// hook is the path of a script that we ship.
func hook(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../configs/hooks", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// needs skips a test where a program is missing, or root.
func needs(t *testing.T, root bool, programs ...string) {
	t.Helper()
	if root && os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s, which is not installed", p)
		}
	}
}

// configured writes a configuration for a machine.
func (m *machine) configured(t *testing.T, text string, args ...any) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, text, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// output runs a command that must succeed, and returns its output.
func output(t *testing.T, env []string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// loopback attaches a file of this size as a block device, until the test ends.
func loopback(t *testing.T, size string) string {
	t.Helper()
	needs(t, true, "losetup", "truncate")
	file := filepath.Join(t.TempDir(), "disk")
	output(t, nil, "truncate", "-s", size, file)
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("needs loop devices: %s", bytes.TrimSpace(out))
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { output(t, nil, "losetup", "--detach", device) })
	return device
}

// hooks runs the hooks of an environment as a daemon does, and returns the error
// of the first that fails.
func hooks(t *testing.T, list []configs.Hook) error {
	t.Helper()
	for _, h := range list {
		c := command.Command{Argv: h.Command, Line: func(stream, line string) { t.Logf("%s: %s", stream, line) }}
		if err := c.Run(context.Background()); err != nil {
			return err
		}
	}
	return nil
}
