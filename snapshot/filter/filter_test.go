package filter_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"knowngood/snapshot/filter"
)

func compile(t testing.TB, source string, include, exclude []string) *filter.Rules {
	t.Helper()
	r, err := filter.Compile(source, include, exclude)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFilter(t *testing.T) {
	t.Run("the last pattern that matches a path or a directory above decides", theLastPatternThatMatchesAPathOrADirectoryAboveDecides)
	t.Run("include patterns select and exclude patterns take out", includePatternsSelectAndExcludePatternsTakeOut)
	t.Run("patterns that cannot mean anything are refused", patternsThatCannotMeanAnythingAreRefused)
	t.Run("nil rules include everything", nilRulesIncludeEverything)
	t.Run("nothing below an excluded directory is meant", nothingBelowAnExcludedDirectoryIsMeant)
	t.Run("patterns of several sources in one inside", patternsOfSeveralSourcesInOneInside)
}

func theLastPatternThatMatchesAPathOrADirectoryAboveDecides(t *testing.T) {
	const in, out, parent = filter.Include, filter.Exclude, filter.Parent
	tests := []struct {
		name     string
		patterns string // separated by |
		want     map[string]filter.Decision
	}{
		{"a name matches at any depth", "x.tmp", map[string]filter.Decision{"x.tmp": out, "a/b/x.tmp": out, "x.tmpl": in, "ax.tmp": in, "x.tmp/a": out}},
		{"a suffix", "*.tmp", map[string]filter.Decision{"a.tmp": out, ".tmp": out, "a/b.tmp": out, "a.tmp/b": out, "a.tmpx": in}},
		{"a prefix", "core.*", map[string]filter.Decision{"core.1": out, "a/core.": out, "score.1": in}},
		{"a star alone", "*", map[string]filter.Decision{"a": out, "a/b": out, "": in}},
		{"a trailing slash means directories", "cache/", map[string]filter.Decision{"cache/": out, "a/cache/": out, "cache": in, "cache/x": out, "a/cache/x": out}},
		{"a slash inside anchors", "a/b", map[string]filter.Decision{"a/b": out, "x/a/b": in, "a/b/c": out, "a": in, "a/bc": in}},
		{"a leading slash anchors", "/a", map[string]filter.Decision{"a": out, "x/a": in, "a/x": out}},
		{"a leading slash with a wildcard anchors", "/*.o", map[string]filter.Decision{"x.o": out, "a/x.o": in}},
		{"an absolute path below the source", "/srv/web/a", map[string]filter.Decision{"a": out, "srv/web/a": in}},
		{"an absolute path elsewhere is taken from the top", "/srv/webs/a", map[string]filter.Decision{"srv/webs/a": out, "a": in, "s/a": in}},
		{"a star does not match a slash", "a/*/c", map[string]filter.Decision{"a/b/c": out, "a/b/b/c": in, "a/c": in}},
		{"two stars match any number of directories", "a/**/c", map[string]filter.Decision{"a/c": out, "a/b/c": out, "a/b/b/c": out, "x/a/c": in}},
		{"two stars at the end spare the directory", "a/**", map[string]filter.Decision{"a/": in, "a/b": out, "a/b/c": out, "b": in}},
		{"two stars at the end, anchored", "/a/**", map[string]filter.Decision{"a/": in, "a/b": out}},
		{"two stars at the end mean directories with a slash", "a/**/", map[string]filter.Decision{"a/": in, "a/b": in, "a/b/": out, "a/b/c": out}},
		{"all below the top", "/**", map[string]filter.Decision{"": in, "a": out, "a/b": out}},
		{"two stars before a name", "**/a", map[string]filter.Decision{"a": out, "b/a": out, "b/c/a": out}},
		{"two stars before a path", "**/a/b", map[string]filter.Decision{"a/b": out, "x/a/b": out, "a/x/b": in}},
		{"classes and alternatives", "*.[oa]|*.{x,yy}", map[string]filter.Decision{"a.o": out, "a.a": out, "a.b": in, "a.x": out, "a.yy": out}},
		{"alternatives are patterns of their own", `{a,b/c,d{1,,2}}|[{]x|\{y,z\}`, map[string]filter.Decision{
			"a": out, "x/a": out, "b/c": out, "x/b/c": in, "d": out, "d1": out, "x/d2": out, "d3": in, "{x": out, "{y,z}": out}},
		{"escaped characters stand for themselves", `\*|\!x|a\[1\]`, map[string]filter.Decision{"*": out, "a": in, "!x": out, "a[1]": out, "a1": in}},
		{"an exclamation mark takes back", "*.log|!keep.log", map[string]filter.Decision{"a.log": out, "keep.log": in, "d/keep.log": in, "a.log/": parent}},
		{"order counts", "!keep.log|*.log", map[string]filter.Decision{"keep.log": out, "a.log/": out}},
		{"something below an excluded directory is taken back", "cache|!cache/keep", map[string]filter.Decision{
			"cache/": parent, "cache/x": out, "cache/keep": in, "cache/keep/": in, "cache/keep/x": in, "cache/y/": out, "d/cache/": out, "cache": out}},
		{"taken back with wildcards", "/a/*|!/a/b*/c", map[string]filter.Decision{"a/": in, "a/b1/": parent, "a/x/": out, "a/b1/c": in, "a/b1/d": out, "a/b1/d/": out}},
		{"taken back at any depth", "/a|!/a/**/k", map[string]filter.Decision{"a/": parent, "a/b/": parent, "a/b/c/": parent, "a/b/k": in, "a/b/x": out, "b/": in}},
		{"left out again", "a|!a/b|a/b/c", map[string]filter.Decision{"a/": parent, "a/b/": in, "a/b/c": out, "a/b/d": in}},
		{"bytes that are not UTF-8 are told apart", "\xff*x?|l\xfe", map[string]filter.Decision{"\xff1x\xfd": out, "\xfe1x2": in, "\ufffd1x2": in, "l\xfe": out, "l\xff": in}},
		{"newlines and spaces are characters", "a b\n*| x ", map[string]filter.Decision{"a b\nc": out, " x ": out, "x": in}},
		{"one character beyond ASCII", "?.é", map[string]filter.Decision{"ü.é": out, "üü.é": in, "\xff.é": out}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := compile(t, "/srv/web", nil, strings.Split(test.patterns, "|"))
			for p, want := range test.want {
				rel, isDir := strings.CutSuffix(p, "/")
				if got := r.Match(rel, isDir || rel == ""); got != want {
					t.Errorf("%q: %v, not %v", p, got, want)
				}
			}
		})
	}
}

