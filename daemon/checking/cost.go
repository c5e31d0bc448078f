package checking

import (
	"fmt"
	"math"
	"time"

	"github.com/dustin/go-humanize"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/internal/schedule"
	"knowngood/storage/pack"
)

// month is the period that costs are given for.
const month = 30 * day

// Cost is what the checks of a configuration read from the store in a month
// of 30 days.
type Cost struct {
	// Bytes is an estimate, of what was stored at the last check of the daemon;
	// Known is false where there was none, and Bytes then the most, or 0.
	Bytes uint64
	Known bool
	Text  string
}

// CostOf estimates what the checks of a valid configuration read, without
// asking the store.
func CostOf(c *configs.Config) Cost {
	k := c.Check
	if k == nil || k.Off() {
		return Cost{Text: "off: what is stored is verified only by hand"}
	}
	var last known
	ran := jobfiles.PeekSlots(jobfiles.Jobs(c.StateDir), stateFile, stateSize, &last) && last.Objects > 0
	stored := float64(last.Stored)

	runs := 0.0
	if s, err := schedule.Parse(k.Schedule, k.TimeZone); err == nil {
		from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		_, n := s.Missed(from, from.Add(month))
		runs = float64(n)
	}
	lists := runs * math.Min(float64(last.Objects)*pack.TailLen, stored)

	how := readingOf(k, c.Identity != "")
	switch {
	case how == nil && !ran:
		return Cost{Text: "structure and sizes, no stored data"}
	case how == nil:
		return estimate("structure and sizes, no stored data", lists, stored)
	case how.share > 0 && !ran:
		return Cost{Text: fmt.Sprintf("structure, sizes and %s of the stored data, %.0f times a month", k.ReadData, runs)}
	case how.share > 0:
		return estimate(fmt.Sprintf("structure, sizes and %s of the stored data", k.ReadData), lists+runs*how.share*stored, stored)
	case !ran:
		most := Cost{Bytes: uint64(math.Min(30*float64(how.daily), math.MaxInt64))}
		most.Text = fmt.Sprintf("structure and sizes, and all stored data in turn over %v: up to %s of data a month", k.Cycle, humanize.IBytes(most.Bytes))
		return most
	}
	expected := how.expected(last.Stored)
	text := fmt.Sprintf("structure and sizes, and all stored data in turn over %v", configs.Duration(expected.Round(day)))
	if expected > how.cycle {
		text += fmt.Sprintf(", not %v, for at most %s is read a day (max_data)", k.Cycle, humanize.IBytes(how.daily))
	}
	return estimate(text, lists+stored*float64(month)/float64(expected), stored)
}

func estimate(text string, bytes, stored float64) Cost {
	n := uint64(math.Min(bytes, math.MaxInt64))
	return Cost{Bytes: n, Known: true, Text: fmt.Sprintf("%s: about %s a month, of %s stored", text, humanize.IBytes(n), humanize.IBytes(uint64(stored)))}
}
