// Package duration reads time spans as people write them: 90s, 2h30m, 30d, 1w2d.
// It is the one grammar of durations, in configurations, schedules and flags. It
// is pure.
package duration

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Longest is the longest duration, in whole days.
const Longest = "106751d"

// shape is how a duration is written, whether it is too long or not.
var shape = regexp.MustCompile(`^([0-9]+w)?([0-9]+d)?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*$`)

// Parse reads Go's form, with d for days of 24 hours and w for weeks. A negative
// duration is refused.
func Parse(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration, such as 90s, 15m, 2h30m, 30d or 2w", s)
	if shape.MatchString(s) {
		bad = fmt.Errorf("%q is too long: the most is %s (292 years)", s, Longest)
	}
	if s == "" {
		return 0, fmt.Errorf("nothing is not a duration: write one such as 90s, 15m or 30d")
	}
	if d, err := time.ParseDuration(s); err == nil {
		if d < 0 {
			return 0, bad
		}
		return d, nil
	}
	rest, total := s, time.Duration(0)
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		number, after, ok := strings.Cut(rest, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || float64(n)*float64(unit.size)+float64(total) >= math.MaxInt64 {
			return 0, bad
		}
		total += time.Duration(n) * unit.size
		rest = after
	}
	if rest == s {
		return 0, bad
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 || total+d < total {
			return 0, bad
		}
		total += d
	}
	return total, nil
}
