package configs

import (
	"strings"
	"testing"
	"time"

	"knowngood/internal/schedule"
)

// refused parses a text that must be refused and returns the error's text.
func refused(t *testing.T, text string) string {
	t.Helper()
	_, err := Parse("f", []byte(text), LoadOptions{Advise: true})
	if err == nil {
		t.Fatalf("loads: %s", text)
	}
	return err.Error()
}

func TestParse(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"errors quote the line and mark the column":         errorsQuoteTheLineAndMarkTheColumn,
		"an unknown key gets a suggestion":                  anUnknownKeyIsMetWithWhatWasMeant,
		"distance counts edits":                             distanceCountsEdits,
		"no error holds a secret":                           noErrorHoldsASecret,
		"text is not changed":                               textIsNotChangedOnTheWay,
		"aliases stand for what they name":                  aliasesStandForWhatTheyName,
		"an explicit zero is kept":                          zeroIsAChoiceWhereItIsGiven,
		"texts that would exhaust memory are refused early": textsMadeToExhaustAreRefusedSoon,
		"a panic of the YAML library is an error":           aPanicOfTheYAMLLibraryIsAnError,
		"warnings": warnings,
		"a mistake in the text is reported where it is":                              aMistakeOfTheTextIsToldWhereItIs,
		"all mistakes are reported at once, and none that only follows from another": allMistakesAreToldAtOnceAndNoneThatOnlyFollows,
	} {
		t.Run(name, test)
	}
}

