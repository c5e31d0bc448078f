package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
)

// median of what f takes from samples.
func median(s []sample, f func(sample) float64) float64 {
	if len(s) == 0 {
		return 0
	}
	v := make([]float64, len(s))
	for i := range s {
		v[i] = f(s[i])
	}
	slices.SortFunc(v, cmp.Compare)
	return v[len(v)/2]
}

// markdown is the tables.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s on %s; medians of %d runs in turns; ratios against restic, below 1 is less.\n\n", r.Date.Format("2006-01-02"), r.Machine, r.Runs)
	for _, n := range []string{"knowngood", "restic", "borg"} {
		if v := r.Versions[n]; v != "" {
			fmt.Fprintf(&b, "- %s\n", v)
		}
	}
	for _, tree := range []string{"A", "B"} {
		if r.Samples[tree] != nil {
			r.table(&b, tree)
		}
	}
	return b.String()
}

func (r *report) table(b *strings.Builder, tree string) {
	wall := func(s sample) float64 { return s.Wall }
	user := func(s sample) float64 { return s.User }
	peak := func(s sample) float64 { return float64(s.Peak) / (1 << 20) }
	fmt.Fprintf(b, "\n### Tree %s\n\n| step | wall: knowngood | restic | borg | ratio (spread) | target | user CPU: knowngood | restic | ratio | peak MiB: knowngood | restic |\n|---|---|---|---|---|---|---|---|---|---|---|\n", tree)
	for _, st := range steps {
		s := r.Samples[tree][st.name]
		kg, re, bo := s["knowngood"], s["restic"], s["borg"]
		var ratios []float64
		for i := range min(len(kg), len(re)) {
			ratios = append(ratios, kg[i].Wall/re[i].Wall)
		}
		spread := "-"
		if len(ratios) > 0 {
			slices.Sort(ratios)
			spread = fmt.Sprintf("%.2f (%.2f to %.2f)", ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
		}
		fmt.Fprintf(b, "| %s | %.2f s | %.2f s | %s | %s | %.2f | %.2f s | %.2f s | %.2f | %.0f | %.0f |\n", st.name, median(kg, wall), median(re, wall), seconds(bo), spread, st.target[tree],
			median(kg, user), median(re, user), median(kg, user)/max(median(re, user), 0.001), median(kg, peak), median(re, peak))
	}
	kg, re := r.Stored[tree]["knowngood"], r.Stored[tree]["restic"]
	fmt.Fprintf(b, "\nStored after the first capture: knowngood %d MiB, restic %d MiB, borg %d MiB; ratio against restic %.3f\n", kg>>20, re>>20, r.Stored[tree]["borg"]>>20, float64(kg)/max(float64(re), 1))
}

func seconds(s []sample) string {
	if len(s) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f s", median(s, func(s sample) float64 { return s.Wall }))
}

const (
	begin = "<!-- tables: written by bench/run -->\n"
	end   = "<!-- end of tables -->\n"
)

// writeDocument puts the tables between the marks of the document.
func writeDocument(path, tables string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no marks for the tables", path)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+tables+"\n"+end+after), 0o644)
}
