package web

import (
	"fmt"
	"math"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/daemon/report"
)

// stripRuns are the past runs that a strip shows, chartRuns those of a chart.
const (
	stripRuns = 48
	chartRuns = 96
)

// strip is a row of past runs, oldest first, the newest at the right edge. The
// result shows by shape as well as by colour.
type strip struct {
	Label string
	Width int
	Cells []cell
}

// cell is one run of a strip.
type cell struct {
	X      int
	Result report.Result
	Title  string
}

const cellWidth = 7

func newStrip(e *report.Environment, now time.Time) *strip {
	runs := e.Runs[max(0, len(e.Runs)-stripRuns):]
	if len(runs) == 0 {
		return nil
	}
	s := &strip{Width: stripRuns * cellWidth}
	counts := map[report.Result]int{}
	for i := range runs {
		r := &runs[i]
		counts[r.Result]++
		s.Cells = append(s.Cells, cell{X: (stripRuns - len(runs) + i) * cellWidth, Result: r.Result, Title: describe(r, now)})
	}
	s.Label = fmt.Sprintf("%s of %s:", english.PluralWord(len(runs), "The one run", fmt.Sprintf("Last %d runs", len(runs))), e.Name)
	for _, r := range results() {
		if counts[r] > 0 {
			s.Label += fmt.Sprintf(" %d %s,", counts[r], r)
		}
	}
	s.Label += fmt.Sprintf(" the newest: %s", runs[len(runs)-1].Outcome())
	return s
}

// tooltipText bounds what a tooltip holds of an error, which the page has in
// full elsewhere.
const tooltipText = 160

// describe is a run in one line.
func describe(r *report.Run, now time.Time) string {
	text := fmt.Sprintf("%s, %s", r.Outcome(), moment{r.Started, now}.Full())
	if !r.Died {
		text += ", " + spanOfRun(r)
	}
	if r.Snapshot != "" {
		text += fmt.Sprintf(", %s, %s", r.Snapshot, size(r.Bytes))
	}
	if r.Error != "" {
		text += ": " + cut(r.Error, tooltipText)
	}
	return text
}

// spanOfRun keeps tenths where runs are short.
func spanOfRun(r *report.Run) string {
	if r.Died { // nobody knows when
		return "–"
	}
	if d := r.Duration(); d < 10*time.Second {
		return fmt.Sprintf("%.1f\u00a0s", d.Seconds())
	}
	return span(r.Duration())
}

// chart is a value over past runs, in a box of 100 by 100 that is stretched to
// whatever width there is; its labels are text beside it.
type chart struct {
	Title, Label string
	Ticks        []string // from the top down, evenly spaced
	From, To     string
	Line, Area   string // paths; empty for bars
	Points       []point
	Bars         bool
	Dense        bool // so many points that they are not drawn
}

// point is one run of a chart.
type point struct {
	X, Y, W, H string
	Result     report.Result
	Title      string
}

// newCharts are size and duration over past runs.
func newCharts(e *report.Environment, now time.Time) []*chart {
	var ended, good []*report.Run
	for i := range e.Runs[max(0, len(e.Runs)-chartRuns):] {
		r := &e.Runs[max(0, len(e.Runs)-chartRuns)+i]
		if r.Result != report.Skipped && !r.Died { // of which nobody knows how long it took
			ended = append(ended, r)
		}
		if r.Result.Good() {
			good = append(good, r)
		}
	}
	var out []*chart
	if len(good) > 0 {
		out = append(out, sizeChart(e.Name, good, now))
	}
	if len(ended) > 0 {
		out = append(out, durationChart(e.Name, ended, now))
	}
	return out
}

