package report

import (
	"fmt"
	"slices"
	"strings"
)

// MaxError is how many bytes of an error, and of all reasons together, are kept
// on disk.
const MaxError = 2000

// Shorten is text, or its first n bytes and a mark.
func Shorten(text string, n int) string {
	if len(text) > n {
		return strings.ToValidUTF8(text[:n], "") + "…"
	}
	return text
}

// BoundReasons are the first of the reasons, MaxError bytes at most, and how many
// more there are.
func BoundReasons(reasons []string) []string {
	size := 0
	for i, r := range reasons {
		if size += len(r); size > MaxError {
			return append(slices.Clone(reasons[:i]), fmt.Sprintf("and %d more", len(reasons)-i))
		}
	}
	return reasons
}
