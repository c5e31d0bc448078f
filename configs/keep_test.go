package configs

import (
	"testing"
	"time"

	"knowngood/snapshot/retention"
)

func TestKeep(t *testing.T) {
	t.Parallel()

	t.Run("a policy is what the configuration has", func(t *testing.T) {
		t.Parallel()
		got := Keep{Last: 1, Hourly: 2, Daily: 3, Weekly: 4, Monthly: 5, Yearly: 6, Within: Duration(time.Hour), KnownGood: 7}.Policy()
		if want := (retention.Policy{Last: 1, Hourly: 2, Daily: 3, Weekly: 4, Monthly: 5, Yearly: 6, Within: time.Hour, KnownGood: 7}); got != want {
			t.Errorf("%+v", got)
		}
		if got.Empty() || !(Keep{}).Policy().Empty() || (retention.Policy{Within: 1}).Empty() || (retention.Policy{KnownGood: 1}).Empty() {
			t.Error("a policy with rules is empty, or one without is not")
		}
	})
}
