package schedule

import (
	"testing"
	"time"
)

func FuzzParseAndNext(f *testing.F) {
	for _, s := range []string{"*/15 * * * *", "@every 1h", "@daily", "TZ=", "CRON_TZ=X", "0 0 30 2 *", "0 0 29 2 *", "@every -1h", ", * * * *", "59 23 31 12 ?", "*/7 1-3 */2 jan-mar 5", "0 4 * * 5-7/2,sun", "@every 1w2d"} {
		f.Add(s, "Australia/Lord_Howe", int64(1_775_000_000))
	}
	f.Add("0 0 29 2 *", "Europe/Berlin", int64(3_982_000_000))
	f.Add("15 4 * * *", "Pacific/Apia", int64(1_325_000_000))
	f.Fuzz(func(t *testing.T, expr, zone string, unix int64) {
		if len(expr) > 100 {
			return
		}
		s, err := Parse(expr, zone)
		if err != nil {
			return
		}
		const years = 365 * 24 * 60 * 60
		at := time.Unix(unix%(500*years), 0)
		for range 5 {
			next := s.Next(at)
			switch {
			case !next.After(at):
				t.Fatalf("%q in %q: after %s comes %s", expr, zone, at, next)
			case s.every == 0 && next.Sub(at) > 9*years*time.Second:
				t.Fatalf("%q in %q: after %s it takes until %s", expr, zone, at, next)
			case !s.Next(next.Add(-time.Second)).Equal(next):
				t.Fatalf("%q in %q: %s is not what comes after a second before", expr, zone, next)
			}
			at = next
		}
	})
}

func BenchmarkNext(b *testing.B) {
	for _, expr := range []string{"*/15 * * * *", "0 4 * * *", "0 0 29 2 *", "@every 1h"} {
		b.Run(expr, func(b *testing.B) {
			s, at := parse(b, expr, "Europe/Berlin"), time.Date(2097, 1, 1, 0, 0, 0, 0, time.UTC)
			for b.Loop() {
				s.Next(at)
			}
		})
	}
}

func BenchmarkRefuse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse("* * 31 2,4,6,9,11 *", "Europe/Berlin"); err == nil {
			b.Fatal("taken")
		}
	}
}
