// Package filter decides which paths of a tree are meant, by lists of patterns
// much like those of gitignore. It is pure.
//
// A list is read from top to bottom and the last pattern that matches a path,
// or a directory above it, decides; "!" before a pattern takes back what
// patterns before it left out.
//
//	*.tmp        a name, at any depth
//	cache/       only directories of that name
//	a/b, /a/b    with a slash that is not the last: from the top of the source
//	/srv/web/a   the same for the source /srv/web, as an absolute path
//	a/**         all below a, but not a itself
//	a/**/b       b at any depth below a
//	!keep.tmp    not this one
//	\!x, \*      the characters themselves
//
// "*" and "?" do not match a slash; [a-z] and [!a-z] are known too, and
// {one,other} stands for a pattern with each of the alternatives. A pattern that begins with a slash is an absolute path when it begins
// with the path of the source, and is taken from the top of the source
// otherwise. Case counts. Names are bytes; what is not UTF-8 matches itself,
// and "?" matches one such byte.
//
// Unlike git, a pattern with "!" reaches below a directory that was left out:
// such a directory is searched, which a pattern without "!" below it in the
// list avoids.
package filter

import (
	"fmt"
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Decision about one path.
type Decision uint8

const (
	// Include means that the path is meant.
	Include Decision = iota
	// Exclude means that it is not meant, nor is anything below it.
	Exclude
	// Parent means that a directory is not meant itself, but that something
	// below it may be.
	Parent
)

func (d Decision) String() string {
	switch d {
	case Include:
		return "include"
	case Exclude:
		return "exclude"
	case Parent:
		return "parent"
	}
	return fmt.Sprintf("decision-%d", uint8(d))
}

// Rules are compiled patterns. They never change, may be shared, and nil
// includes everything.
type Rules struct {
	rules    []rule
	selected bool // what no pattern matches is not meant

	include, exclude []string
}

// Patterns that the rules were compiled from. The caller must not change them.
func (r *Rules) Patterns() (include, exclude []string) {
	if r == nil {
		return nil, nil
	}
	return r.include, r.exclude
}

// Nothing is rules that include nothing.
func Nothing() *Rules { return &Rules{selected: true} }

// State of a directory: what decided about it, which goes for what is below as
// long as no later pattern matches there. The zero State is that of the top.
type State int32

// Compile makes the rules for the tree at the absolute path source. When
// there are include patterns, only what they match, and what is below that,
// is meant; exclude patterns then take out of it. Include patterns know no "!".
func Compile(source string, include, exclude []string) (*Rules, error) {
	if !path.IsAbs(source) {
		return nil, fmt.Errorf("source %q of patterns is not an absolute path", source)
	}
	r := &Rules{selected: len(include) > 0, include: include, exclude: exclude}
	for _, p := range include {
		if strings.HasPrefix(p, "!") {
			return nil, fmt.Errorf(`pattern %q: "!" has no meaning in a pattern that includes; exclude what is not wanted`, p)
		}
		if err := r.add(source, "!"+p); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	for _, p := range exclude {
		if err := r.add(source, p); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	return r, nil
}

func (r *Rules) add(source, pattern string) error {
	all, err := expand(pattern)
	if err != nil {
		return err
	}
	for _, p := range all {
		c, err := compile(source, p)
		if err != nil {
			return err
		}
		r.rules = append(r.rules, c)
	}
	return nil
}

// Match decides about a path relative to the source; "" is the source.
func (r *Rules) Match(rel string, isDir bool) Decision {
	if r == nil {
		return Include
	}
	if rel == "" {
		if r.selected {
			return Parent
		}
		return Include
	}
	state := State(0)
	for i := 0; i < len(rel); i++ {
		if rel[i] == '/' {
			state = r.decide(state, rel[:i], true)
		}
	}
	_, d := r.Step(state, rel, isDir)
	return d
}

// Step decides about a path below the source of which the directory's state is
// known, and gives the state for what is below it. It saves a walk from looking
// at the same directories again for each path.
func (r *Rules) Step(dir State, rel string, isDir bool) (State, Decision) {
	if r == nil {
		return 0, Include
	}
	s := r.decide(dir, rel, isDir)
	switch {
	case r.includes(s):
		return s, Include
	case isDir && r.mayIncludeBelow(s, rel):
		return s, Parent
	}
	return s, Exclude
}

// decide gives the position of the deciding rule, plus one.
func (r *Rules) decide(dir State, rel string, isDir bool) State {
	name := rel[strings.LastIndexByte(rel, '/')+1:]
	for i := len(r.rules) - 1; i >= int(dir); i-- {
		if r.rules[i].match(rel, name, isDir) {
			return State(i + 1)
		}
	}
	return dir
}

func (r *Rules) includes(s State) bool {
	if s == 0 {
		return !r.selected
	}
	return r.rules[s-1].include
}

func (r *Rules) mayIncludeBelow(s State, dir string) bool {
	for i := int(s); i < len(r.rules); i++ {
		if r.rules[i].include && r.rules[i].mayMatchBelow(dir) {
			return true
		}
	}
	return false
}

// form of a pattern: those that most patterns have are compared directly.
type form uint8

const (
	glob    form = iota
	literal      // text
	suffix       // * and text, in a name
	prefix       // text and *, in a name
	any          // *, in a name
)

type rule struct {
	include  bool
	dirOnly  bool
	anchored bool // against the whole path, not the name
	form     form
	text     string
	lead     string // of a glob: what it begins with for certain
}

// special characters of a pattern without alternatives.
const special = `*?[\`

func compile(source, p string) (rule, error) {
	var r rule
	if rest, ok := strings.CutPrefix(p, "!"); ok {
		r.include, p = true, rest
	}
	if rest, ok := strings.CutSuffix(p, "/"); ok {
		r.dirOnly, p = true, rest
	}
	if rest, ok := strings.CutPrefix(p, "/"); ok {
		r.anchored, p = true, rest
		if top := strings.Trim(path.Clean(source), "/"); top != "" {
			if p == top {
				return r, fmt.Errorf("it matches the source itself")
			}
			if rest, ok := strings.CutPrefix(p, top+"/"); ok {
				p = rest
			}
		}
	}
	if p == "" {
		return r, fmt.Errorf("it is empty")
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return r, fmt.Errorf("a path has no component %q", part)
		}
	}
	if !doublestar.ValidatePattern(p) {
		return r, fmt.Errorf("a bracket or backslash is not completed")
	}
	if rest, ok := strings.CutPrefix(p, "**/"); ok && !strings.Contains(rest, "/") && rest != "**" {
		r.anchored, p = false, rest
	} else if strings.Contains(p, "/") {
		r.anchored = true
	}
	if r.anchored && (p == "**" || strings.HasSuffix(p, "/**")) {
		p += "/*" // something below, not the directory itself
	}
	r.form, r.text = formOf(p, r.anchored)
	if r.form == glob {
		r.lead = p[:strings.IndexAny(p, special)]
	}
	return r, nil
}

func formOf(p string, anchored bool) (form, string) {
	plain := func(s string) bool { return !strings.ContainsAny(s, special) }
	switch {
	case plain(p):
		return literal, p
	case !anchored && strings.Trim(p, "*") == "":
		return any, ""
	case !anchored && p[0] == '*' && plain(p[1:]):
		return suffix, p[1:]
	case !anchored && p[len(p)-1] == '*' && plain(p[:len(p)-1]):
		return prefix, p[:len(p)-1]
	case !strings.ContainsAny(p, `*?[`):
		return literal, unescape(p)
	}
	return glob, escapeBytes(p)
}

// unescape removes backslashes.
func unescape(p string) string {
	b := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		if p[i] == '\\' && i+1 < len(p) {
			i++
		}
		b = append(b, p[i])
	}
	return string(b)
}

func (r *rule) match(rel, name string, isDir bool) bool {
	if r.dirOnly && !isDir {
		return false
	}
	s := name
	if r.anchored {
		s = rel
	}
	switch r.form {
	case literal:
		return s == r.text
	case suffix:
		return strings.HasSuffix(s, r.text)
	case prefix:
		return strings.HasPrefix(s, r.text)
	case any:
		return true
	}
	return strings.HasPrefix(s, r.lead) && doublestar.MatchUnvalidated(r.text, escapeBytes(s))
}

// mayMatchBelow reports whether a path below dir can match. It may be wrong in
// a yes.
func (r *rule) mayMatchBelow(dir string) bool {
	if !r.anchored {
		return true
	}
	if r.form == glob && strings.ContainsAny(r.text, `[\`) {
		return true // a slash in these parts nothing
	}
	pattern := r.text
	for part := range strings.SplitSeq(dir, "/") {
		head, rest, more := strings.Cut(pattern, "/")
		if head == "**" {
			return true
		}
		if !more {
			return false
		}
		if r.form == literal && head != part || r.form == glob && !doublestar.MatchUnvalidated(head, escapeBytes(part)) {
			return false
		}
		pattern = rest
	}
	return true
}
