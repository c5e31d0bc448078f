// Command bench runs knowngood beside restic and borg on the same trees, in
// turns, and writes what it measured: as text, as JSON, and as the tables of
// docs/PERFORMANCE.md. It never fails on time, but on a restore that differs
// from its source.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// steps in the order in which they are run, with what the ratio of wall time
// against restic should be at most, on tree A and on B.
var steps = []struct {
	name   string
	target map[string]float64
}{
	{"first capture", map[string]float64{"A": 0.5, "B": 0.5}},
	{"unchanged capture", map[string]float64{"A": 0.2, "B": 0.3}},
	{"1 % changed", map[string]float64{"A": 0.25, "B": 0.5}},
	{"restore", map[string]float64{"A": 0.6, "B": 0.6}},
	{"restore in place", map[string]float64{"A": 0.5, "B": 0.6}},
	{"check --read-data", map[string]float64{"A": 0.6, "B": 0.6}},
}

// results by tree, step and side.
type results map[string]map[string]map[string][]sample

// report is what is written as JSON.
type report struct {
	Date     time.Time                   `json:"date"`
	Machine  string                      `json:"machine"`
	Versions map[string]string           `json:"versions"`
	Runs     int                         `json:"runs"`
	Samples  results                     `json:"samples"`
	Stored   map[string]map[string]int64 `json:"stored_bytes"` // after the first capture
}

func main() {
	dir := flag.String("dir", "/var/tmp/knowngood-bench", "where trees, repositories and restores lie")
	only := flag.String("only", "A,B", "which trees")
	runs := flag.Int("runs", 3, "how often each step is run")
	small := flag.Bool("small", false, "small trees, for CI; the document is left alone")
	peers := flag.String("peers", "restic,borg", "whom to compare with")
	flag.Parse()
	r := &report{Date: time.Now().UTC(), Machine: machine(), Versions: map[string]string{}, Runs: *runs, Samples: results{}, Stored: map[string]map[string]int64{}}
	for _, name := range strings.Split(*only, ",") {
		if err := r.tree(*dir, name, *small, strings.Split(*peers, ",")); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
	text := r.markdown()
	fmt.Print(text)
	b, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(*dir, "report.json"), b, 0o644)
	}
	if err == nil && !*small {
		err = writeDocument("docs/PERFORMANCE.md", text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// tree measures all steps on one tree, the sides taking turns.
func (r *report) tree(dir, name string, small bool, peers []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	source, err := makeTree(dir, name, small)
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(sides(dir, source), func(s *side) bool { return s.name != "knowngood" && !slices.Contains(peers, s.name) })
	r.Samples[name], r.Stored[name] = map[string]map[string][]sample{}, map[string]int64{}
	for _, s := range all {
		out, _ := exec.Command(s.version[0], s.version[1:]...).Output()
		r.Versions[s.name] = strings.TrimSpace(string(out))
	}
	for run := range r.Runs {
		warm(source)
		if err := r.turn(dir, name, source, run, all); err != nil {
			return err
		}
	}
	return nil
}

// turn runs each step once on each side.
func (r *report) turn(dir, name, source string, run int, all []*side) error {
	step := func(what string, f func(s *side) ([]string, bool)) error {
		if what == "1 % changed" {
			if err := change(source, name, uint64(run)); err != nil {
				return err
			}
			warm(source)
		}
		for i := range all {
			s := all[(i+run)%len(all)]
			argv, sync := f(s)
			if argv == nil {
				continue
			}
			m, err := measure(argv, s.env, sync)
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%s %-18s %-10s %7.2f s wall %7.2f s user %6.2f s sys %4d MiB\n", name, what, s.name, m.Wall, m.User, m.Sys, m.Peak>>20)
			if r.Samples[name][what] == nil {
				r.Samples[name][what] = map[string][]sample{}
			}
			r.Samples[name][what][s.name] = append(r.Samples[name][what][s.name], m)
		}
		return nil
	}
	capture := func(s *side) ([]string, bool) { return append(slices.Clone(s.capture), source), false }
	target := func(s *side) string { return filepath.Join(dir, "out-"+s.name) }
	for _, s := range all {
		if err := s.reset(); err != nil {
			return err
		}
		if err := os.RemoveAll(target(s)); err != nil {
			return err
		}
		if err := os.MkdirAll(target(s), 0o755); err != nil {
			return err
		}
	}
	if err := step(steps[0].name, capture); err != nil {
		return err
	}
	for _, s := range all {
		r.Stored[name][s.name] = size(filepath.Join(s.home, "repo"))
	}
	for _, n := range []string{steps[1].name, steps[2].name} {
		if err := step(n, capture); err != nil {
			return err
		}
	}
	if err := step(steps[3].name, func(s *side) ([]string, bool) { return append(slices.Clone(s.restore), target(s)), true }); err != nil {
		return err
	}
	for _, s := range all {
		if err := same(source, filepath.Join(target(s), source)); err != nil {
			return err
		}
	}
	err := step(steps[4].name, func(s *side) ([]string, bool) {
		if s.inPlace == nil {
			return nil, false
		}
		return append(slices.Clone(s.inPlace), target(s)), true
	})
	if err != nil {
		return err
	}
	return step(steps[5].name, func(s *side) ([]string, bool) { return s.check, false })
}

func machine() string {
	model := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, after, ok := strings.Cut(string(b), "model name"); ok {
			line, _, _ := strings.Cut(after, "\n")
			model = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
		}
	}
	kernel, _ := exec.Command("uname", "-r").Output()
	return fmt.Sprintf("%d cores of %s, Linux %s", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)))
}
