package notify

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"knowngood/configs"
)

// checked is what Check finds, each with its key.
func checked(cfg configs.Notify) (found []string) {
	Check(cfg, func(key []string, format string, args ...any) {
		found = append(found, strings.Join(key, ".")+": "+fmt.Sprintf(format, args...))
	})
	return found
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"a template must work for every kind of message": aTemplateMustMakeABodyOfEveryKindOfMessage,
		"headers must be valid in HTTP":                  headersMustBeThoseOfHTTP,
		"the samples have every kind of message":         theSamplesHaveEveryKindOfMessage,
	} {
		t.Run(name, test)
	}
}

func aTemplateMustMakeABodyOfEveryKindOfMessage(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{
		`{{.Txt}}`:           "kind failure: line 1: .Txt: there is no field Txt; ",
		`{{.Run.Error}}`:     "line 1: .Run.Error: the message has none (not every message has a Run: write {{with .Run}}…{{end}})",
		`{{index .Kind 99}}`: "index out of range",
		`{{if eq .Kind "rpo-met"}}{{.Run.Error}}{{end}}`: "of the kind rpo-met",
		`{{if eq .Kind "test"}}{{.Nope}}{{end}}`:         "of the kind test",
		`{{if .Tampering}}{{slice .Text 900}}{{end}}`:    "of the kind damage",
		`{{template "other"}}`:                           `"other"`,
	} {
		found := checked(configs.Notify{Webhook: []configs.Webhook{{URL: "http://localhost/" + secretPath}, {URL: "http://localhost/" + secretPath, Template: template}}})
		if len(found) != 1 || !strings.HasPrefix(found[0], "webhook.1.template: it makes nothing of a message of the kind ") || !strings.Contains(found[0], want) {
			t.Errorf("%s: %q", template, found)
			continue
		}
		noSecret(t, found[0])
	}
	for _, template := range []string{"", "{{.Text}}", `{"text": {{json .Text}}, "run": {{json .Run}}}`, `{{with .Run}}{{.Error}} {{.Snapshot}}{{end}}{{.Since}}{{.AgeSeconds}}`} {
		if found := checked(configs.Notify{Webhook: []configs.Webhook{{URL: "http://localhost/", Template: template}}}); len(found) > 0 {
			t.Errorf("%s: %q", template, found)
		}
	}
}

func headersMustBeThoseOfHTTP(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, value, want string }{
		{"X-Token", "a b\tc ü", ""},
		{"X Token", "x", `"X Token" is not the name of an HTTP header: use letters`},
		{"X-Token:", "x", `"X-Token:" is not the name`},
		{"", "x", `"" is not the name`},
		{"Schlüssel", "x", "is not the name"},
		{"Authorization", "Bearer " + secretHeader + "\n", "has a line break"},
		{"Authorization", secretHeader + "\r\nX-Evil: 1", "has a line break"},
		{"X", "a\x00b", "another control character"},
		{"host", "a b", "is not a host"},
		{"Host", "example.com:8443", ""},
	} {
		found := checked(configs.Notify{Webhook: []configs.Webhook{{URL: "http://localhost/", Headers: map[string]string{c.name: c.value}}}})
		switch {
		case c.want == "" && len(found) > 0:
			t.Errorf("%q: %q is refused: %q", c.name, c.value, found)
		case c.want != "" && (len(found) != 1 || !strings.HasPrefix(found[0], "webhook.0.headers."+c.name+": ") || !strings.Contains(found[0], c.want)):
			t.Errorf("%q: %q: %q", c.name, c.value, found)
		case c.want != "":
			noSecret(t, found[0])
		}
	}
}

func theSamplesHaveEveryKindOfMessage(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("message.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`(?m)^\t\w+ +Kind = "([a-z-]+)"$`).FindAllStringSubmatch(string(source), -1)
	if len(kinds) < 8 {
		t.Fatalf("only %d kinds were found", len(kinds))
	}
	told := samples()
	for _, k := range kinds {
		if !slices.ContainsFunc(told, func(m Message) bool { return string(m.Kind) == k[1] }) {
			t.Errorf("there is no sample of the kind %s", k[1])
		}
	}
	if !slices.ContainsFunc(told, func(m Message) bool { return m.Kind == Recovery && m.Run == nil }) {
		t.Error("there is no sample of a daemon that works again, which has no run")
	}
}
