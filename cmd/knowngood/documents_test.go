package main

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/pflag"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/session"
	"knowngood/configs"
	"knowngood/daemon/validation"
)

// guides are the documents whose commands people type.
var guides = []string{"README.md", "docs/OPERATIONS.md"}

func document(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks are the fenced blocks of a language.
func blocks(text, language string) (out []string) {
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

var shellWord = regexp.MustCompile(`(?:[^\s'"]|'[^']*'|"[^"]*")+`)

// commands are the calls of the program in a guide, in blocks and in the text.
func commands(text string) (out [][]string) {
	var lines []string
	for _, b := range blocks(text, "sh") {
		lines = append(lines, strings.Split(b, "\n")...)
	}
	for _, m := range regexp.MustCompile("`(knowngood [^`]+)`").FindAllStringSubmatch(text, -1) {
		lines = append(lines, m[1])
	}
	for _, line := range lines {
		out = append(out, callsOf(line)...)
	}
	return out
}

// callsOf are the calls of the program in a line of a shell.
func callsOf(line string) (out [][]string) {
	var call []string // nil: of another program
	first := true
	for _, word := range append(shellWord.FindAllString(line, -1), ";") {
		comment := strings.HasPrefix(word, "#")
		end := comment || strings.HasSuffix(word, ";") || strings.HasSuffix(word, ")") || word == "|" || word == "&&"
		text := strings.Trim(word, `;)'"|&`)
		switch {
		case first && strings.TrimLeft(text, "<(") == "knowngood":
			call = []string{}
		case call != nil && !comment && text != "":
			call = append(call, text)
		}
		opens := word == "source" || strings.Contains(word, "=") && call == nil // what comes before a command
		if first = end || first && opens; end && call != nil {
			out = append(out, call)
			call = nil
		}
		if comment {
			break
		}
	}
	return out
}

// validCall reports what is wrong with a call, except arguments that are left
// out.
func validCall(words []string) error {
	root := newRoot(session.New(console.New(io.Discard, io.Discard), version))
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(words)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == pflag.ErrHelp {
		err = nil
	}
	if err == nil && cmd.HasSubCommands() && len(words) > 0 && cmd.Name() == words[len(words)-1] && cmd.Parent() != nil {
		return nil // named as a group
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err != nil && strings.Contains(err.Error(), "an argument is missing") {
		return nil
	}
	return err
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	t.Run("commands and flags in the guides exist", testCommandsAndFlagsInTheGuidesExist)
	t.Run("each alert has a section that describes what to do", testEachAlertHasASectionThatDescribesWhatToDo)
	t.Run("texts of the log that the guide explains exist", testTextsOfTheLogThatTheGuideExplainsExist)
	t.Run("metrics in the guide and in alerts exist", testMetricsInTheGuideAndInAlertsExist)
	t.Run("links of the documents lead somewhere", testLinksOfTheDocumentsLeadSomewhere)
}

func TestDocumentsSequentially(t *testing.T) {
	t.Run("configurations in the guides are valid", testConfigurationsInTheGuidesAreValid)
	t.Run("the sample has no warning but of what is not there yet", testTheSampleHasNoWarningButOfWhatIsNotThereYet)
}

func testCommandsAndFlagsInTheGuidesExist(t *testing.T) {
	t.Parallel()
	for name, atLeast := range map[string]int{"README.md": 20, "docs/OPERATIONS.md": 20, "docs/RECOVERY.md": 15} {
		calls := commands(document(t, name))
		if len(calls) < atLeast {
			t.Errorf("%s: only %d commands were found in it", name, len(calls))
		}
		for _, words := range calls {
			if err := validCall(words); err != nil {
				t.Errorf("%s: knowngood %s: %v", name, strings.Join(words, " "), err)
			}
		}
	}
}

// Not parallel: it sets variables.
func testConfigurationsInTheGuidesAreValid(t *testing.T) {
	for _, name := range guides {
		text := document(t, name)
		for _, m := range regexp.MustCompile(`\$\{(\w+)\}`).FindAllStringSubmatch(text, -1) {
			t.Setenv(m[1], "value-of-"+m[1])
		}
		found := blocks(text, "yaml")
		if len(found) == 0 {
			t.Errorf("%s: no configuration was found in it", name)
		}
		for _, b := range found {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := validation.Load(path, validation.Options{}); err != nil {
				t.Errorf("%s: %v\n%s", name, err, b)
			}
			if c, err := configs.Parse(path, []byte(b), configs.LoadOptions{Advise: true}); err == nil && len(c.Findings) > 0 {
				t.Errorf("%s: warnings of %v\n%s", name, c.Findings, b)
			}
		}
	}
}

// Not parallel: it sets variables.
func testTheSampleHasNoWarningButOfWhatIsNotThereYet(t *testing.T) {
	for _, name := range []string{"CHAT_HOOK", "MAIL_PASSWORD", "PING_ID"} {
		t.Setenv(name, "value-of-"+name)
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(document(t, "configs/sample.yaml")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := validation.Load(path, validation.Options{Advise: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Findings {
		if !strings.Contains(p.Msg, "does not exist") && !strings.Contains(p.Msg, "has no effect yet") {
			t.Errorf("a warning: %v", p)
		}
	}
}

func testEachAlertHasASectionThatDescribesWhatToDo(t *testing.T) {
	t.Parallel()
	names := func(file, pattern string) (out []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(document(t, file), -1) {
			out = append(out, m[1])
		}
		return out
	}
	rules := names("configs/prometheus/knowngood.rules.yml", `(?m)^ *- alert: (\w+)$`)
	sections := names("docs/OPERATIONS.md", `(?m)^### (Knowngood\w+)$`)
	if len(rules) == 0 || !slices.Equal(rules, sections) {
		t.Errorf("the rules are %v\nthe sections are %v", rules, sections)
	}
}

func testTextsOfTheLogThatTheGuideExplainsExist(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			var b []byte
			b, err = os.ReadFile(path)
			sources.Write(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(document(t, "docs/OPERATIONS.md"), "\n## Lines of the log\n")
	table, _, _ = strings.Cut(table, "\n## ")
	tried := 0
	for _, row := range regexp.MustCompile(`(?m)^\| (`+"`"+`[^|]*) \|`).FindAllStringSubmatch(table, -1) {
		for _, text := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			for part := range strings.SplitSeq(text[1], "…") {
				if tried++; !strings.Contains(sources.String(), strings.Trim(part, " :,")) {
					t.Errorf("nothing says %q", part)
				}
			}
		}
	}
	if tried < 30 {
		t.Errorf("only %d texts were found", tried)
	}
}

func testMetricsInTheGuideAndInAlertsExist(t *testing.T) {
	t.Parallel()
	exported := map[string]bool{}
	for _, m := range regexp.MustCompile(`desc\("(\w+)"`).FindAllStringSubmatch(document(t, "daemon/web/metrics.go"), -1) {
		exported["knowngood_"+m[1]] = true
	}
	for _, file := range []string{"docs/OPERATIONS.md", "docs/API.md", "configs/prometheus/knowngood.rules.yml"} {
		for _, name := range regexp.MustCompile(`\bknowngood_[a-z_]+[a-z]\b`).FindAllString(document(t, file), -1) {
			if !exported[name] {
				t.Errorf("%s names %s, which is not exported", file, name)
			}
		}
	}
}

func testLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	t.Parallel()
	anchors := func(text string) map[string]bool {
		out := map[string]bool{"": true}
		for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
			out[strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
					return unicode.ToLower(r)
				}
				return -1
			}, m[1])] = true
		}
		return out
	}
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../../README.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`).FindAllStringSubmatch(string(b), -1) {
			target, text := file, b
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(file), m[1])
				if st, serr := os.Stat(target); serr == nil && st.IsDir() {
					continue
				}
				if text, err = os.ReadFile(target); err != nil {
					t.Errorf("%s: %v", filepath.Base(file), err)
					continue
				}
			}
			if !anchors(string(text))[m[2]] {
				t.Errorf("%s: there is no section #%s in %s", filepath.Base(file), m[2], filepath.Base(target))
			}
		}
	}
}
