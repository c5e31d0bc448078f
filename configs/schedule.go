package configs

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// zone checks a time zone.
func (v *validator) zone(z string, key []any) {
	if _, err := time.LoadLocation(z); err != nil {
		v.addf(key, "%q is not a time zone, such as Europe/Berlin or UTC", z)
	}
}

// schedule checks a cron expression.
func (v *validator) schedule(s, zone string, key []any) {
	if _, err := parseSchedule(s, zone); err != nil {
		v.add(err.Error(), key...)
	}
}

// parseSchedule refuses what the parser takes but no job can use: a zone in
// the expression (time_zone has it, and the parser panics on an empty one),
// and dates that never come.
func parseSchedule(s, zone string) (cron.Schedule, error) {
	if strings.HasPrefix(s, "TZ=") || strings.HasPrefix(s, "CRON_TZ=") {
		return nil, fmt.Errorf("%q: the time zone goes into time_zone", s)
	}
	schedule, err := cron.ParseStandard(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a schedule, such as \"*/15 * * * *\" (minute hour day month weekday) or \"@every 1h\": %w", s, err)
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

// interval is the longest time between two of the next runs of a schedule.
func interval(s, zone string) (time.Duration, bool) {
	schedule, err := parseSchedule(s, zone)
	if s == "" || err != nil {
		return 0, false
	}
	var longest time.Duration
	at := schedule.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for range 200 {
		next := schedule.Next(at)
		longest = max(longest, next.Sub(at))
		at = next
	}
	return longest, true
}
