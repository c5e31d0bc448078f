package configs

import (
	"testing"
	"time"
)

func TestAPolicyInWordsNamesEachOfItsRules(t *testing.T) {
	t.Parallel()
	for want, k := range map[string]Keep{
		"":                   {},
		"24 hourly, 7 daily": {Hourly: 24, Daily: 7},
		"the last 3, 1 hourly, 2 daily, 3 weekly, 4 monthly, 5 yearly, 6 known good, all within 2d of the newest": {
			Last: 3, Hourly: 1, Daily: 2, Weekly: 3, Monthly: 4, Yearly: 5, KnownGood: 6, Within: Duration(48 * time.Hour),
		},
	} {
		if got := k.String(); got != want {
			t.Errorf("%+v is %q, want %q", k, got, want)
		}
	}
}
