package console

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
)

// Problems reports what is wrong with paths. People see the first problem of
// each cause at once, for a few causes, and the rest at the end, grouped by
// cause; no line twice. --json has each problem, as it comes. Memory does not grow with the
// number of problems. It is safe for concurrent use.
type Problems struct {
	out    *Console
	before string // what a line on standard error begins with
	quiet  bool   // show nothing before the end

	mu     sync.Mutex
	causes map[string]*cause
	count  uint64
	shown  uint64
	others uint64 // of causes beyond maxCauses
}

// cause is a group of problems that differ only in what they concern.
type cause struct {
	text  string
	count uint64
	shown *problem  // at once; nil for none
	first []problem // in the order of paths
}

type problem struct{ path, text string }

const (
	// atOnce is how many causes are shown while a command runs.
	atOnce = 5
	// firstPaths is how many paths are named of a cause.
	firstPaths = 3
	// maxCauses is how many causes are distinguished, and shownCauses how many of
	// them are shown.
	maxCauses   = 1000
	shownCauses = 20
)

// Problems returns an empty list of problems.
func (c *Console) Problems() *Problems {
	return &Problems{out: c, before: "knowngood: ", causes: map[string]*cause{}}
}

// Add reports a problem with a path of a manifest.
func (l *Problems) Add(path string, err error) {
	if l.out.JSON {
		l.out.Result(struct {
			Type string `json:"type"`
			ProblemJSON
		}{"problem", ProblemJSON{JSONPath(path), err.Error()}})
	}
	l.note(printable.Name("/"+path), printable.Error(err), CauseOf(path, err))
}

// AddError reports a problem that concerns no path.
func (l *Problems) AddError(err error) {
	l.out.Result(map[string]any{"type": "problem", "error": err.Error()})
	l.note("", printable.Error(err), CauseOf("", err))
}

// PrintErrors prints errors that concern no path, grouped by cause, each with
// before in front.
func PrintErrors[E error](out *Console, before string, errs []E) {
	l := out.Problems()
	l.before, l.quiet = before, true
	for _, err := range errs {
		l.note("", printable.Error(err), CauseOf("", err))
	}
	l.End()
}

func (l *Problems) note(path, text, group string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	c := l.causes[group]
	if c == nil && len(l.causes) == maxCauses {
		l.others++
		return
	}
	if c == nil {
		c = &cause{text: group}
		l.causes[group] = c
		if !l.quiet && len(l.causes) <= atOnce {
			l.shown++
			c.shown = &problem{strings.Clone(path), text}
			l.line(*c.shown)
		}
	}
	c.count++

	// One more than is named: a single further path is named, too.
	p := problem{strings.Clone(path), text}
	at := slices.IndexFunc(c.first, func(x problem) bool { return manifest.Compare(x.path, path) > 0 })
	if at < 0 {
		at = len(c.first)
	}
	if at <= firstPaths {
		c.first = slices.Insert(c.first, at, p)
		c.first = c.first[:min(len(c.first), firstPaths+1)]
	}
}

func (l *Problems) line(p problem) {
	if p.path != "" {
		p.path += ": "
	}
	fmt.Fprintf(l.out.Stderr, "%s%s%s\n", l.before, p.path, p.text)
}

// End shows the problems that were not shown at once, by cause, the most frequent
// first.
func (l *Problems) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shown == l.count {
		return
	}
	defer func() { l.shown = l.count }()

	causes := make([]*cause, 0, len(l.causes))
	for _, c := range l.causes {
		causes = append(causes, c)
	}
	slices.SortFunc(causes, func(a, b *cause) int {
		return cmp.Or(cmp.Compare(b.count, a.count), manifest.Compare(a.first[0].path, b.first[0].path), cmp.Compare(a.text, b.text))
	})

	others := l.others
	for i, c := range causes {
		rest := c.count
		if c.shown != nil {
			rest--
		}
		if i >= shownCauses {
			others += rest
			continue
		}
		named := c.first
		if c.count > firstPaths+1 {
			named = named[:firstPaths]
		}
		shown := c.shown
		for _, p := range named {
			if shown != nil && p == *shown {
				shown = nil // a second one of the same text is another problem
				continue
			}
			l.line(p)
			rest--
		}
		if rest > 0 {
			fmt.Fprintf(l.out.Stderr, "%sand %s more: %s\n", l.before, human.Count(rest), c.text)
		}
	}
	if others > 0 {
		fmt.Fprintf(l.out.Stderr, "%sand %s more of other causes: --json lists all\n", l.before, human.Count(others))
	}
}

// Count is how many problems were added.
func (l *Problems) Count() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// CauseOf is what an error has in common with those of the same cause: its text
// without the path and without the object of the repository that it concerns.
func CauseOf(path string, err error) string {
	text := printable.Error(err)
	if damage := (*authentic.DamageError)(nil); errors.As(err, &damage) && damage.Key != "" {
		text = strings.ReplaceAll(text, damage.Key, "…")
	}
	if path != "" {
		text = strings.ReplaceAll(text, fmt.Sprintf("%q", "/"+path), "…")
		text = withoutWord(text, "/"+path)
	}
	return text
}

// withoutWord is a text with … where a path stands by itself, or with an
// extension: the path must not be a part of another.
func withoutWord(text, path string) string {
	const before, after = " (:", " ):;,."
	for from := 0; ; {
		i := strings.Index(text[from:], path)
		if i < 0 {
			return text
		}
		i += from
		end := i + len(path)
		if (i == 0 || strings.IndexByte(before, text[i-1]) >= 0) && (end == len(text) || strings.IndexByte(after, text[end]) >= 0) {
			text = text[:i] + "…" + text[end:]
			end = i + len("…")
		}
		from = end
	}
}