func sizeChart(name string, runs []*report.Run, now time.Time) *chart {
	c := &chart{Title: "Size", Dense: len(runs) > chartRuns/2}
	c.From, c.To = ends(runs, now)
	low, high := runs[0].Bytes, runs[0].Bytes
	for _, r := range runs {
		low, high = min(low, r.Bytes), max(high, r.Bytes)
	}
	top := roundBytes(float64(high))
	c.Ticks = []string{size(uint64(top)), size(uint64(top / 2)), "0"}
	c.Label = fmt.Sprintf("Size of %s over %d runs, from %s to %s", name, len(runs), size(low), size(high))
	for i, r := range runs {
		x, y := place(i, len(runs)), 100*(1-float64(r.Bytes)/top)
		step := "L"
		if i == 0 {
			step = "M"
		}
		c.Line += fmt.Sprintf("%s%.2f %.2f", step, x, y)
		c.Points = append(c.Points, point{X: fmt.Sprintf("%.2f", x), Y: fmt.Sprintf("%.2f", y), Result: r.Result, Title: describe(r, now)})
	}
	c.Area = fmt.Sprintf("%sL%.2f 100L%.2f 100Z", c.Line, place(len(runs)-1, len(runs)), place(0, len(runs)))
	return c
}

func durationChart(name string, runs []*report.Run, now time.Time) *chart {
	c := &chart{Title: "Duration", Bars: true}
	c.From, c.To = ends(runs, now)
	low, high := runs[0].Duration(), runs[0].Duration()
	for _, r := range runs {
		low, high = min(low, r.Duration()), max(high, r.Duration())
	}
	top := roundDuration(high)
	c.Ticks = []string{tick(top), tick(top / 2), "0"}
	c.Label = fmt.Sprintf("Duration of %d runs of %s, from %s to %s", len(runs), name, tick(low), tick(high))
	width := 76 / float64(max(len(runs), 12))
	for i, r := range runs {
		h := max(1, 100*float64(max(0, r.Duration()))/float64(top)) // one that took no time is seen, too
		c.Points = append(c.Points, point{
			X: fmt.Sprintf("%.2f", place(i, len(runs))-width/2), W: fmt.Sprintf("%.2f", width),
			Y: fmt.Sprintf("%.2f", 100-h), H: fmt.Sprintf("%.2f", h), Result: r.Result, Title: describe(r, now),
		})
	}
	return c
}

// ends are the times of the first and of the last run, as short as distinguishes them.
func ends(runs []*report.Run, now time.Time) (from, to string) {
	a, b := moment{runs[0].Started, now}, moment{runs[len(runs)-1].Started, now}
	if b.t.Sub(a.t) > 72*time.Hour {
		return a.Day(), b.Day()
	}
	return a.Short(), b.Short()
}

// place spreads n points over the width, half a step from its edges.
func place(i, n int) float64 { return 100 * (float64(i) + 0.5) / float64(n) }

// roundBytes is the next of 1, 2, 4, 8 … in binary units, or of three quarters
// of them: a top whose half is a round number as well.
func roundBytes(v float64) float64 {
	if v < 2 {
		return 2
	}
	p := math.Exp2(math.Ceil(math.Log2(v)))
	if p >= 8 && v <= p*3/4 {
		return p * 3 / 4
	}
	return p
}

// roundDuration is the next that people count in.
func roundDuration(d time.Duration) time.Duration {
	for _, unit := range []struct {
		size  time.Duration
		steps []time.Duration
	}{
		{100 * time.Millisecond, []time.Duration{2, 4, 10, 20, 40, 60}},
		{time.Second, []time.Duration{10, 20, 30, 40}},
		{time.Minute, []time.Duration{1, 2, 4, 6, 10, 20, 30, 40}},
		{time.Hour, []time.Duration{1, 2, 4, 6, 8, 12, 24, 48}},
	} {
		for _, s := range unit.steps {
			if d <= s*unit.size {
				return s * unit.size
			}
		}
	}
	return (d + 48*time.Hour - 1).Truncate(48 * time.Hour)
}

// tick is a duration as short as an axis needs it.
func tick(d time.Duration) string {
	if d < 10*time.Second && d%time.Second != 0 {
		return fmt.Sprintf("%.1f\u00a0s", d.Seconds())
	}
	if d < 2*time.Minute && d%time.Minute != 0 {
		return fmt.Sprintf("%d\u00a0s", d/time.Second)
	}
	return span(d)
}
