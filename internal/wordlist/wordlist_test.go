// Package wordlist keeps words out of the documents and comments that readers
// stumbled over: a private dialect for what the field has common words for. Each
// word has its reason. The words that one thing is called by are in the glossary
// of docs/ARCHITECTURE.md.
package wordlist

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// rule is a word that is not to be used, with what to write instead.
type rule struct {
	pattern string // not case-sensitive
	instead string
	bad     string // a text that it must find
	good    string // one that it must not
}

// patterns are those of the rules, which many texts are searched for.
var patterns = sync.OnceValue(func() (out []*regexp.Regexp) {
	for _, r := range rules {
		out = append(out, regexp.MustCompile(`(?i)`+strings.ReplaceAll(r.pattern, " ", ` +`)))
	}
	return out
})

var rules = []rule{
	{`\b(tell|tells|told|telling)\b`, `"report", "print", "publish", "notify", "distinguish"`, "the user is told of it", "it is reported to the user"},
	{`\b(say|says|saying)\b`, `"report", "print", "return", "state"`, "the error says why", "the error has the reason"},
	{`\bmend(s|ed|ing)?\b`, `"fix"`, "mend the cause", "fix the cause, or amend it"},
	{`\bheed(s|ed|ing)?\b`, `"read", "respect", "apply"`, "captures heed the deletions", "captures read the deletions"},
	{`\b(let|lets|letting) go\b`, `"release", "drop", "expire"`, "it lets go of the lock", "it releases the lock"},
	{`\blook(s|ed|ing)? (again|anew)\b`, `"revalidate", "read again"`, "the daemon looks again", "the daemon reads it again"},
	{`\banew\b`, `"again"`, "the cycle begins anew", "a new cycle begins again"},
	{`\balone\b`, `"only"; for what is left alone, "unchanged"`, "the standard library alone", "only the standard library"},
	{`[,;:] for (it|they|he|this|that|there|then|nobody|nothing|otherwise)\b`, `"because"`, "it is refused, for it would grow", "for this reason it is refused, for example"},
	{`\bbut for\b`, `"except"`, "all files but for sockets", "but forget it"},
	{`\bamiss\b`, `"wrong"`, "what is amiss", "what is wrong"},
	{`\b(doom|dooms|doomed|fate)\b`, `"plan", "deletion", "state"`, "the fate of a pack", "the state of a pack"},
	{`\boutweigh(s|ed|ing)?\b`, `"take precedence over"`, "the flag outweighs the file", "the flag takes precedence"},
	{`\b(make|makes|made|making) good\b`, `"make up for"`, "the daemon makes good for a day", "it makes up for a day with a good run"},
	{`\bhurt(s|ing)?\b`, `"affect", "damage"`, "the files that damage hurts", "the files that damage affects"},
	{`\bof late\b`, `"recent", "recently"`, "growth of late", "recent growth of latency"},
	{`\bword of (a|the) host\b`, `"claim"`, "that is the word of the host", "that is a claim of the host"},
}

// documents are those that are clean already.
var documents = []string{
	"README.md", "docs/API.md", "docs/ARCHITECTURE.md", "docs/OPERATIONS.md", "docs/PERFORMANCE.md", "docs/RECOVERY.md", "docs/SECURITY.md",
}

// found is a word in a text, and the line that it is in, from 1.
type found struct {
	line    int
	word    string
	instead string
}

// search returns what the rules find. A word at the end of a line and one at the
// beginning of the next are neighbours.
func search(text string) (out []found) {
	text = strings.ReplaceAll(text, "\n", " \n")
	flat := strings.ReplaceAll(text, " \n", "  ")
	flat = strings.ReplaceAll(flat, "//", "  ")
	for i, r := range rules {
		for _, at := range patterns()[i].FindAllStringIndex(flat, -1) {
			out = append(out, found{1 + strings.Count(text[:at[0]], "\n"), strings.Join(strings.Fields(flat[at[0]:at[1]]), " "), r.instead})
		}
	}
	return out
}

// code is what a document quotes: blocks, and spans in the text. The program's
// own output is in these.
var code = []*regexp.Regexp{
	regexp.MustCompile("(?ms)^```.*?^```"),
	regexp.MustCompile(`(?m)^\n(    .*\n)+`), // after an empty line: else it continues a list
	regexp.MustCompile("`[^`]*`"),
}

// prose is the text of a document with blanks in place of code.
func prose(document string) string {
	blank := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r == '\n' {
				return r
			}
			return ' '
		}, s)
	}
	for _, c := range code {
		document = c.ReplaceAllStringFunc(document, blank)
	}
	return document
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWords(t *testing.T) {
	t.Run("each rule finds what it should, and nothing else", func(t *testing.T) {
		for _, r := range rules {
			if len(search(r.bad)) == 0 {
				t.Errorf("%s does not find %q", r.pattern, r.bad)
			}
			for _, f := range search(r.good) {
				t.Errorf("%q is found in %q", f.word, r.good)
			}
		}
	})

	t.Run("words are found across lines, and not in code", func(t *testing.T) {
		got := search(prose("# A\n\n- it looks\n  again, `told`\n\n```\nsays\n```\n\n    mends\n    it\n\n  - The\n    End is told.\n"))
		if len(got) != 2 || got[0].line != 14 || got[0].word != "told" || got[1].line != 3 || got[1].word != "looks again" {
			t.Errorf("found %v", got)
		}
	})

	t.Run("documents", func(t *testing.T) {
		for _, name := range documents {
			for _, f := range search(prose(read(t, name))) {
				t.Errorf("%s:%d: %q: write %s", name, f.line, f.word, f.instead)
			}
		}
	})

	t.Run("comments", func(t *testing.T) {
		files := 0
		err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "wordlist": // whose rules have the words
				return fs.SkipDir
			case filepath.Ext(name) == ".go":
				comments(t, name)
				files++
			}
			return nil
		})
		if err != nil || files < 500 {
			t.Fatalf("%d Go files were read: %v", files, err)
		}
	})
}

// comments checks those of a Go file.
func comments(t *testing.T, name string) {
	t.Helper()
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, name, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range parsed.Comments {
		var text strings.Builder
		for _, c := range group.List {
			text.WriteString(c.Text + "\n")
		}
		first := files.Position(group.Pos())
		for _, f := range search(text.String()) {
			t.Errorf("%s:%d: %q: write %s", first.Filename, first.Line+f.line-1, f.word, f.instead)
		}
	}
}
