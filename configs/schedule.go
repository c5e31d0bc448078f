package configs

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// zone checks a time zone.
func (v *validator) zone(z string, key keyPath) {
	if _, err := time.LoadLocation(z); err != nil {
		v.addf(key, "%q is not a time zone, such as Europe/Berlin or UTC", z)
	}
}

// schedule checks a cron expression.
func (v *validator) schedule(s, zone string, key keyPath) {
	if _, err := parseSchedule(s, zone); err != nil {
		v.addf(key, "%v", err)
	}
}

// parseSchedule refuses what the parser takes but no job can use: a zone in
// the expression (time_zone has it, and the parser panics on an empty one),
// dates that never come, and intervals that it would round up to a second.
func parseSchedule(s, zone string) (cron.Schedule, error) {
	if strings.HasPrefix(s, "TZ=") || strings.HasPrefix(s, "CRON_TZ=") {
		return nil, fmt.Errorf("%q: the time zone goes into time_zone", s)
	}
	schedule, err := cron.ParseStandard(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a schedule, such as \"*/15 * * * *\" (minute hour day month weekday) or \"@every 1h\": %w", s, err)
	}
	if every, ok := strings.CutPrefix(s, "@every "); ok {
		if d, err := time.ParseDuration(every); err != nil || d < time.Second {
			return nil, fmt.Errorf("%q is less than a second", s)
		}
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		loc = time.UTC
	}
	if schedule.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, loc)).IsZero() {
		return nil, fmt.Errorf("%q never comes", s)
	}
	return schedule, nil
}

// intervals are the shortest and the longest time between two runs of a
// schedule: of a week of runs each minute, of a decade of monthly ones. They
// are counted in UTC, where no day is an hour longer than others.
func intervals(s, zone string) (shortest, longest time.Duration, ok bool) {
	schedule, err := parseSchedule(s, zone)
	if s == "" || err != nil {
		return 0, 0, false
	}
	const most = 12000
	at := schedule.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	end := at.AddDate(10, 0, 0)
	for i := 0; i < most && at.Before(end); i++ {
		next := schedule.Next(at)
		if next.IsZero() {
			break
		}
		gap := next.Sub(at)
		if i == 0 || gap < shortest {
			shortest = gap
		}
		longest = max(longest, gap)
		at = next
	}
	return shortest, longest, longest > 0
}
