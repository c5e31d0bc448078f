package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"knowngood/daemon/report"
)

// holdings are what a daemon has in use between runs.
type holdings struct{ memory, descriptors, goroutines int }

var goroutines = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)

// holdings are measured while nothing runs: memory in kB.
func (s *service) holdings(t *testing.T) holdings {
	t.Helper()
	s.http.CloseIdleConnections()
	s.client.Close()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, metrics := s.fetch(t, http.MethodGet, "/metrics")
	found := goroutines.FindStringSubmatch(metrics)
	if found == nil {
		t.Fatalf("the metrics tell no goroutines:\n%s", metrics)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return holdings{s.proc(t, "RssAnon"), len(fds), n}
}

// takeSoon is take, with many looks a second, and with no regard to past runs.
func (s *service) takeSoon(t *testing.T, name string, n uint64) {
	t.Helper()
	if code, body := s.fetch(t, http.MethodPost, "/api/v1/environments/"+name+"/snapshot"); code != http.StatusAccepted {
		t.Fatalf("run %d: %d %s", n, code, body)
	}
	waitFor(t, fmt.Sprintf("run %d ends", n), func() bool {
		_, body := s.fetch(t, http.MethodGet, "/api/v1/environments")
		var r report.Report
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		e := environmentOf(&r, name)
		if e.Totals[report.Failed] > 0 {
			t.Fatalf("run %d: %+v", n, e.Last)
		}
		return e.Running == nil && e.Totals[report.Success] >= n
	})
}

func TestADaemonDoesNotGrow(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := t.TempDir()
	s := newService(t, m, "environments: {web: {keep: {last: 10}, sources: [{path: %s}], hooks: {before: [{command: [echo, hook]}]}}}\n", src)
	s.up(t)
	runs := uint64(60)
	if slow() {
		runs = 1000
	}
	// At first it keeps past runs to show them, and arenas find their size.
	warm := runs / 10
	if slow() {
		warm = 550
	}
	var before holdings
	began := time.Now()
	for n := range runs {
		if n%3 == 0 {
			if err := os.WriteFile(filepath.Join(src, fmt.Sprint("file-", n%10)), fmt.Appendf(nil, "%d", n), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s.takeSoon(t, "web", n+1)
		if n+1 == runs/10 {
			t.Logf("after %d runs: %+v", n+1, s.holdings(t))
		}
		if n+1 == warm {
			before = s.holdings(t)
		}
	}
	now := s.holdings(t)
	t.Logf("after %d runs: %+v; after %d, %v later: %+v", warm, before, runs, time.Since(began).Round(time.Millisecond), now)
	if now.descriptors > before.descriptors+3 || now.goroutines > before.goroutines+4 || now.memory > before.memory+before.memory/4+4<<10 {
		t.Errorf("after %d runs it holds %+v, after %d it held %+v", runs, now, warm, before)
	}
	s.stop(t)
}
