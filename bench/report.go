package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report collects what was measured.
type report struct {
	Time        time.Time         `json:"time"`
	Environment environment       `json:"environment"`
	Small       bool              `json:"small"`
	Command     string            `json:"command"`
	Sections    map[string]string `json:"sections"` // what each is about
	Results     []*result         `json:"results"`
	Rows        []row             `json:"rows"`

	options *options
}

// result of one step on one side.
type result struct {
	Section string   `json:"section"`
	Step    string   `json:"step"`
	Side    string   `json:"side"`
	Samples []Sample `json:"samples"`
}

func newReport(ctx context.Context, o *options) (*report, error) {
	env, err := findEnvironment(ctx, o)
	return &report{Time: time.Now().UTC().Truncate(time.Second), Environment: env, Small: o.small,
		Command: strings.Join(append([]string{"bench/run"}, os.Args[1:]...), " "), Sections: make(map[string]string), options: o}, err
}

func (r *report) add(section, step, side string, run int, s Sample) {
	i := slices.IndexFunc(r.Results, func(x *result) bool { return x.Section == section && x.Step == step && x.Side == side })
	if i < 0 {
		i = len(r.Results)
		r.Results = append(r.Results, &result{Section: section, Step: step, Side: side})
	}
	r.Results[i].Samples = append(r.Results[i].Samples, s)
	fmt.Printf("%-2s %-9s %-9s run %d: %7.2f s, CPU %6.2f + %5.2f s, %4d MiB", section, step, side, run+1, s.Wall, s.User, s.System, s.Peak>>20)
	if s.Stored > 0 {
		fmt.Printf(", stored %.1f MiB", float64(s.Stored)/(1<<20))
	}
	if s.Requests > 0 {
		fmt.Printf(", %d requests %v", s.Requests, s.Methods)
	}
	fmt.Println()
}

// row compares the sides in one respect.
type row struct {
	Section string           `json:"section"`
	Step    string           `json:"step"`
	Metric  string           `json:"metric"`
	Unit    string           `json:"unit"`
	Sides   map[string]stats `json:"sides"`
	Ratio   float64          `json:"ratio_to_restic,omitempty"`
	Target  *target          `json:"target,omitempty"`
	Met     bool             `json:"met,omitempty"`
}

// stats of several runs.
type stats struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// statsOf takes the lower of two middle values.
func statsOf(values []float64) stats {
	slices.Sort(values)
	return stats{values[(len(values)-1)/2], values[0], values[len(values)-1]}
}

// rows of a section: for each step, each metric that has a value.
func (r *report) rows(section string) []row {
	var rows []row
	for _, step := range stepNames() {
		for _, m := range metrics() {
			sides := make(map[string]stats)
			for _, x := range r.Results {
				if x.Section != section || x.Step != step {
					continue
				}
				if values := m.values(x.Samples); len(values) > 0 {
					sides[x.Side] = statsOf(values)
				}
			}
			if len(sides) > 0 {
				rows = append(rows, judge(row{Section: section, Step: step, Metric: m.name, Unit: m.unit, Sides: sides}, !r.Small))
			}
		}
	}
	return rows
}

// judge adds the ratio, and target and verdict when the trees are of the size
// that targets are for.
func judge(r row, full bool) row {
	ours := r.Sides[nameOurs].Median
	peer, compared := r.Sides[nameRestic]
	if compared && peer.Median > 0 {
		r.Ratio = ours / peer.Median
	}
	if !full {
		return r
	}
	for _, t := range targets() {
		if t.section == r.Section && t.metric == r.Metric && (t.step == r.Step || t.step == "") {
			if !t.Absolute && r.Ratio == 0 {
				continue
			}
			r.Target = &t
			r.Met = t.Absolute && ours <= t.Most || !t.Absolute && r.Ratio <= t.Most
		}
	}
	return r
}

// publish prints a section, and keeps it in the files.
func (r *report) publish(section string) (err error) {
	if r.Environment.LoadAfter, err = loadAverage(); err != nil {
		return err
	}
	rows := r.rows(section)
	r.Rows = append(r.Rows, rows...)
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, line := range table(rows) {
		fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.options.json), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(r.options.json, append(text, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Printf("results: %s\n", r.options.json)
	if r.options.docs == "" {
		return nil
	}
	return rewrite(r.options.docs, section, r.markdown(section, rows))
}

// markdown is what stands in the documents about a section.
func (r *report) markdown(section string, rows []row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Tree: %s.\n\nMeasured %s with `%s`. %s\n\n", r.Sections[section], r.Time.Format("2006-01-02"), r.Command, r.Environment)
	for i, line := range table(rows) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(line, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat(" --- |", len(line)))
		}
	}
	return b.String()
}

// table is a heading and a line for each row.
func table(rows []row) [][]string {
	seen := make(map[string]bool)
	for _, r := range rows {
		for name := range maps.Keys(r.Sides) {
			seen[name] = true
		}
	}
	head := []string{"step", "measured"}
	var names []string
	for _, name := range []string{nameOurs, nameRestic, nameBorg} {
		if seen[name] {
			names = append(names, name)
		}
	}
	lines := [][]string{append(append(head, names...), "of restic", "target", "")}
	last := ""
	for _, r := range rows {
		line := []string{stepTitle(r.Section, r.Step), r.Metric}
		if r.Step == last {
			line[0] = ""
		}
		last = r.Step
		for _, name := range names {
			s, ok := r.Sides[name]
			line = append(line, cell(s, ok, r.Unit))
		}
		lines = append(lines, append(line, verdict(r)...))
	}
	return lines
}

// cell shows a median with its unit, and the spread.
func cell(s stats, ok bool, unit string) string {
	if !ok {
		return "-"
	}
	if s.Least == s.Most {
		return strings.TrimSpace(number(s.Median) + " " + unit)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s", number(s.Median), unit)) + fmt.Sprintf(" (%s–%s)", number(s.Least), number(s.Most))
}

func number(v float64) string {
	switch {
	case v == float64(int64(v)) && v < 1e6:
		return fmt.Sprintf("%.0f", v)
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func verdict(r row) []string {
	ratio, goal, met := "-", "-", ""
	if r.Ratio > 0 {
		ratio = fmt.Sprintf("%.2f", r.Ratio)
	}
	if r.Target != nil {
		goal, met = "≤ "+number(r.Target.Most), "missed"
		if r.Target.Absolute {
			goal = strings.TrimSpace(goal + " " + r.Unit)
		}
		if r.Met {
			met = "met"
		}
	}
	return []string{ratio, goal, met}
}
