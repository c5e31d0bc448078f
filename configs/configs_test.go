package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"knowngood/internal/duration"
)

func files(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) < 10 {
		t.Fatalf("%d files of %s, %v", len(names), pattern, err)
	}
	return names
}

func TestLoad(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"every valid file loads":                                 everyValidFileLoads,
		"every invalid file is refused with its line and reason": everyInvalidFileIsRefusedWithItsPlaceAndReason,
		"the sample loads and names every key":                   theSampleLoadsAndNamesEveryKey,
		"the defaults are those of the sample":                   defaultsAreThoseThatTheSampleSays,
		"secrets are not shown":                                  secretsAreNotShown,
		"a valid URL is shown as it is":                          aValidURLIsShownAsItIs,
		"all problems are reported at once":                      allProblemsAreToldAtOnce,
		"an RPO shorter than the schedule is warned about":       anRPOShorterThanTheScheduleIsWarnedAbout,
		"durations":                       durations,
		"rates and sizes":                 ratesAndSizes,
		"counts are decimal":              countsAreDecimal,
		"a unit sets the state directory": aUnitSaysWhereItsStateGoes,
	} {
		t.Run(name, test)
	}
}

func everyValidFileLoads(t *testing.T) {
	t.Setenv("KNOWNGOOD_TEST_BUCKET", "bucket")
	for _, f := range files(t, "testdata/valid/*.yaml") {
		c, err := Load(f, LoadOptions{})
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		shown(t, c)
	}
}

var place = regexp.MustCompile(`\.yaml:[0-9]+:[0-9]+: `)

func everyInvalidFileIsRefusedWithItsPlaceAndReason(t *testing.T) {
	for _, f := range files(t, "testdata/invalid/*.yaml") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), "\n")
		want, ok := strings.CutPrefix(first, "# want: ")
		if !ok || want == "" {
			t.Errorf("%s does not say what it wants", f)
		}
		_, err = Load(f, LoadOptions{})
		switch {
		case err == nil:
			t.Errorf("%s loads", f)
		case !strings.Contains(err.Error(), want):
			t.Errorf("%s: want %q, got %v", f, want, err)
		case !place.MatchString(err.Error()) || strings.Contains(err.Error(), ".yaml:1:1: "):
			t.Errorf("%s: the error does not say where: %v", f, err)
		}
	}
}

