package main

import (
	"strconv"
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

// add adds the flags. Help lists all flags of the command in the order in which
// they are added, because the alphabet would put days before hours.
func (k *keepFlags) add(f *pflag.FlagSet) {
	f.SortFlags = false
	f.Var(decimal{&k.policy.Last}, "keep-last", "keep the newest `N`")
	f.Var(decimal{&k.policy.Hourly}, "keep-hourly", "keep the newest of each of `N` hours that have any")
	f.Var(decimal{&k.policy.Daily}, "keep-daily", "the same for `N` days")
	f.Var(decimal{&k.policy.Weekly}, "keep-weekly", "the same for `N` weeks, which begin on Monday")
	f.Var(decimal{&k.policy.Monthly}, "keep-monthly", "the same for `N` months")
	f.Var(decimal{&k.policy.Yearly}, "keep-yearly", "the same for `N` years")
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
	if k.within != "" {
		d, err := configs.ParseDuration(k.within)
		if err != nil {
			return usagef("--keep-within: %w", err)
		}
		k.policy.Within = time.Duration(d)
	}
	return nil
}

// decimal is a flag of a whole number, which is read as those of configurations
// are.
type decimal struct{ value *int }

func (d decimal) String() string {
	if d.value == nil || *d.value <= 0 { // help names no default
		return "0"
	}
	return strconv.Itoa(*d.value)
}

func (d decimal) Set(text string) error {
	n, err := configs.ParseCount(text)
	*d.value = int(n)
	return err
}

func (d decimal) Type() string { return "int" }
