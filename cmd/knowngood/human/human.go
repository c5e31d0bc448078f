// Package human writes amounts and times as people read them.
package human

import (
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"knowngood/daemon/report"
)

// Bytes is a size: 3.0 GiB.
func Bytes(n uint64) string { return humanize.IBytes(n) }

// Count is a number: 2,000.
func Count[N int | uint64](n N) string { return humanize.Comma(int64(n)) }

// Counted is a number of things: 1 file, 2,000 directories.
func Counted[N int | uint64](n N, noun string) string {
	return Count(n) + " " + english.PluralWord(int(n), noun, "")
}

// Duration is how long something took: 2.50 s, 3 min 12 s.
func Duration(d time.Duration) string { return report.Took(d) }

// Time is a time of day, in the zone of this machine.
func Time(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

// Date is a day, in the zone of this machine.
func Date(t time.Time) string { return t.Local().Format("2006-01-02") }