func sample(t *testing.T) *Config {
	t.Helper()
	for _, n := range []string{"CHAT_HOOK", "MAIL_PASSWORD", "PING_ID"} {
		t.Setenv(n, "secret-"+n)
	}
	c, err := Load("sample.yaml", LoadOptions{Advise: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func theSampleLoadsAndNamesEveryKey(t *testing.T) {
	c := sample(t)
	b, err := os.ReadFile("sample.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for k := range places() {
		if !regexp.MustCompile(`(?m)[\s{]` + k + `:`).Match(b) {
			t.Errorf("the sample does not name %q", k)
		}
	}
	web := c.Environments["web"]
	if web.RPO != Duration(time.Hour) || web.Sources[0].MaxFileSize != 20e9 || web.Drill.Probes[9].TCP != "127.0.0.1:5432" || c.Repository.Lock.Keep != Duration(30*24*time.Hour) {
		t.Errorf("read as %+v", web)
	}
	if len(c.Findings) != 0 {
		t.Errorf("warnings: %v", c.Findings)
	}
}

func defaultsAreThoseThatTheSampleSays(t *testing.T) {
	sample, err := os.ReadFile("sample.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse("f", []byte("environments: {web: {sources: [{path: /srv/web}]}}"), LoadOptions{Advise: true})
	if err != nil {
		t.Fatal(err)
	}
	web := c.Environments["web"]
	catchUp, err := web.CatchUp.MarshalYAML()
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]string{
		"listen": c.Listen, "compression": string(c.Compression), "time_zone": web.TimeZone, "catch_up": string(catchUp),
		"jitter": fmt.Sprint(int64(web.Jitter)), "shrink": fmt.Sprintf("%d%%", *web.Shrink), "exclude_caches": fmt.Sprint(web.Sources[0].ExcludeCaches), "one_file_system": fmt.Sprint(web.Sources[0].OneFileSystem),
	}
	if os.Geteuid() == 0 {
		defaults["state_dir"] = c.StateDir + " for root"
	}
	said := regexp.MustCompile(`(?m)Default: ([^\n]*?)[.,]?\n(?: *#.*\n)* *(?:- )?([a-z_]+):`)
	told := map[string]string{}
	for _, m := range said.FindAllStringSubmatch(string(sample), -1) {
		told[m[2]] = m[1]
	}
	for key, want := range defaults {
		if told[key] != want {
			t.Errorf("%s: the sample says %q, it is %q", key, told[key], want)
		}
	}
}

func secretsAreNotShown(t *testing.T) {
	text := shown(t, sample(t))
	if strings.Contains(text, "secret-") || !strings.Contains(text, "https://chat.example.com/(hidden)") {
		t.Errorf("shown:\n%s", text)
	}
}

func aValidURLIsShownAsItIs(t *testing.T) {
	for url, want := range map[string]string{
		"s3://b/p@q?region=eu-1": "s3://b/p@q?region=eu-1",
		"file:///srv/a@b":        "file:///srv/a@b",
		"s3://b/p?secret_key=x":  "s3://b/p?secret_key=(hidden)",
	} {
		c, err := Parse("f", []byte("repository: {url: '"+url+"'}"), LoadOptions{Advise: true})
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if text := shown(t, c); !strings.Contains(text, want) {
			t.Errorf("%s is shown as\n%s", url, text)
		}
	}
}

func allProblemsAreToldAtOnce(t *testing.T) {
	_, err := Parse("f", []byte("host: UP\nlisten: x\nstate_dir: rel\n"), LoadOptions{Advise: true})
	if err == nil || strings.Count(err.Error(), "f:") != 3 || !strings.Contains(err.Error(), "f:2:9") {
		t.Errorf("told: %v", err)
	}
	_, err = Parse("f", []byte("hots: a\nenvironments:\n  a: {jitter: soon, keep: {last: many}, sources: [{path: /a, one_file_system: yes}]}\n"), LoadOptions{Advise: true})
	if err == nil || strings.Count(err.Error(), "f:") != 4 || !strings.HasPrefix(err.Error(), "f:1:1: ") {
		t.Errorf("told: %v", err)
	}
}

func anRPOShorterThanTheScheduleIsWarnedAbout(t *testing.T) {
	c, err := Parse("f", []byte("environments:\n  a: {schedule: '@daily', rpo: 1h, sources: [{path: /a}]}\n"), LoadOptions{Advise: true})
	if err != nil || len(c.Findings) != 1 || c.Findings[0].Error() != "f:2:32: environments.a.rpo: rpo is shorter than the time between two runs (up to 24h0m0s): it will be broken between them" {
		t.Errorf("warnings %v, %v", c.Findings, err)
	}
}

func durations(t *testing.T) {
	for s, want := range map[string]time.Duration{"90s": 90 * time.Second, "1d": 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1w2d3h": (9*24 + 3) * time.Hour, "0s": 0, "1.5h": 90 * time.Minute} {
		if d, err := ParseDuration(s); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v, %v", s, time.Duration(d), err)
		}
	}
	for _, s := range []string{"", "5", "d", "-1d", "1d-1h", "1x", "1d5"} {
		if d, err := ParseDuration(s); err == nil || strings.Contains(err.Error(), "too long") {
			t.Errorf("%q is %v, %v", s, time.Duration(d), err)
		}
	}
	for _, s := range []string{"99999999999w", "106752d", "15251w", "106751d24h", "9999999h", "99999999999999999999s"} {
		if d, err := ParseDuration(s); err == nil || !strings.Contains(err.Error(), "is too long: the most is 106751d") {
			t.Errorf("%q is %v, %v", s, time.Duration(d), err)
		}
	}
	if d, err := ParseDuration(duration.Longest); err != nil || time.Duration(d)/time.Hour != 106751*24 {
		t.Errorf("the longest is %v, %v", time.Duration(d), err)
	}
}

func ratesAndSizes(t *testing.T) {
	for _, s := range []string{"10MiB/s", "10485760", "10240 KiB/s"} {
		if r, err := ParseRate(s); err != nil || r != 10<<20 {
			t.Errorf("%s: %d, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "fast", "-1MB", "10MB/h", "17EB"} {
		if r, err := ParseRate(s); err == nil {
			t.Errorf("%q is %d", s, r)
		}
	}
	if n, err := ParseSize("10MiB/s"); err == nil {
		t.Errorf("a rate is the size %d", n)
	}
	for _, s := range []string{"16EiB", "18446744073709551616", "19000000TB", "99.5EiB"} {
		if n, err := ParseSize(s); err == nil || !strings.Contains(err.Error(), "the most is 18446744073709551615 bytes") {
			t.Errorf("%q is %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"1,5GB", "1,000MB", "5,", ",5", "1.000,5KiB", "1,5GB/s"} {
		if n, err := ParseSize(s); err == nil || !strings.Contains(err.Error(), "takes no comma") {
			t.Errorf("%q is %d, %v", s, n, err)
		}
		if r, err := ParseRate(s); err == nil || !strings.Contains(err.Error(), "takes no comma") {
			t.Errorf("%q is %d, %v", s, r, err)
		}
	}
	if n, err := ParseSize("010KiB"); err != nil || n != 10<<10 {
		t.Errorf("010KiB is %d, %v", n, err)
	}
	if r, err := ParseRate("8EiB/s"); err == nil || !strings.Contains(err.Error(), "the most is less than 8EiB/s") {
		t.Errorf("8EiB/s is %d, %v", r, err)
	}
}

func countsAreDecimal(t *testing.T) {
	for s, want := range map[string]Count{"0": 0, "5": 5, "010": 10, "0030": 30, "08": 8, "2147483647": 2147483647} {
		c, err := Parse("f", []byte("environments: {a: {keep: {last: "+s+"}, sources: [{path: /a}]}}"), LoadOptions{Advise: true})
		if err != nil || c.Environments["a"].Keep.Last != want {
			t.Errorf("%s: %v", s, err)
		}
	}
	for s, want := range map[string]string{"0x10": "whole number", "0o17": "whole number", "1_000": "whole number", "1e3": "whole number", "1.5": "whole number", "'5'": "without quotes",
		"-1": "-1 is less than none", "2147483648": "the most is 2147483647", "99999999999999999999": "the most is 2147483647", "[5]": "this is a list", "true": "whole number"} {
		if _, err := Parse("f", []byte("environments: {a: {keep: {last: "+s+"}, sources: [{path: /a}]}}"), LoadOptions{Advise: true}); err == nil || !strings.Contains(err.Error(), "f:1:33: environments.a.keep.last: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	names, _ := filepath.Glob("testdata/*/*.yaml")
	for _, n := range append(names, "sample.yaml") {
		if b, err := os.ReadFile(n); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f", b, LoadOptions{Advise: true})
		if err != nil {
			return
		}
		shown(t, c)
	})
}

// shown checks that what is shown of a configuration loads, and shows the same
// again.
func shown(t *testing.T, c *Config) string {
	t.Helper()
	text, err := c.YAML()
	if err != nil {
		t.Fatalf("valid, but cannot be shown: %v", err)
	}
	again, err := Parse("shown", text, LoadOptions{Advise: true})
	if err != nil {
		t.Fatalf("what is shown does not load: %v\n%s", err, text)
	}
	if second, err := again.YAML(); err != nil || string(second) != string(text) {
		t.Fatalf("shown as\n%s\nand then, %v, as\n%s", text, err, second)
	}
	return string(text)
}

func aUnitSaysWhereItsStateGoes(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "/var/lib/other")
	if got := Default().StateDir; got != "/var/lib/other" {
		t.Errorf("the state directory is %q, not that of the unit", got)
	}
	t.Setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
	if got := Default().StateDir; got != "/var/lib/one" {
		t.Errorf("the state directory is %q, not the first of the unit's", got)
	}
}
