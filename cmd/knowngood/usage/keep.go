package usage

import (
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"knowngood/configs"
	"knowngood/snapshot/retention"
)

// Keep are flags that state a retention policy.
type Keep struct {
	Policy retention.Policy // complete after Read
	within string
}

// Add adds the flags. Help lists all flags of the command in the order in which
// they are added, because the alphabet would put days before hours.
func (k *Keep) Add(f *pflag.FlagSet) {
	f.SortFlags = false
	f.Var(Count{&k.Policy.Last}, "keep-last", "keep the newest `N`")
	f.Var(Count{&k.Policy.Hourly}, "keep-hourly", "keep the newest of each of `N` hours that have any")
	f.Var(Count{&k.Policy.Daily}, "keep-daily", "the same for `N` days")
	f.Var(Count{&k.Policy.Weekly}, "keep-weekly", "the same for `N` weeks, which begin on Monday")
	f.Var(Count{&k.Policy.Monthly}, "keep-monthly", "the same for `N` months")
	f.Var(Count{&k.Policy.Yearly}, "keep-yearly", "the same for `N` years")
	f.Var(Count{&k.Policy.KnownGood}, "keep-known-good", "keep the newest `N` that a drill proved to restore")
	f.StringVar(&k.within, "keep-within", "", "keep all not older than the newest by this `duration`, such as 7d")
}

// Given reports whether any rule was given.
func (k *Keep) Given(f *pflag.FlagSet) bool {
	return slices.ContainsFunc([]string{"last", "hourly", "daily", "weekly", "monthly", "yearly", "known-good", "within"}, func(name string) bool { return f.Changed("keep-" + name) })
}

// Read completes the policy.
func (k *Keep) Read() error {
	if k.within != "" {
		d, err := configs.ParseDuration(k.within)
		if err != nil {
			return Errorf("--keep-within: %w", err)
		}
		k.Policy.Within = time.Duration(d)
	}
	return nil
}

// Count is a flag of a whole number, which is read as those of configurations
// are.
type Count struct{ Value *int }

func (d Count) String() string {
	if d.Value == nil || *d.Value <= 0 { // help names no default
		return "0"
	}
	return strconv.Itoa(*d.Value)
}

func (d Count) Set(text string) error {
	n, err := configs.ParseCount(text)
	*d.Value = int(n)
	return err
}

func (d Count) Type() string { return "int" }
