package manifest

import (
	"slices"
	"sort"
	"strings"
)

// At returns the position of the segment that the entry of a path would be in.
func (t *Table) At(path string) int {
	return max(0, t.after(0, func(first string) bool { return Compare(first, path) > 0 })-1)
}

// after returns the position of the first segment from i on whose first path is
// beyond something, or the number of segments.
func (t *Table) after(i int, beyond func(first string) bool) int {
	return i + sort.Search(len(t.Segments)-i, func(k int) bool { return beyond(t.Segments[i+k].First) })
}

// end returns a path that no entry of the i-th segment reaches; false when it is
// the last one.
func (t *Table) end(i int) (string, bool) {
	if i+1 == len(t.Segments) {
		return "", false
	}
	return t.Segments[i+1].First, true
}

// Below returns the positions of the segments that may have entries at and below a
// path; "" is all.
func (t *Table) Below(path string) []int {
	from := t.At(path)
	to := t.after(from, func(first string) bool { return Compare(first, path) > 0 && !Within(first, path) })
	return positions(from, to)
}

func positions(from, to int) []int {
	out := make([]int, to-from)
	for i := range out {
		out[i] = from + i
	}
	return out
}

// Children returns the positions of the segments that may have the entry of a
// directory, or entries right in it. Those that lie within one of its
// subdirectories are jumped over.
func (t *Table) Children(dir string) []int {
	return slices.DeleteFunc(t.Below(dir), func(i int) bool {
		child, below := childOf(t.Segments[i].First, dir)
		end, ok := t.end(i)
		return below && ok && Within(end, child)
	})
}

// AtOrIn reports whether path is dir or lies right in it.
func AtOrIn(path, dir string) bool {
	_, below := childOf(path, dir)
	return Within(path, dir) && !below
}

// childOf returns the path right in dir that another path lies below; false when
// it lies below none.
func childOf(path, dir string) (child string, below bool) {
	if path == dir || !Within(path, dir) {
		return "", false
	}
	start := len(dir)
	if dir != "" {
		start++
	}
	i := strings.IndexByte(path[start:], '/')
	if i < 0 {
		return "", false
	}
	return path[:start+i], true
}

// Different returns the positions of the segments of two tables of one domain that
// may show a difference at and below a path. Segments that both have are equal,
// and are left out unless they may hold entries that are Incomplete: such entries
// count as different whatever they hold. A table names them among its problems.
func Different(a, b *Table, path string) (inA, inB []int) {
	inA, inB = a.Below(path), b.Below(path)
	problems := a.Problems
	if len(b.Problems) < len(problems) {
		problems = b.Problems
	}
	if len(problems) == MaxProblems {
		return inA, inB // there may have been more
	}

	both := make(map[[32]byte]bool, len(inB))
	for _, i := range inB {
		both[b.Segments[i].ID] = false
	}
	equal := func(t *Table, i int) bool { return both[t.Segments[i].ID] }
	for _, i := range inA {
		if _, ok := both[a.Segments[i].ID]; ok {
			both[a.Segments[i].ID] = !a.hasProblem(i, problems)
		}
	}
	return slices.DeleteFunc(inA, func(i int) bool { return equal(a, i) }), slices.DeleteFunc(inB, func(i int) bool { return equal(b, i) })
}

// hasProblem reports whether one of the problems is that of a path that the i-th
// segment may hold.
func (t *Table) hasProblem(i int, problems []Problem) bool {
	at := sort.Search(len(problems), func(k int) bool { return Compare(problems[k].Path, t.Segments[i].First) >= 0 })
	if at == len(problems) {
		return false
	}
	end, ok := t.end(i)
	return !ok || Compare(problems[at].Path, end) < 0
}
