package main

import (
	"time"

	"github.com/spf13/pflag"

	"knowngood/configs"
	"knowngood/snapshot/retention"
)

// keepFlags state a retention policy.
type keepFlags struct {
	policy retention.Policy
	within string
}

func (k *keepFlags) add(f *pflag.FlagSet) {
	f.IntVar(&k.policy.Last, "keep-last", 0, "keep the newest `N`")
	f.IntVar(&k.policy.Hourly, "keep-hourly", 0, "keep the newest of each of `N` hours that have any")
	f.IntVar(&k.policy.Daily, "keep-daily", 0, "the same for `N` days")
	f.IntVar(&k.policy.Weekly, "keep-weekly", 0, "the same for `N` weeks, which begin on Monday")
	f.IntVar(&k.policy.Monthly, "keep-monthly", 0, "the same for `N` months")
	f.IntVar(&k.policy.Yearly, "keep-yearly", 0, "the same for `N` years")
	f.StringVar(&k.within, "keep-within", "", "keep all not older than the newest by this `duration`, such as 7d")
}

// given tells whether any rule was.
func (k *keepFlags) given(f *pflag.FlagSet) bool {
	for _, name := range []string{"last", "hourly", "daily", "weekly", "monthly", "yearly", "within"} {
		if f.Changed("keep-" + name) {
			return true
		}
	}
	return false
}

// read completes the policy.
func (k *keepFlags) read() error {
	p := &k.policy
	if min(p.Last, p.Hourly, p.Daily, p.Weekly, p.Monthly, p.Yearly) < 0 {
		return usagef("a --keep rule cannot keep less than none")
	}
	if k.within != "" {
		d, err := configs.ParseDuration(k.within)
		if err != nil {
			return usagef("--keep-within: %w", err)
		}
		p.Within = time.Duration(d)
	}
	return nil
}
