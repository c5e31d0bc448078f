package daemon

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

// CheckCost is what the checks of a configuration read from the store in a month
// of 30 days.
type CheckCost struct {
	// Bytes is an estimate, of what was stored at the last check of the daemon;
	// Known is false where there was none, and Bytes then the most, or 0.
	Bytes uint64
	Known bool
	Text  string
}

// CostOfChecks estimates what the checks of a valid configuration read, without
// asking the store.
func CostOfChecks(c *configs.Config) CheckCost {
	k := c.Check
	if k == nil || k.Off() {
		return CheckCost{Text: "off: what is stored is verified only by hand"}
	}
	var last checked
	known := jobfiles.PeekSlots(jobsDir(c.StateDir), checkedFile, checkedSize, &last) && last.Objects > 0
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
	case how == nil && !known:
		return CheckCost{Text: "structure and sizes, no stored data"}
	case how == nil:
		return costOf("structure and sizes, no stored data", lists, stored)
	case how.share > 0 && !known:
		return CheckCost{Text: fmt.Sprintf("structure, sizes and %s of the stored data, %.0f times a month", k.ReadData, runs)}
	case how.share > 0:
		return costOf(fmt.Sprintf("structure, sizes and %s of the stored data", k.ReadData), lists+runs*how.share*stored, stored)
	case !known:
		most := CheckCost{Bytes: uint64(math.Min(30*float64(how.daily), math.MaxInt64))}
		most.Text = fmt.Sprintf("structure and sizes, and all stored data in turn over %v: up to %s of data a month", k.Cycle, humanize.IBytes(most.Bytes))
		return most
	}
	expected := how.expected(last.Stored)
	text := fmt.Sprintf("structure and sizes, and all stored data in turn over %v", configs.Duration(expected.Round(day)))
	if expected > how.cycle {
		text += fmt.Sprintf(", not %v, for at most %s is read a day (max_data)", k.Cycle, humanize.IBytes(how.daily))
	}
	return costOf(text, lists+stored*float64(month)/float64(expected), stored)
}

func costOf(text string, bytes, stored float64) CheckCost {
	n := uint64(math.Min(bytes, math.MaxInt64))
	return CheckCost{Bytes: n, Known: true, Text: fmt.Sprintf("%s: about %s a month, of %s stored", text, humanize.IBytes(n), humanize.IBytes(uint64(stored)))}
}
