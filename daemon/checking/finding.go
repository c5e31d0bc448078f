package checking

import (
	"errors"
	"fmt"
	"knowngood/daemon/report"
	"knowngood/snapshot/check"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"strings"

	"github.com/dustin/go-humanize/english"
)

// Finding is the damage that a check found. The zero value is none.
type Finding struct {
	Damaged  int      `json:"damaged,omitempty"` // objects, and snapshots whose locks end too early
	Short    int      `json:"short,omitempty"`   // of which are snapshots
	First    []string `json:"first,omitempty"`   // some of them, and what they affect
	Tampered bool     `json:"tampered,omitempty"`
}

// mostFirst is how many damaged objects are named.
const mostFirst = 5

// FindingOf sums up what a check found of a host.
func FindingOf(r *check.Report, host string) (f Finding) {
	for _, d := range r.Damage {
		if strings.HasPrefix(d.Object, layout.PrefixHosts) && !strings.HasPrefix(d.Object, layout.PrefixHost(host)) {
			continue // another host's
		}
		f.Damaged++
		if d.Lock {
			f.Short++
		}
		f.Tampered = f.Tampered || errors.As(d.Err, new(*authentic.TamperError))
		if len(f.First) >= mostFirst {
			continue
		}
		line, _, _ := strings.Cut(d.Err.Error(), "\n")
		text := shortened(line)
		if !strings.Contains(text, d.Object) {
			text = d.Object + ": " + text
		}
		if d.Count > 0 {
			text += "; affects " + shortened(d.Affected[0].String())
		}
		if d.Count > 1 {
			text += " and " + english.Plural(d.Count-1, "more file", "")
		}
		f.First = append(f.First, text)
	}
	return f
}

func shortened(text string) string { return report.Shorten(text, report.MaxError/mostFirst) }

// String is the damage in words.
func (f Finding) String() string {
	text := report.DamageText(f.Damaged, f.Short) + ": " + strings.Join(f.First, "; ")
	if more := f.Damaged - len(f.First); more > 0 {
		text += fmt.Sprintf("; and %d more, which knowngood check names", more)
	}
	return text
}
