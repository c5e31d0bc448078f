package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Sample is what one run of one command took.
type Sample struct {
	Wall     float64 `json:"wall_seconds"`
	User     float64 `json:"user_seconds"`
	System   float64 `json:"system_seconds"`
	Peak     int64   `json:"peak_anonymous_bytes"`
	Stored   int64   `json:"stored_bytes,omitempty"`
	Requests int     `json:"requests,omitempty"`
	Uploaded int64   `json:"uploaded_bytes,omitempty"`
	// Methods counts the requests by HTTP method.
	Methods map[string]int `json:"methods,omitempty"`
}

const (
	sampleInterval = 20 * time.Millisecond // shorter at first, for commands that end soon
	outputTail     = 2000                  // bytes of a failed command's output that are printed
)

// measure runs a command; with durable, until what it wrote is on the disk.
// What was written before is on the disk when it starts.
func measure(ctx context.Context, c command, durable bool) (Sample, error) {
	unix.Sync()
	cmd := c.build(ctx)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return Sample{}, err
	}
	ended, peak := make(chan struct{}), make(chan int64)
	go func() { peak <- watchMemory(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	if durable {
		unix.Sync()
	}
	s := Sample{Wall: time.Since(start).Seconds()}
	close(ended)
	s.Peak = <-peak
	if err != nil {
		return s, commandError(c, err, output.Bytes())
	}
	s.User, s.System = cmd.ProcessState.UserTime().Seconds(), cmd.ProcessState.SystemTime().Seconds()
	return s, nil
}

// runQuietly runs a command that is not measured.
func runQuietly(ctx context.Context, c command) error {
	out, err := c.build(ctx).CombinedOutput()
	if err != nil {
		return commandError(c, err, out)
	}
	return nil
}

func commandError(c command, err error, output []byte) error {
	return fmt.Errorf("%s: %w\n%s", strings.Join(c.argv, " "), err, output[max(0, len(output)-outputTail):])
}

// watchMemory returns the most anonymous memory, in bytes, that a process and
// its descendants had at one time, as often as it looked.
func watchMemory(pid int, ended <-chan struct{}) int64 {
	var peak int64
	for wait := time.Millisecond; ; wait = min(2*wait, sampleInterval) {
		peak = max(peak, anonymousMemory(pid))
		select {
		case <-ended:
			return peak
		case <-time.After(wait):
		}
	}
}

// anonymousMemory is 0 for a process that has ended.
func anonymousMemory(pid int) int64 {
	dir := fmt.Sprintf("/proc/%d", pid)
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0
	}
	var total int64
	if _, rest, ok := bytes.Cut(status, []byte("\nRssAnon:")); ok {
		line, _, _ := strings.Cut(string(rest), " kB")
		kib, _ := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		total = kib << 10
	}
	lists, _ := filepath.Glob(filepath.Join(dir, "task/*/children"))
	for _, list := range lists {
		children, _ := os.ReadFile(list) // a thread may end meanwhile
		for _, child := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				total += anonymousMemory(n)
			}
		}
	}
	return total
}
