package filter

import (
	"errors"
	"strings"
)

// maxAlternatives bounds what one pattern may stand for.
const maxAlternatives = 1024

var errUnclosed = errors.New("a brace is not closed")

// expand writes the alternatives of a pattern out. Matching them in place would
// take time that is exponential in their number.
func expand(p string) ([]string, error) {
	open, end, commas, err := firstBraces(p)
	if err != nil || open < 0 {
		return []string{p}, err
	}
	var out []string
	from := open + 1
	for _, to := range append(commas, end) {
		rest, err := expand(p[:open] + p[from:to] + p[end+1:])
		if err != nil {
			return nil, err
		}
		if out = append(out, rest...); len(out) > maxAlternatives {
			return nil, errors.New("its braces stand for more than 1024 patterns")
		}
		from = to + 1
	}
	return out, nil
}

// firstBraces finds the first brace, its end, and the commas that part its
// alternatives; open is -1 when there is none.
func firstBraces(p string) (open, end int, commas []int, err error) {
	open = -1
	depth := 0
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '[':
			i = classEnd(p, i)
		case '{':
			if depth++; depth == 1 {
				open = i
			}
		case ',':
			if depth == 1 {
				commas = append(commas, i)
			}
		case '}':
			if depth == 0 {
				continue // by itself, which no pattern may have
			}
			if depth--; depth == 0 {
				return open, i, commas, nil
			}
		}
	}
	if depth > 0 {
		return open, 0, nil, errUnclosed
	}
	return -1, 0, nil, nil
}

// classEnd is where the class that begins at i ends, or i when it does not.
func classEnd(p string, i int) int {
	for j := i + 1; j < len(p); j++ {
		switch {
		case p[j] == '\\':
			j++
		case p[j] == ']' && j > i+1 && !(j == i+2 && strings.IndexByte("!^", p[i+1]) >= 0):
			return j
		}
	}
	return i
}
