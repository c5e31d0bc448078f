package schedule

import (
	"slices"
	"strconv"
	"strings"
)

// sunday is the second number of Sunday in crontab(5), which the parser refuses.
const sunday = 7

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// sundays rewrites the weekdays of an expression of five fields, so that Sunday is
// only 0: 7 is 0, and 5-7 is 5,6,0.
func sundays(expr string) string {
	fields := strings.Fields(expr)
	if len(fields) != 5 {
		return expr
	}
	list := strings.Split(fields[4], ",")
	for i, part := range list {
		list[i] = withoutSeven(part)
	}
	fields[4] = strings.Join(list, ",")
	return strings.Join(fields, " ")
}

// withoutSeven rewrites a weekday or a range that ends with 7. Whatever else it is
// given, mistakes included, it returns as it is.
func withoutSeven(part string) string {
	span, by, stepped := strings.Cut(part, "/")
	from, to, ranged := strings.Cut(span, "-")
	if !ranged {
		to = from
	}
	first, ok := weekday(from)
	if last, known := weekday(to); !ok || !known || last != sunday {
		return part
	}
	step := 1
	if stepped {
		var err error
		if step, err = strconv.Atoi(by); err != nil || step < 1 {
			return part
		}
	}

	var days []string
	for day := first; day <= sunday; day += min(step, sunday) {
		days = append(days, strconv.Itoa(day%sunday))
	}
	return strings.Join(days, ",")
}

// weekday is the number of a weekday, from 0 to 7.
func weekday(text string) (int, bool) {
	if i := slices.Index(weekdays, strings.ToLower(text)); i >= 0 {
		return i, true
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0 && n <= sunday
}
