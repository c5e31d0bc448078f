package configs

import (
	"strings"
	"time"

	"knowngood/internal/schedule"
)

// zone checks a time zone.
func (v *validator) zone(z string, key keyPath) {
	if _, err := time.LoadLocation(z); err != nil {
		v.addf(key, "%q is not a time zone, such as Europe/Berlin or UTC", z)
	}
}

// schedule checks a cron expression.
func (v *validator) schedule(s, zone string, key keyPath) {
	if _, err := time.LoadLocation(zone); err != nil {
		zone = "UTC" // that is a problem of its own
	}
	if strings.TrimSpace(s) == "" && key[0] != "environments" {
		v.addf(key, "it is missing: write when, such as \"0 5 * * *\" (each day at 5:00), or \"off\"")
		return
	}
	if _, err := schedule.Parse(s, zone); err != nil {
		v.addf(key, "%v", err)
	}
}

// intervals are the shortest and the longest time between two runs of a
// schedule: of a week of runs each minute, of a decade of monthly ones. They
// are counted in UTC, where no day is an hour longer than others.
func intervals(s string) (shortest, longest time.Duration, ok bool) {
	parsed, err := schedule.Parse(s, "UTC")
	if err != nil {
		return 0, 0, false
	}
	const most = 12000
	at := parsed.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	end := at.AddDate(10, 0, 0)
	for i := 0; i < most && at.Before(end); i++ {
		next := parsed.Next(at)
		gap := next.Sub(at)
		if i == 0 || gap < shortest {
			shortest = gap
		}
		longest = max(longest, gap)
		at = next
	}
	return shortest, longest, longest > 0
}
