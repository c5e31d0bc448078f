package web

import (
	"regexp"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"knowngood/daemon/report"
)

// quantity is a number and its unit, twice where a duration has two.
var quantity = regexp.MustCompile(`\d (?:s|min|h|d|B|[KMGTPE]iB|%)\b(?: \d+ (?:min|h)\b)?`)

// unbroken is text of ours with no line break within a quantity. Text of others,
// such as an error, is shown as it is.
func unbroken(text string) string {
	return quantity.ReplaceAllStringFunc(text, func(q string) string { return strings.ReplaceAll(q, " ", "\u00a0") })
}

// span is a duration as the page shows it.
func span(d time.Duration) string { return unbroken(report.Span(d)) }

// size is a number of bytes as the page shows it.
func size(n uint64) string { return unbroken(humanize.IBytes(n)) }