func includePatternsSelectAndExcludePatternsTakeOut(t *testing.T) {
	r := compile(t, "/", []string{"/srv/web/html", "*.conf"}, []string{"*.bak", "/srv/web/html/tmp/"})
	for p, want := range map[string]filter.Decision{
		"":                    filter.Parent,
		"srv/":                filter.Parent,
		"srv/web/":            filter.Parent,
		"srv/web/html/":       filter.Include,
		"srv/web/html/a/b":    filter.Include,
		"srv/web/html/a.bak":  filter.Exclude,
		"srv/web/html/tmp/":   filter.Exclude,
		"srv/web/html/tmp/a":  filter.Exclude,
		"etc/x.conf":          filter.Include,
		"etc/x.conf/sub/file": filter.Include,
		"etc/x":               filter.Exclude,
		"etc/":                filter.Parent,
	} {
		rel, isDir := strings.CutSuffix(p, "/")
		if got := r.Match(rel, isDir || rel == ""); got != want {
			t.Errorf("%q: %v, not %v", p, got, want)
		}
	}
	only := compile(t, "/", []string{"/srv/web"}, nil)
	for p, want := range map[string]filter.Decision{"srv": filter.Parent, "srv/db": filter.Exclude, "etc": filter.Exclude, "srv/web": filter.Include} {
		if got := only.Match(p, true); got != want {
			t.Errorf("only /srv/web: %q: %v, not %v", p, got, want)
		}
	}
}

