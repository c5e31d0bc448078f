package configs

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// maxTypos is how many edits a key may be away from what was meant.
const maxTypos = 2

// hint guesses what was meant by a key that a struct does not have: one of its
// own that is written much like it, or one that belongs elsewhere.
func hint(name string, t reflect.Type) string {
	if near := nearest(name, slices.Sorted(maps.Keys(fieldTypes(t)))); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	at, ok := places()[name]
	switch {
	case !ok:
		return ""
	case at[0] == "":
		return " here: it belongs to the outermost level"
	}
	return " here: it belongs below " + strings.Join(at, " or ")
}

// nearest is the key that differs least from s, or "" when none is near.
func nearest(s string, keys []string) string {
	best, least := "", min(maxTypos, len(s)-2)+1
	for _, k := range keys {
		d := distance(s, k)
		if plain(s) == plain(k) {
			d = 0 // maxFileSize, max-file-size
		}
		if d < least {
			best, least = k, d
		}
	}
	return best
}

// plain is a key without what distinguishes the styles of writing keys.
func plain(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance is the number of edits between two strings, a swap of neighbours
// counted as one (optimal string alignment); of a string too long to be any
// key, more than ever counts.
func distance(a, b string) int {
	if len(a) > len(b)+maxTypos {
		return maxTypos + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, row[j]+1, last[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
