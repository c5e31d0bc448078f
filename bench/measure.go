package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sample is one run of a step.
type sample struct {
	Wall float64 `json:"wall_seconds"`
	User float64 `json:"user_seconds"`
	Sys  float64 `json:"system_seconds"`
	Peak int64   `json:"peak_anonymous_bytes"`
}

// measure runs a command to its end. With sync, the time to sync the file
// system is part of it. Peak is the greatest anonymous memory of the command
// and its children, looked at 50 times a second.
func measure(argv, env []string, sync bool) (sample, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var s sample
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.Peak = max(s.Peak, anonymous(cmd.Process.Pid))
			continue
		case err := <-done:
			if err != nil {
				return s, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out.String())
			}
		}
		break
	}
	if sync {
		syscall.Sync()
	}
	s.Wall = time.Since(start).Seconds()
	s.User, s.Sys = cmd.ProcessState.UserTime().Seconds(), cmd.ProcessState.SystemTime().Seconds()
	return s, nil
}

// anonymous is the anonymous memory of the processes of a group, in bytes.
func anonymous(group int) (total int64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) < 3 || fields[2] != strconv.Itoa(group) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(f), "status"))
		if err != nil {
			continue
		}
		if _, after, ok := strings.Cut(string(status), "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
			total += kb << 10
		}
	}
	return total
}

// size is the length of all files below dir, in bytes.
func size(dir string) (total int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil
	})
	return total
}