func patternsThatCannotMeanAnythingAreRefused(t *testing.T) {
	for _, p := range []string{"", "!", "/", "!/", "a//b", "a/./b", "../a", ".", "[a", "{a", "{,a}", strings.Repeat("{a,b}", 20), `a\`, "/srv/web", "/srv/web/", "!/srv/web"} {
		if _, err := filter.Compile("/srv/web", nil, []string{p}); err == nil {
			t.Errorf("%q is accepted", p)
		} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", p)) {
			t.Errorf("%q is not named: %v", p, err)
		}
	}
	if _, err := filter.Compile("/srv/web", []string{"!a"}, nil); err == nil {
		t.Error("an include pattern with ! is accepted")
	}
	if _, err := filter.Compile("srv/web", nil, nil); err == nil {
		t.Error("a relative source is accepted")
	}
}

func nilRulesIncludeEverything(t *testing.T) {
	var r *filter.Rules
	if r.Match("a/b", true) != filter.Include || r.Match("", true) != filter.Include {
		t.Error("nil excludes")
	}
}

// The promise on which a walk relies: what lies below an excluded directory is
// excluded, so the directory need not be read; and a walk by Step decides as
// Match does.
func nothingBelowAnExcludedDirectoryIsMeant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.SampledFrom([]string{"a", "b", "ab", "*", "**", "a*", "*b", "?", "[ab]", "{a,b}", "{a,a/b}"})
		pattern := rapid.Custom(func(t *rapid.T) string {
			p := strings.Join(rapid.SliceOfN(part, 1, 4).Draw(t, "parts"), "/")
			return rapid.SampledFrom([]string{"", "!"}).Draw(t, "not") + rapid.SampledFrom([]string{"", "/"}).Draw(t, "anchor") + p + rapid.SampledFrom([]string{"", "/"}).Draw(t, "dir")
		})
		patterns := rapid.SliceOfN(pattern, 1, 5).Draw(t, "patterns")
		r, err := filter.Compile("/", nil, patterns)
		if err != nil {
			t.Skip(err)
		}
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab", "c"}), 1, 5).Draw(t, "names")
		excluded, state := false, filter.State(0)
		for i := range names {
			rel := strings.Join(names[:i+1], "/")
			isDir := i < len(names)-1
			var d filter.Decision
			state, d = r.Step(state, rel, isDir)
			if m := r.Match(rel, isDir); m != d {
				t.Fatalf("%q: Match says %v, Step %v", rel, m, d)
			}
			if excluded && d != filter.Exclude {
				t.Fatalf("%q is %v below an excluded directory", rel, d)
			}
			excluded = excluded || d == filter.Exclude
		}
	})
}

func FuzzCompileAndMatch(f *testing.F) {
	f.Add("a/**/b", "a/x/b")
	f.Add("!{a,b}/[^c]", "\xff/c")
	f.Fuzz(func(t *testing.T, pattern, rel string) {
		r, err := filter.Compile("/", nil, []string{pattern})
		if err != nil {
			return
		}
		r.Match(rel, true)
		r.Match(rel, false)
	})
}

func BenchmarkMatch(b *testing.B) {
	r := compile(b, "/srv", nil, []string{"*.tmp", "*.o", "node_modules/", "/web/cache/**", "*~", "core.*", ".git", "**/target/debug", "!keep.tmp"})
	b.Run("step", func(b *testing.B) {
		for b.Loop() {
			r.Step(0, "web/html/images/header-large.png", false)
		}
	})
	b.Run("match", func(b *testing.B) {
		for b.Loop() {
			r.Match("web/html/images/header-large.png", false)
		}
	})
}

func patternsOfSeveralSourcesInOneInside(t *testing.T) {
	t.Parallel()
	sources := []string{"/a", "/a/b/", "/a/b/c", "/x/b"}
	for _, test := range []struct {
		source, patterns, want string
	}{
		{"/a", "b/h *.tmp", "b/h *.tmp"},
		{"/a/b", "b/h *.tmp", "b/h /h *.tmp"},
		{"/a/b", "!b/h/i b/ b b/** */h ?/**/h c/h", "!b/h/i !/h/i b/ b b/** /** */h /h ?/**/h /**/h c/h"},
		{"/a/b", "{b,c}/h", "{b,c}/h /h"},
		{"/a/b/c", "b/c/h c/h c/", "b/c/h /h c/h /h c/"},
		{"/a/b", "/b/h /a/b/h /a/h", "/b/h /h /a/b/h /a/h"},
		{"/a/b", "b/{h", "b/{h"},
		{"/x/b", "b/h", "b/h"},
	} {
		if got := strings.Join(filter.Inner(test.source, sources, strings.Fields(test.patterns)), " "); got != test.want {
			t.Errorf("%s in %s: %s, want %s", test.patterns, test.source, got, test.want)
		}
	}
}
