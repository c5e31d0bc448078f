package configs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func files(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) < 10 {
		t.Fatalf("%d files of %s, %v", len(names), pattern, err)
	}
	return names
}

func TestEveryValidFileLoads(t *testing.T) {
	t.Setenv("KNOWNGOOD_TEST_BUCKET", "bucket")
	for _, f := range files(t, "testdata/valid/*.yaml") {
		c, err := Load(f)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		text, err := c.YAML()
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if _, err := Parse("shown", text); err != nil {
			t.Errorf("%s: what is shown does not load: %v\n%s", f, err, text)
		}
	}
}

var place = regexp.MustCompile(`\.yaml:[0-9]+:[0-9]+: `)

func TestEveryInvalidFileIsRefusedWithItsPlaceAndReason(t *testing.T) {
	for _, f := range files(t, "testdata/invalid/*.yaml") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), "\n")
		want, ok := strings.CutPrefix(first, "# want: ")
		if !ok {
			t.Fatalf("%s does not say what it wants", f)
		}
		_, err = Load(f)
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
	c, err := Load("sample.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheSampleLoadsAndNamesEveryKey(t *testing.T) {
	c := sample(t)
	b, err := os.ReadFile("sample.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if !regexp.MustCompile(`(?m)[\s{]` + k + `:`).Match(b) {
			t.Errorf("the sample does not name %q", k)
		}
	}
	web := c.Environments["web"]
	if web.RPO != Duration(time.Hour) || web.Sources[0].MaxFileSize != 20e9 || web.Drill.Probes[2].TCP != "127.0.0.1:5432" || c.Repository.Lock.Keep != Duration(30*24*time.Hour) {
		t.Errorf("read as %+v", web)
	}
	if w := c.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
}

func TestDefaultsAreThoseThatTheSampleSays(t *testing.T) {
	c, d := sample(t), Default()
	d.Environments = map[string]*Environment{"web": {}}
	d.fill()
	if c.Listen != d.Listen || c.Compression != d.Compression || c.Environments["web"].CatchUp != d.Environments["web"].CatchUp || d.Environments["web"].TimeZone != "Local" {
		t.Errorf("defaults: %+v", d)
	}
	if os.Geteuid() == 0 && c.StateDir != d.StateDir {
		t.Errorf("state_dir: %s", d.StateDir)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	text, err := sample(t).YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "secret-") {
		t.Errorf("shown:\n%s", text)
	}
}

func TestAllProblemsAreToldAtOnce(t *testing.T) {
	_, err := Parse("f", []byte("host: UP\nlisten: x\nstate_dir: rel\n"))
	if err == nil || strings.Count(err.Error(), "f:") != 3 || !strings.Contains(err.Error(), "f:2:9") {
		t.Errorf("told: %v", err)
	}
}

func TestAFileThatAnyoneMayChangeIsRefused(t *testing.T) {
	f := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(f, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(f); err == nil || !strings.Contains(err.Error(), "chmod o-w") {
		t.Errorf("got %v", err)
	}
}

func TestAnRPOShorterThanTheScheduleIsWarnedAbout(t *testing.T) {
	c, err := Parse("f", []byte("environments:\n  a: {schedule: '@daily', rpo: 1h, sources: [{path: /a}]}\n"))
	if err != nil || len(c.Warnings()) != 1 {
		t.Errorf("warnings %v, %v", c.Warnings(), err)
	}
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]time.Duration{"90s": 90 * time.Second, "1d": 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1w2d3h": (9*24 + 3) * time.Hour, "0s": 0, "1.5h": 90 * time.Minute} {
		if d, err := ParseDuration(s); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v, %v", s, time.Duration(d), err)
		}
	}
	for _, s := range []string{"", "5", "d", "-1d", "1d-1h", "99999999999w", "1x", "1d5"} {
		if d, err := ParseDuration(s); err == nil {
			t.Errorf("%q is %v", s, time.Duration(d))
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
		if c, err := Parse("f", b); err == nil {
			if _, err := c.YAML(); err != nil {
				t.Errorf("valid, but cannot be shown: %v", err)
			}
		}
	})
}
