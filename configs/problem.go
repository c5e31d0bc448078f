package configs

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Severity is what follows from a Problem.
type Severity int

const (
	// Invalid: the configuration cannot be used, and is refused.
	Invalid Severity = iota
	// Unfit: it is refused, though snapshots could be taken with it. One that an
	// earlier version of the program took is taken all the same; see
	// LoadOptions.Forgive.
	Unfit
	// Degrading: it is taken, and a daemon that uses it calls itself degraded.
	Degrading
	// Advice: it is taken; a person should know.
	Advice
)

// Problem is a mistake, or what a person should know, with its place.
type Problem struct {
	Severity     Severity
	File         string
	Line, Column int    // from 1; 0 for the file as a whole
	Key          string // such as environments.web.schedule; empty for syntax
	Msg          string
	Quote        string // the line, with a mark below; empty where it may hold a secret
	Unset        string // the environment variable that is missing, if it is that
}

// Unset are the environment variables whose absence is the only reason why a
// configuration did not load; none where it has other problems. Another process may have them.
func Unset(err error) (names []string) {
	var all []error
	for ; err != nil; err = errors.Unwrap(err) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			all = joined.Unwrap()
			break
		}
	}
	all = slices.DeleteFunc(slices.Clone(all), func(err error) bool {
		p, ok := err.(*Problem)
		return ok && p.Severity > Unfit // it refuses nothing
	})
	keys := map[string]bool{}
	for _, err := range all {
		if p, ok := err.(*Problem); ok && p.Unset != "" && !keys[p.Key] {
			keys[p.Key], names = true, append(names, p.Unset)
		}
	}
	for _, err := range all {
		// Without its variable a value may be wrong in other ways.
		if p, ok := err.(*Problem); !ok || !keys[p.Key] {
			return nil
		}
	}
	return names
}

func (p *Problem) Error() string {
	s := p.File + ": "
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	}
	if p.Key != "" {
		s += p.Key + ": "
	}
	s += p.Msg
	if p.Quote != "" {
		s += "\n" + p.Quote
	}
	return s
}

// Degrades reports whether a daemon whose configuration has the problem is
// degraded.
func (p *Problem) Degrades() bool { return p.Severity == Unfit || p.Severity == Degrading }

// keyPath names a value: keys of mappings, and indexes of lists in decimal.
type keyPath []string

// child is a key below, in memory of its own.
func (k keyPath) child(names ...string) keyPath { return append(slices.Clone(k), names...) }

// item is an entry of a list below.
func (k keyPath) item(i int) keyPath { return k.child(fmt.Sprint(i)) }

// isWithin reports whether a key is another, or lies below it.
func (k keyPath) isWithin(other keyPath) bool {
	return len(k) >= len(other) && slices.Equal(k[:len(other)], other)
}

func (k keyPath) String() string { return strings.Join(k, ".") }

// Findings is where a Judge puts what it finds.
type Findings struct {
	problems *problems
	mistakes []keyPath // of the values in which a mistake was found before
}

// Add adds a problem of the value that a key names; without a key, of the file
// as a whole. The text is what is wrong and what to write instead, without secrets. What
// may only follow from a mistake that was found before is passed over.
func (f Findings) Add(severity Severity, key []string, format string, args ...any) {
	for _, mistake := range f.mistakes {
		if slices.Equal(mistake, key) || severity == Invalid && len(key) > 0 && mistake.isWithin(key) {
			return
		}
	}
	f.problems.add(severity, key, format, args...)
}

// problems gathers what is wrong with a configuration.
type problems struct {
	doc   *document
	found []*Problem
	// mistaken are values that are wrong, and incomplete are mappings and lists that
	// lack something for that reason, or because a key is mistyped: more problems
	// of these may only follow from what was found already.
	mistaken, incomplete []keyPath
	invalid              []keyPath // values that the validator found invalid
}

// follows reports whether a problem of a value may only follow from another one.
func (p *problems) follows(severity Severity, key keyPath) bool {
	if len(key) == 0 {
		return false
	}
	if slices.ContainsFunc(p.mistaken, key.isWithin) {
		return true
	}
	return slices.ContainsFunc(p.incomplete, func(above keyPath) bool {
		if len(above) > 0 && (slices.Equal(key, above) || severity > Unfit && slices.Equal(key[:len(key)-1], above)) {
			return true
		}
		return key.isWithin(above) && len(key) > len(above) && !p.doc.has(key[:len(above)+1])
	})
}

// addf adds a mistake in the value that a key names.
func (p *problems) addf(key keyPath, format string, args ...any) {
	p.add(Invalid, key, format, args...)
}

// add adds a problem of the value that a key names; without a key, of the file
// as a whole. It returns nil for one that is passed over; see follows.
func (p *problems) add(severity Severity, key keyPath, format string, args ...any) *Problem {
	if p.follows(severity, key) {
		return nil
	}
	problem := &Problem{Severity: severity, File: p.doc.file, Key: key.String(), Msg: shortened(fmt.Sprintf(format, args...), maxMessage)}
	if len(key) > 0 {
		problem.Line, problem.Column = p.doc.position(key)
		p.doc.locate(problem)
	}
	if severity > Unfit {
		problem.Quote = "" // it is one line of a log
	}
	p.found = append(p.found, problem)
	if severity == Invalid {
		p.invalid = append(p.invalid, slices.Clone(key))
	}
	return problem
}

// take removes the problems of some severities, and returns them.
func (p *problems) take(which ...Severity) (taken []*Problem) {
	p.found = slices.DeleteFunc(p.found, func(problem *Problem) bool {
		if slices.Contains(which, problem.Severity) {
			taken = append(taken, problem)
			return true
		}
		return false
	})
	return taken
}

// addKeyf adds a mistake in a key itself.
func (p *problems) addKeyf(key keyPath, format string, args ...any) {
	line, column := p.doc.keyPosition(key)
	p.addAt(line, column, key, format, args...)
}

// addAt adds a problem at a line and a column.
func (p *problems) addAt(line, column int, key keyPath, format string, args ...any) {
	problem := &Problem{Line: line, Column: column, Key: key.String(), Msg: shortened(fmt.Sprintf(format, args...), maxMessage)}
	p.doc.locate(problem)
	p.found = append(p.found, problem)
}

func sortByPlace(found []*Problem) {
	slices.SortStableFunc(found, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key))
	})
}

// err joins the problems in the order of their places.
func (p *problems) err() error {
	sortByPlace(p.found)
	errs := make([]error, len(p.found))
	for i, problem := range p.found {
		errs[i] = problem
	}
	return errors.Join(errs...)
}
