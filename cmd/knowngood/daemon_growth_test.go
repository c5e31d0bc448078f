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
type holdings struct {
	memory                  int // in kB
	descriptors, goroutines int
}

var goroutines = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)

// holdings are the least of several looks: a run may be under way.
func (s *service) holdings(t *testing.T) holdings {
	t.Helper()
	least := s.look(t)
	for range 8 {
		time.Sleep(50 * time.Millisecond)
		h := s.look(t)
		least = holdings{min(least.memory, h.memory), min(least.descriptors, h.descriptors), min(least.goroutines, h.goroutines)}
	}
	return least
}

func (s *service) look(t *testing.T) holdings {
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

func TestDaemonGrowth(t *testing.T) {
	t.Parallel()
	t.Run("a daemon does not grow with its runs", testADaemonDoesNotGrowWithItsRuns)
	t.Run("a daemon does not grow with its configurations", testADaemonDoesNotGrowWithItsConfigurations)
}

func testADaemonDoesNotGrowWithItsRuns(t *testing.T) {
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

func testADaemonDoesNotGrowWithItsConfigurations(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	other := *m
	other.repo = filepath.Join(t.TempDir(), "other")
	other.must(t, "init", "--identity-type", "x25519")
	s := newService(t, m, "environments: {}\n")
	text := fmt.Sprintf("environments: {%%s: {schedule: \"@every 1s\", sources: [{path: %s}]}}\nnotify: {command: [\"true\"]}\n", t.TempDir())
	s.configure(t, text, "env-0")
	s.up(t)
	reloads := 40
	if slow() {
		reloads = 400
	}
	var before holdings
	for n := range reloads {
		s.machine = []*machine{m, &other}[n%2]
		s.configure(t, text, fmt.Sprint("env-", n%5))
		s.hup(t)
		if n%5 == 0 {
			s.until(t, "a run ended", func(r *report.Report) bool {
				e := r.Environments[0]
				return e.Last != nil && e.Last.Started.After(r.Now.Add(-time.Minute))
			})
		}
		if n+1 == reloads/4 {
			before = s.holdings(t)
		}
	}
	now := s.holdings(t)
	t.Logf("after %d reloads: %+v; after %d: %+v", reloads/4, before, reloads, now)
	if now.descriptors > before.descriptors+8 || now.goroutines > before.goroutines+6 || now.memory > before.memory+before.memory/4+4<<10 {
		t.Errorf("after %d reloads it holds %+v, after %d it held %+v", reloads, now, reloads/4, before)
	}
	s.stop(t)
}