func errorsQuoteTheLineAndMarkTheColumn(t *testing.T) {
	got := refused(t, "environments:\n  a:\n    shedule: '@daily'\n    sources: [{path: /a}]\n")
	want := "f:3:5: environments.a: unknown key \"shedule\": did you mean \"schedule\"?\n    3 | shedule: '@daily'"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got = refused(t, "environments:\r\n  a:\r\n    sources: [{path: a}]\r\n")
	want = "f:3:22: environments.a.sources.0.path: \"a\" is not an absolute path\n    3 | sources: [{path: a}]\n      |                  ^"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func anUnknownKeyIsMetWithWhatWasMeant(t *testing.T) {
	for text, want := range map[string]string{
		"sources: [{path: /a}]":                       `unknown key "sources" here: it belongs below environments.NAME`,
		"schedule: '@daily'":                          `belongs below check or drills[] or drills[].drift or environments.NAME or environments.NAME.drift or environments.NAME.drill`,
		"repository: {ulr: /b}":                       `did you mean "url"?`,
		"x: 1":                                        "unknown key \"x\"\n",
		"notify: {identity: /i}":                      `it belongs to the outermost level`,
		"environments: {a: {time-zone: UTC}}":         `did you mean "time_zone"?`,
		"environments: {a: {timeZone: UTC}}":          `did you mean "time_zone"?`,
		"environments: {a: {hooks: {onFailure: []}}}": `did you mean "on_failure"?`,
		"environments: {a: {sources: [{path: /a, maxFileSize: 1}]}}": `did you mean "max_file_size"?`,
		"environments: {a: {keep: {dayly: 1}}}":                      `did you mean "daily"?`,
		"zzzzzzzzzzzzzzzzzzzz: 1":                                    `unknown key "zzzzzzzzzzzzzzzzzzzz"`,
	} {
		if got := refused(t, text); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func distanceCountsEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"url", "url", 0}, {"ulr", "url", 1}, {"hots", "host", 1}, {"", "as", 2}, {"shedule", "schedule", 1}, {"dayly", "daily", 1}, {"keeps", "keep", 1}, {"abcd", "badc", 2}, {"tcp", "http", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func noErrorHoldsASecret(t *testing.T) {
	t.Setenv("KNOWNGOOD_TEST_SECRET", "hunter2")
	for _, text := range []string{
		"notify:\n  email:\n    password: hunter2\n    sever: x\n",
		"notify:\n  email:\n    sever: x\n    password: hunter2\n",
		"notify:\n  email: {password: hunter2, sever: x}\n",
		"notify: {email: {password: [hunter2]}}\n",
		"{notify: {email: {password: [hunter2]}}}\n",
		"notfy:\n  email:\n    password: hunter2\n",
		"\"notify\":\n  email:\n    password: hunter2: x\n",
		"notify:\n  email:\n    password: \"hunter2\n",
		"notify:\n  webhook:\n  - url: hunter2\n",
		"notify:\n  webhook:\n  - url: https://h/\n    headers:\n      A: b\n      A: hunter2\n",
		"notify:\n  webhook:\n  - url: https://h/\n    headers: {A: [hunter2]}\n",
		"notify:\n  ping: https:///hunter2\n",
		"notify:\n  ping: ${KNOWNGOOD_TEST_SECRET}\n",
		"notify:\n  email: {from: '${KNOWNGOOD_TEST_SECRET}', to: ['${KNOWNGOOD_TEST_SECRET}'], server: '${KNOWNGOOD_TEST_SECRET}'}\n",
		"environments:\n  a:\n    sources: [{path: /a}]\n    ping: ftp://h/hunter2\n",
		"environments:\n  a:\n    sources: [{path: /a}]\n    ping: https://h/${KNOWNGOOD_TEST_SECRET}\n    rpo: soon\n",
		"environments:\n  a:\n    ping:\n      https://h/hunter2: x\n",
		"environments:\n  a:\n    sources: [{path: /a}]\n    monitor: https://h/hunter2\n",
		"environments: {a: {pings: 'https://h/hunter2', sources: [{path: /a}]}}\n",
		"environments: {a: {ping: [hunter2], sources: [{path: /a}]}}\n",
		"repository: {url: 's3://k:hunter2@b', lok: {}}\n",
		"environments: {a: {sources: [{path: /a}], drill: {schedule: '@daily', probes: [{http: 'ftp://u:hunter2@h/'}]}}}\n",
	} {
		if got := refused(t, text); strings.Contains(got, "hunter2") {
			t.Errorf("%q is refused with\n%s", text, got)
		}
	}
}

func textIsNotChangedOnTheWay(t *testing.T) {
	for _, text := range []string{
		"notify: {email: {from: a@b.c, to: [d@e.f], server: 'h:25', user: u, password: 007}}",
		"host: 0x10",
		"host: true",
		"environments: {1: {sources: [{path: /a}]}}",
	} {
		if got := refused(t, text); !strings.Contains(got, "in quotes") {
			t.Errorf("%s: %s", text, got)
		}
	}
	c, err := Parse("f", []byte("host: '007'"), LoadOptions{Advise: true})
	if err != nil || c.Host != "007" {
		t.Errorf("host %v, %v", c, err)
	}
}

func aliasesStandForWhatTheyName(t *testing.T) {
	c, err := Parse("f", []byte("environments:\n  a: {jitter: &j 2m, rpo: *j, schedule: '@every 1m', sources: &s [{path: /a, exclude: &x ['*.o']}]}\n  b: {sources: *s}\n"), LoadOptions{Advise: true})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := c.Environments["a"], c.Environments["b"]; a.RPO != Duration(2*time.Minute) || b.Sources[0].Exclude[0] != "*.o" {
		t.Errorf("a %+v, b %+v", a, b)
	}
	for text, want := range map[string]string{
		"environments: {a: *nothing}":                            "not there",
		"environments: &e {a: *e}":                               "unknown key",
		"host: &h *h":                                            "",
		"environments: {a: &a {jitter: 1m}, b: {<<: *a}}":        "merge keys",
		"environments: {a: {jitter: &j 1m}, b: {jitter: &j 2m}}": "there already",
		"environments: {a: {sources: [{path: *.o}]}}":            "",
		"host: a\n\"host\": b":                                   "already",
		"environments:\n  a: {}\n  'a': {}":                      "already",
	} {
		if got := refused(t, text); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func zeroIsAChoiceWhereItIsGiven(t *testing.T) {
	c, err := Parse("f", []byte("environments:\n  a: {catch_up: 0s, sources: [{path: /a}]}\n  b.c: {sources: [{path: /a}]}\n  d: {catch_up: , sources: [{path: /a}]}\n"), LoadOptions{Advise: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Duration{"a": 0, "b.c": Duration(24 * time.Hour), "d": Duration(24 * time.Hour)} {
		if got := c.Environments[name].CatchUp; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	shown(t, c)
}

func textsMadeToExhaustAreRefusedSoon(t *testing.T) {
	wide := "environments:\n  a: {sources: [&p {path: /a, exclude: [" + strings.Repeat("a,", 1000) + "]}, " + strings.Repeat("*p, ", 5000) + "]}\n"
	for name, text := range map[string]string{
		"brackets":    strings.Repeat("[", maxFile),
		"braces":      "host: " + strings.Repeat("{a: ", maxFile/8),
		"entries":     strings.Repeat("- ", maxFile/2),
		"keys":        strings.Repeat("? ", maxFile/2),
		"tags":        "host: " + strings.Repeat("!a ", maxFile/8) + "x",
		"anchors":     "host: " + strings.Repeat("&a ", maxFile/8) + "x",
		"aliases":     wide,
		"long scalar": "host: " + strings.Repeat("a", maxFile/2),
		"not UTF-8":   "host: \xff",
	} {
		started := time.Now()
		got := refused(t, text)
		if took := time.Since(started); took > 10*time.Second || len(got) > 1<<10 {
			t.Errorf("%s: %s, %d bytes of error", name, took, len(got))
		}
		if name == "aliases" && !strings.Contains(got, "the file has more than") {
			t.Errorf("aliases: %s", got)
		}
	}
}

func aPanicOfTheYAMLLibraryIsAnError(t *testing.T) {
	if err := contained(func() error { panic("odd") }); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Errorf("got %v", err)
	}
}

func warnings(t *testing.T) {
	for text, want := range map[string]string{
		"{schedule: '* 9-17 * * *', rpo: 1h, sources: [{path: /a}]}": "up to 15h",
		"{schedule: '0 12 * * 1', rpo: 6d, sources: [{path: /a}]}":   "up to 168h",
		"{schedule: '@every 5m', jitter: 5m, sources: [{path: /a}]}": "jitter",
		"{rpo: 1h, sources: [{path: /a}]}":                           "without a schedule",
		"{sources: [{path: /db}, {command: [x], as: db/x}]}":         "lies within",
		"{sources: [{path: /a}], drill: {schedule: '@daily'}}":       "no effect here",
		"{sources: [{path: /a}], rto: 5m}":                           "only drills measure it",
		"{schedule: '0 4 29 2 *', rpo: 10w, sources: [{path: /a}]}":  "rpo is shorter",
	} {
		c, err := Parse("f", []byte("environments: {a: "+text+"}"), LoadOptions{Advise: true})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if len(c.Findings) != 1 || !strings.Contains(c.Findings[0].Msg, want) || c.Findings[0].Line != 1 {
			t.Errorf("%s: %v", text, c.Findings)
		}
	}
	c, err := Parse("f", []byte("environments: {a: {schedule: '*/15 * * * *', rpo: 15m, jitter: 14m, sources: [{path: /}, {command: [x], as: db/x}]}}"), LoadOptions{Advise: true})
	if err != nil || len(c.Findings) != 0 {
		t.Errorf("warnings %v, %v", c.Findings, err)
	}
}

func FuzzSchedule(f *testing.F) {
	for _, s := range []string{"*/15 * * * *", "@every 1h", "@daily", "TZ=", "CRON_TZ=X", "0 0 30 2 *", "@every -1h", "0 4 29 2 *"} {
		f.Add(s, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, s, zone string) {
		if len(s) > 100 {
			return
		}
		if _, err := schedule.Parse(s, zone); err != nil {
			return
		}
		if shortest, longest, ok := intervals(s); ok && (shortest <= 0 || longest < shortest) {
			t.Errorf("%q: between %s and %s", s, shortest, longest)
		}
	})
}

func aMistakeOfTheTextIsToldWhereItIs(t *testing.T) {
	for text, want := range map[string]string{
		"environments:\n  web:\n    retries: 1\n\tsources: [{path: /srv}]\n":     ":4:1: a tab: indent with spaces",
		"environments:\n  web:\n    retries: 1\n    \tsources: [{path: /srv}]\n": ":4:5: a tab: indent with spaces",
		"\thost: a\n": ":1:1: a tab: indent with spaces",
		"environments:\n  Web2:\n    # a comment\n    sources: [{path: /srv}]\n":                        `:2:3: environments.Web2: "Web2" is no name`,
		"environments: &all\n  Web2: &web\n    sources: [{path: /srv}]\n  db: *web\n":                   `:2:3: environments.Web2: "Web2" is no name`,
		"environments: {web: {sources: [{path: /srv}]}}\nprune: {schedule: \"@daily\", announce: 1h}\n": ": 1h is too short",
	} {
		if _, err := Parse("f", []byte(text), LoadOptions{Advise: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func allMistakesAreToldAtOnceAndNoneThatOnlyFollows(t *testing.T) {
	for text, want := range map[string][]string{
		"host: UP\nmax_runs: many\ncompression: none\n": {"f:1:7: host: ", "f:2:11: max_runs: ", "f:3:14: compression: "},
		// A value that is no such thing is not missing; nor is one under a mistyped key.
		"environments: {a: {sources: /srv}}":                            {"f:1:29: environments.a.sources: want a list"},
		"environments: {a: {surces: [{path: /srv}], rpo: 1h}}":          {`f:1:20: environments.a: unknown key "surces"`},
		"environments: {a: {sources: [{pth: /srv}, {path: 1}]}}":        {`unknown key "pth"`, "sources.1.path: want text"},
		"environments: {a: 1, b: {sources: []}}":                        {"environments.a: want a mapping", "environments.b.sources: there is nothing"},
		"environments: {a: {sources: [{path: x}], schedul: x, x: 1}}":   {"sources.0.path: ", `unknown key "schedul"`, `unknown key "x"`},
		"environments: {a: {sources: [/srv, {path: x}]}}":               {"sources.0: want a mapping", "sources.1.path: "},
		"environments: {a: {sources: [{path: /s, exclude: [1, '[']}]}}": {"exclude.0: want text", "exclude.1: "},
		"host: UP\n1: x\n": {"f:1:7: host: ", "a key must be text"},
		"x: &a {daily: many}\nenvironments: {e: {keep: *a, sources: [{path: x}]}, f: {keep: *a, sources: [{path: x}]}}": {
			`unknown key "x"`, "environments.e.keep.daily: ", "environments.f.keep.daily: ", "environments.e.sources.0.path: ", "environments.f.sources.0.path: "},
		"- a\n": {"want a mapping"},
	} {
		got := refused(t, text)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: it lacks %q:\n%s", text, w, got)
			}
		}
		if n := strings.Count("\n"+got, "\nf:"); n != len(want) {
			t.Errorf("%s: %d problems, want %d:\n%s", text, n, len(want), got)
		}
	}
}
