package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// environment is what the figures depend on besides the program.
type environment struct {
	CPU        string   `json:"cpu"`
	Cores      int      `json:"cores"`
	MemoryGiB  float64  `json:"memory_gib"`
	System     string   `json:"system"`
	FileSystem string   `json:"file_system"` // type of that under the work directory
	Load       string   `json:"load"`        // average over a minute, before
	LoadAfter  string   `json:"load_after"`  // of the section that was measured last
	Versions   []string `json:"versions"`
}

func (e environment) String() string {
	return fmt.Sprintf("Machine: %s, %d cores, %.0f GiB, %s, %s; load %s before, %s after. Versions: %s.", e.CPU, e.Cores, e.MemoryGiB, e.System, e.FileSystem, e.Load, e.LoadAfter, strings.Join(e.Versions, "; "))
}

func findEnvironment(ctx context.Context, o *options) (environment, error) {
	e := environment{Cores: runtime.NumCPU(), CPU: "unknown processor"}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return e, err
	}
	if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
		e.CPU, _, _ = strings.Cut(rest, "\n")
	}
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return e, err
	}
	e.MemoryGiB = float64(memory.Totalram) * float64(memory.Unit) / (1 << 30)
	if e.Load, err = loadAverage(); err != nil {
		return e, err
	}
	e.LoadAfter = e.Load
	if e.System, err = systemName(); err != nil {
		return e, err
	}
	if e.FileSystem, err = fileSystemType(o.dir); err != nil {
		return e, err
	}
	e.Versions, err = versions(ctx, o)
	return e, err
}

// loadAverage is that of the last minute: above the number of cores, something
// else ran beside what was measured, and seconds mean little.
func loadAverage() (string, error) {
	load, err := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(load), " ")
	return first, err
}

// systemName is that of the distribution, and the kernel's release.
func systemName() (string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	name := "Linux"
	for line := range strings.Lines(string(release)) {
		if value, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			if name, err = strconv.Unquote(strings.TrimSpace(value)); err != nil {
				name = strings.TrimSpace(value)
			}
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return name + ", kernel " + unix.ByteSliceToString(u.Release[:]), nil
}

// fileSystemType is that of the mount which a directory lies on.
func fileSystemType(dir string) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	kind, longest := "unknown", -1
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < longest || dir != f[1] && !strings.HasPrefix(dir, strings.TrimSuffix(f[1], "/")+"/") {
			continue
		}
		kind, longest = f[2], len(f[1])
	}
	return kind, nil
}

// versions of all programs that take part.
func versions(ctx context.Context, o *options) ([]string, error) {
	commands := [][]string{
		{"git", "describe", "--always", "--dirty", "--exclude", "*"},
		{"go", "list", "-modfile=tools/go.mod", "-m", "github.com/versity/versitygw"},
	}
	if !o.small {
		commands = append(commands, []string{"dpkg-query", "-W", "linux-source-6.1"})
	}
	for _, peer := range o.peers {
		commands = append(commands, map[string][]string{nameRestic: {nameRestic, "version"}, nameBorg: {nameBorg, "--version"}}[peer])
	}
	var list []string
	for i, argv := range commands {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		line = strings.Join(strings.Fields(line), " ")
		if i == 0 {
			line = nameOurs + " " + line + " built with " + runtime.Version()
		}
		list = append(list, strings.TrimPrefix(line, "github.com/versity/"))
	}
	return list, nil
}
