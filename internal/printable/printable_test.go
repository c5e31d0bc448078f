package printable

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// hostile has what commands a terminal, hides a text or turns it round.
var hostile = map[string]struct{ text, line string }{
	"plain text":             {"naïve 文書.txt", "naïve 文書.txt"},
	"an escape sequence":     {"a\x1b[2Jb", `a\x1b[2Jb`},
	"a bell and a backspace": {"a\a\bb", `a\x07\x08b`},
	"a return":               {"good\rbad", `good\rbad`},
	"a line feed":            {"a\nb", `a\nb`},
	"a tab":                  {"a\tb", "a b"},
	"DEL":                    {"a\x7fb", `a\x7fb`},
	"C1 as UTF-8":            {"a\u009b2Jb", `a\u009b2Jb`},
	"C1 as a byte":           {"a\x9b2Jb", `a\x9b2Jb`},
	"a bidirectional text":   {"invoice\u202efdp.exe", `invoice\u202efdp.exe`},
	"an isolate":             {"a\u2066b\u2069", `a\u2066b\u2069`},
	"zero width":             {"pay\u200bpal\u2060\ufeff", `pay\u200bpal\u2060\ufeff`},
	"a soft hyphen":          {"a\u00adb", `a\u00adb`},
	"a tag":                  {"a\U000e0041b", `a\U000e0041b`},
	"line separators":        {"a\u2028b\u2029c", `a\u2028b\u2029c`},
	"a strange space":        {"a\u00a0b", "a\u00a0b"},
	"bytes that are no text": {"a\xff\xc3b", `a\xff\xc3b`},
	"a surrogate":            {"a\xed\xa0\x80b", `a\xed\xa0\x80b`},
	"the replacement":        {"a\ufffdb", "a\ufffdb"},
}

func TestTexts(t *testing.T) {
	for name, test := range hostile {
		t.Run("with "+name, func(t *testing.T) {
			if got := Line(test.text); got != test.line {
				t.Errorf("as a line %q, want %q", got, test.line)
			}
			want := test.line
			switch test.text {
			case "a\nb", "a\tb":
				want = test.text
			}
			if got := Text(test.text); got != want {
				t.Errorf("as a text %q, want %q", got, want)
			}
			var b bytes.Buffer
			if n, err := fmt.Fprint(Writer{&b}, test.text); n != len(test.text) || err != nil || b.String() != want {
				t.Errorf("the writer writes %q, %d, %v", b.String(), n, err)
			}
			quoted := test.text != test.line || strings.Contains(test.text, "\u00a0")
			if got := Name(test.text); quoted != (got != test.text) {
				t.Errorf("as a name %q", got)
			}
			if got := Variable(test.text); strings.Count(got, "\\") > 0 || strings.Count(got, "\n") != strings.Count(test.text, "\n") {
				t.Errorf("as a variable %q", got)
			}
			if got := Columns(test.text); utf8.RuneCountInString(got) != utf8.RuneCountInString(test.text) {
				t.Errorf("in columns %q", got)
			}
		})
	}
}

func FuzzText(f *testing.F) {
	for _, test := range hostile {
		f.Add(test.text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{Line(s), Text(s), Name(s), Columns(s), Variable(s)} {
			if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
				return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || !unicode.IsGraphic(r))
			}) {
				t.Errorf("%q is made %q", s, got)
			}
		}
		if Text(Text(s)) != Text(s) || Line(Line(s)) != Line(s) {
			t.Errorf("%q changes when it is made printable twice", s)
		}
	})
}

func TestJSON(t *testing.T) {
	t.Run("keeps its values", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			value := map[string]string{rapid.String().Draw(t, "key"): rapid.String().Draw(t, "value") + "\u202e\x1b\u009b\U000e0041\x7f"}
			b, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			safe := JSON(b)
			var got, want map[string]string
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(safe, &got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%s is read as %q, %v", safe, got, err)
			}
			if Text(string(safe)) != string(safe) {
				t.Fatalf("%q", safe)
			}
		})
	})
}
