package configs

import (
	"fmt"
	"strings"
)

// String is the policy in words, such as "24 hourly, 7 daily"; empty when it has
// no rule.
func (k Keep) String() string {
	var rules []string
	for _, rule := range []struct {
		n    Count
		text string
	}{
		{k.Last, "the last %d"}, {k.Hourly, "%d hourly"}, {k.Daily, "%d daily"}, {k.Weekly, "%d weekly"},
		{k.Monthly, "%d monthly"}, {k.Yearly, "%d yearly"}, {k.KnownGood, "%d known good"},
	} {
		if rule.n > 0 {
			rules = append(rules, fmt.Sprintf(rule.text, rule.n))
		}
	}
	if k.Within > 0 {
		within, _ := k.Within.MarshalYAML() // never fails
		rules = append(rules, fmt.Sprintf("all within %s of the newest", within))
	}
	return strings.Join(rules, ", ")
}
