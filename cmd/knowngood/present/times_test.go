package present

import (
	"math"
	"testing"
	"time"

	"knowngood/snapshot/manifest"
)

func TestTimesInText(t *testing.T) {
	t.Parallel()
	for want, at := range map[string]manifest.Time{
		"1970-01-01T00:00:00Z":            {},
		"2026-11-28T12:00:00.123456789Z":  {Sec: 1795867200, Nsec: 123456789},
		"9999-12-31T23:59:59.999999999Z":  {Sec: 253402300799, Nsec: 999999999},
		"+10000-01-01T00:00:00Z":          {Sec: 253402300800},
		"0000-01-01T00:00:00Z":            {Sec: -62167219200},
		"-0001-12-31T23:59:59Z":           {Sec: -62167219201},
		"+36534630048-05-13T13:56:16Z":    {Sec: 1 << 60},
		"@1152921504606846977.000000005":  {Sec: 1<<60 + 1, Nsec: 5},
		"@9223372036854775807.999999999":  {Sec: math.MaxInt64, Nsec: 999999999},
		"@-9223372036854775808.000000000": {Sec: math.MinInt64},
	} {
		if got := timeText(at, time.UTC, time.RFC3339Nano); got != want {
			t.Errorf("%+v is %s, want %s", at, got, want)
		}
		b, err := timeJSON(at).MarshalJSON()
		if err != nil || string(b) != `"`+want+`"` {
			t.Errorf("%+v is %s in JSON: %v", at, b, err)
		}
	}
}
