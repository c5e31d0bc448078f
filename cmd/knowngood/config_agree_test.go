package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
)

// configuration is a text, and what must come of it. @BASE@ names repository, state
// directory and socket, @HERE@ the last two; both stand at the end of a file, so
// that the first line of the text is the first one of the file.
type configuration struct {
	name, text string
	key        string // at which it is refused; "" where it is not
	line       int
	want       string // what the error advises
}

const oneEnvironment = "environments: {e: {sources: [{path: @SRC@}], "

// twoRoots are environments e and f with their roots.
func twoRoots(e, f string) string {
	return fmt.Sprintf("environments:\n  e: {root: %s, sources: [{path: %[1]s}]}\n  f: {root: %s, sources: [{path: %[2]s}]}\n@BASE@", e, f)
}

const manyMistakes = "repository: {url: 's3://Bad_Bucket/p?regoin=x&endpont=x&path_style=yes&endpoint=https://h/x&ca=/no/such/ca.pem&zone=x'}\n@HERE@"

var configurations = []configuration{
	// The store judges its own URL.
	{"an unknown parameter", "repository: {url: 's3://bucket/p?regoin=x'}\n@HERE@", "repository.url", 1, `unknown parameter "regoin", want one of endpoint, region`},
	{"a parameter with a mistake", "repository:\n  url: s3://bucket/p?endpont=https://h\n@HERE@", "repository.url", 2, `unknown parameter "endpont"`},
	{"a parameter in another case", "repository: {url: 's3://bucket/p?Region=eu-1'}\n@HERE@", "repository.url", 1, `unknown parameter "Region"`},
	{"a parameter given twice", "repository: {url: 's3://bucket/p?region=a&region=b'}\n@HERE@", "repository.url", 1, "needs one value"},
	{"an empty parameter", "repository: {url: 's3://bucket/p?region='}\n@HERE@", "repository.url", 1, "needs one value"},
	{"parameters that do not parse", "repository: {url: 's3://bucket/p?region=%zz'}\n@HERE@", "repository.url", 1, "do not parse"},
	{"path_style that is no truth value", "repository: {url: 's3://bucket/p?path_style=yes'}\n@HERE@", "repository.url", 1, `"path_style" is "yes", want true or false`},
	{"an endpoint with a path", "repository: {url: 's3://bucket/p?endpoint=https://h/minio'}\n@HERE@", "repository.url", 1, "want https://host or https://host:port"},
	{"an endpoint without a scheme", "repository: {url: 's3://bucket/p?endpoint=minio:9000'}\n@HERE@", "repository.url", 1, "want https://host"},
	{"an endpoint of another scheme", "repository: {url: 's3://bucket/p?endpoint=ftp://h'}\n@HERE@", "repository.url", 1, "want https://host"},
	{"an endpoint with an impossible port", "repository: {url: 's3://bucket/p?endpoint=https://h:70000'}\n@HERE@", "repository.url", 1, "from 1 to 65535"},
	{"an endpoint with credentials", "repository: {url: 's3://bucket/p?endpoint=https://k:s@h'}\n@HERE@", "repository.url", 1, "put them into the environment or the AWS credentials file"},
	{"a bucket that no rule allows", "repository: {url: 's3://Bad_Bucket/p'}\n@HERE@", "repository.url", 1, "use lower-case letters, digits, dots and hyphens"},
	{"a bucket of two letters", "repository: {url: 's3://ab/p'}\n@HERE@", "repository.url", 1, "from 3 to 63"},
	{"a bucket that looks like an address", "repository: {url: 's3://10.0.0.1/p'}\n@HERE@", "repository.url", 1, "ip address"},
	{"a bucket with two dots", "repository: {url: 's3://a..b/p'}\n@HERE@", "repository.url", 1, "use lower-case letters"},
	{"a bucket that is missing", "repository: {url: 's3:///p'}\n@HERE@", "repository.url", 1, "s3://bucket/prefix"},
	{"a server in the place of the bucket", "repository: {url: 's3://minio:9000/p'}\n@HERE@", "repository.url", 1, "endpoint="},
	{"a prefix that is no key", "repository: {url: 's3://bucket/a//b'}\n@HERE@", "repository.url", 1, "invalid object key"},
	{"certificates that are missing", "repository: {url: 's3://bucket/p?ca=/no/such/ca.pem'}\n@HERE@", "repository.url", 1, "/no/such/ca.pem: no such file"},
	{"certificates that are none", "repository: {url: 's3://bucket/p?ca=@CONFIG@'}\n@HERE@", "repository.url", 1, "has no certificate in PEM form"},
	{"a URL with credentials", "repository: {url: 's3://key:secret@bucket/p'}\n@HERE@", "repository.url", 1, "put them into AWS_ACCESS_KEY_ID"},
	{"a URL of another scheme", "repository: {url: 'https://h/bucket'}\n@HERE@", "repository.url", 1, "want file or s3"},
	{"a relative path", "repository: {url: backup}\n@HERE@", "repository.url", 1, "must be absolute"},
	{"a file URL with two slashes", "repository: {url: 'file://backup'}\n@HERE@", "repository.url", 1, "three slashes"},
	{"a file URL with parameters", "repository: {url: 'file:///backup?x=1'}\n@HERE@", "repository.url", 1, "takes no parameters"},
	{"a fragment", "repository: {url: 's3://bucket/p#x'}\n@HERE@", "repository.url", 1, "write %23"},

	// Messages are made of templates, and sent with headers.
	{"a template of no field", "notify: {webhook: [{url: 'http://h/', template: '{{.Nope}}'}]}\n@BASE@", "notify.webhook.0.template", 1, "docs/OPERATIONS.md has the fields"},
	{"a template of a run", "notify:\n  webhook:\n    - url: http://h/\n      template: '{{.Run.Error}}'\n@BASE@", "notify.webhook.0.template", 4, "write {{with .Run}}"},
	{"a template that indexes too far", "notify: {webhook: [{url: 'http://h/', template: '{{index .Kind 99}}'}]}\n@BASE@", "notify.webhook.0.template", 1, "index out of range"},
	{"a template that fails of one kind", "notify: {webhook: [{url: 'http://h/'}, {url: 'http://h/', template: '{{if eq .Kind \"rpo\"}}{{.Run.Error}}{{end}}'}]}\n@BASE@", "notify.webhook.1.template", 1, "of the kind rpo"},
	{"a template that does not parse", "notify: {webhook: [{url: 'http://h/', template: '{{.Text'}]}\n@BASE@", "notify.webhook.0.template", 1, "unclosed action"},
	{"a header that HTTP does not have", "notify: {webhook: [{url: 'http://h/', headers: {'X Token': x}}]}\n@BASE@", "notify.webhook.0.headers.X Token", 1, "use letters, digits and hyphens"},
	{"a header of two lines", "notify: {webhook: [{url: 'http://h/', headers: {X-Token: \"a\\nb\"}}]}\n@BASE@", "notify.webhook.0.headers.X-Token", 1, "write it in one line"},
	{"a webhook at an impossible port", "notify: {webhook: [{url: 'http://h:70000/'}]}\n@BASE@", "notify.webhook.0.url", 1, "such as https://host/path"},
	{"a ping that is no address", "notify: {ping: 'hc-ping.com/x'}\n@BASE@", "notify.ping", 1, "such as https://host/path"},

	// Numbers, sizes and durations.
	{"a hexadecimal number", oneEnvironment + "keep: {daily: 0x10}}}\n@BASE@", "environments.e.keep.daily", 1, "want a whole number, such as 5"},
	{"an octal number", oneEnvironment + "keep: {daily: 0o17}}}\n@BASE@", "environments.e.keep.daily", 1, "want a whole number, such as 5"},
	{"a number with a separator", oneEnvironment + "keep: {daily: 1_000}}}\n@BASE@", "environments.e.keep.daily", 1, "want a whole number, such as 5"},
	{"a fraction", oneEnvironment + "retries: 1.5}}\n@BASE@", "environments.e.retries", 1, "want a whole number, such as 5"},
	{"a number that is too large", oneEnvironment + "keep: {last: 2147483648}}}\n@BASE@", "environments.e.keep.last", 1, "the most is 2147483647"},
	{"a number that fits nothing", "max_runs: 99999999999999999999\n@BASE@", "max_runs", 1, "the most is 2147483647"},
	{"a duration that overflows", oneEnvironment + "rpo: 106752d}}\n@BASE@", "environments.e.rpo", 1, "the most is 106751d"},
	{"weeks that overflow", oneEnvironment + "keep: {within: 99999999w}}}\n@BASE@", "environments.e.keep.within", 1, "the most is 106751d"},
	{"hours that overflow", oneEnvironment + "timeout: 9999999h}}\n@BASE@", "environments.e.timeout", 1, "the most is 106751d"},
	{"a duration in months", oneEnvironment + "reread: 1mo}}\n@BASE@", "environments.e.reread", 1, "such as 90s, 15m, 2h30m, 30d or 2w"},
	{"a size that overflows", "environments: {e: {sources: [{path: @SRC@, max_file_size: 16EiB}]}}\n@BASE@", "environments.e.sources.0.max_file_size", 1, "the most is 18446744073709551615 bytes"},
	{"a size that is a rate", "environments: {e: {sources: [{path: @SRC@, max_file_size: 10MB/s}]}}\n@BASE@", "environments.e.sources.0.max_file_size", 1, "such as 512KiB, 10MiB or 2GB"},
	{"a rate that overflows", "limits: {upload: 8EiB/s}\n@BASE@", "limits.upload", 1, "the most is less than 8EiB/s"},
	{"a lock for ever", "repository: {url: 's3://bucket', lock: {mode: compliance, keep: 100000d}}\n@HERE@", "repository.lock.keep", 1, "the most is 29200d (80 years)"},
	{"a lock for half a second", "repository: {url: 's3://bucket', lock: {mode: compliance, keep: 500ms}}\n@HERE@", "repository.lock.keep", 1, "whole seconds"},

	// Where the daemon answers.
	{"a socket whose path is too long", "listen: unix:///run/" + strings.Repeat("x", 110) + "\nstate_dir: @STATE@\n", "listen", 1, "at most 107 bytes"},
	{"a socket that is a directory", "listen: unix:///run/knowngood/\nstate_dir: @STATE@\n", "listen", 1, `write it as "unix:///run/knowngood"`},
	{"the same address twice", "listen: 127.0.0.1:9321\nlisten_tcp: tcp://127.0.0.1:9321\nstate_dir: @STATE@\n", "listen_tcp", 2, "choose another port"},
	{"patterns to include that exclude", "environments: {e: {sources: [{path: @SRC@, include: ['!*.go']}]}}\n@BASE@", "environments.e.sources.0", 1, "exclude what is not wanted"},

	// Directories that are replaced as a whole.
	{"two environments with one root", twoRoots("/srv/app", "/srv/app"), "environments.f.root", 3, "is also used by environment e: a switch of one would replace what is of the other. Give each a directory of its own"},
	{"a root in that of another", twoRoots("/srv/app/sub", "/srv/app"), "environments.f.root", 3, "Give each a directory of its own"},
	{"a root in the generations of another", twoRoots("/srv/app", "/srv/.app.generations/x"), "environments.f.root", 3, "Give each a directory of its own"},
	{"a root that is another by a link", twoRoots("/proc/self/root/srv/app", "/srv/app"), "environments.f.root", 3, "is also used by environment e: a switch of one would replace what is of the other. Give each a directory of its own"},
	{"instances in the root of another", "environments:\n  e: {root: /srv/app, sources: [{path: /srv/app}]}\n  f: {sources: [{path: /etc}], scale: {dir: /srv/app/i}}\n@BASE@", "environments.f.scale.dir", 3, "/srv/app/i lies in /srv/app of environment e: "},

	// Several mistakes of one value.
	{"the endpoint beside other mistakes of a URL", manyMistakes, "repository.url", 1, "want https://host or https://host:port"},
	{"the last parameter beside other mistakes of a URL", manyMistakes, "repository.url", 1, `unknown parameter "zone"`},
	{"the certificates beside other mistakes of a URL", manyMistakes, "repository.url", 1, "/no/such/ca.pem: no such file"},
	{"the bucket beside other mistakes of a URL", manyMistakes, "repository.url", 1, "use lower-case letters, digits, dots and hyphens"},

	// What is taken.
	{name: "roots beside each other", text: twoRoots("/srv/app", "/srv/app2")},
	{name: "a bucket that nobody can reach", text: "repository: {url: 's3://bucket/p?endpoint=http://127.0.0.1:1&region=us-east-1&path_style=true'}\n@HERE@"},
	{name: "a bucket of Amazon", text: "repository: {url: 's3://my.bucket-1/deep/prefix/?region=eu-central-1&endpoint=http://127.0.0.1:1', lock: {mode: governance, keep: 29200d}}\n@HERE@"},
	{name: "a profile", text: "repository: {url: 's3://bucket?profile=other&endpoint=http://127.0.0.1:1&path_style=0'}\n@HERE@"},
	{name: "a directory that is not there", text: "repository: {url: 'file:///no/such/repository'}\n@HERE@"},
	{name: "a path", text: "repository: {url: /no/such/other}\n@HERE@"},
	{name: "no repository", text: "host: web-7\n@HERE@"},
	{name: "no environment", text: "@BASE@"},
	{name: "an environment without a schedule", text: "environments: {e: {sources: [{path: @SRC@}]}}\n@BASE@"},
	{name: "a source that is missing", text: "environments: {e: {sources: [{path: /no/such/source}]}}\n@BASE@"},
	{name: "ten and eight with zeros before", text: oneEnvironment + "keep: {daily: 010, monthly: 0030, last: 08}, retries: 007}}\nmax_runs: 02\n@BASE@"},
	{name: "the longest duration", text: oneEnvironment + "rpo: 106751d, timeout: 15250w, reread: 1w2d3h}}\n@BASE@"},
	{name: "the largest size", text: "environments: {e: {sources: [{path: @SRC@, max_file_size: 15EiB}]}}\nlimits: {upload: 7EiB/s, download: 1}\n@BASE@"},
	{name: "a schedule that is far away", text: oneEnvironment + "schedule: '0 0 1 1 *', catch_up: 0s, jitter: 1h, time_zone: Asia/Kathmandu}}\n@BASE@"},
	{name: "templates that are careful", text: "notify: {webhook: [{url: 'http://127.0.0.1:1/', template: '{{json .Text}}{{with .Run}}{{.Error}}{{end}}', headers: {X-Token: 'a b', Host: 'h:1'}}], repeat: 0s}\n@BASE@"},
	{name: "a mail and a ping", text: "notify: {email: {from: a@b.c, to: [d@e.f], server: '127.0.0.1:1', tls: none}, ping: 'http://127.0.0.1:1/x', command: ['true']}\n@BASE@"},
	{name: "hooks and commands", text: "environments: {e: {sources: [{command: [echo, x], as: x, restore: [cat]}], hooks: {before: [{command: ['true']}], on_failure: [{command: [/no/such/program]}]}}}\n@BASE@"},
	{name: "patterns", text: "environments: {e: {sources: [{path: @SRC@, include: ['*.{go,md}'], exclude: ['!a', '/b/', '**/c']}]}}\n@BASE@"},
	{name: "a prune", text: "prune: {schedule: '0 0 1 1 *', announce: 48h, max_repack: 010GiB}\n@BASE@"},
}

// invalidFiles are the texts that package configs refuses, with what they want.
func invalidFiles(t *testing.T) (list []configuration) {
	t.Helper()
	files, err := filepath.Glob("../../configs/testdata/invalid/*.yaml")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), "\n")
		list = append(list, configuration{name: filepath.Base(f), text: string(b), want: strings.TrimPrefix(first, "# want: ")})
	}
	return list
}

func (c *configuration) refused() bool { return c.want != "" }

// said demands of an error that it names where the mistake is, and what to do.
func (c *configuration) said(t *testing.T, by, text, file string) {
	t.Helper()
	place := regexp.QuoteMeta(file) + `:[0-9]+:[0-9]+: `
	if c.key != "" {
		place = fmt.Sprintf(`%s:%d:[0-9]+: %s: `, regexp.QuoteMeta(file), c.line, regexp.QuoteMeta(c.key))
	}
	if !regexp.MustCompile(place).MatchString(text) || !strings.Contains(text, c.want) {
		t.Errorf("%s: %s refuses it with\n%s\nwant %s and %q", c.name, by, text, place, c.want)
	}
}

// reload has a daemon read a configuration, and returns what it said of it.
func (s *service) reload(t *testing.T, text string) (taken bool, said string) {
	t.Helper()
	before := len(s.log(t))
	s.write(t, text)
	s.signal(t, syscall.SIGHUP)
	waitFor(t, "the configuration is read", func() bool {
		said = s.log(t)[before:]
		taken = strings.Contains(said, "INFO configuration taken")
		return taken || strings.Contains(said, "the new configuration was not taken")
	})
	return taken, said
}

func TestConfigAgree(t *testing.T) {
	t.Parallel()
	t.Run("check start and reload agree about every configuration", testCheckStartAndReloadAgreeAboutEveryConfiguration)
	t.Run("test notify refuses what the check refuses", testTestNotifyRefusesWhatTheCheckRefuses)
}

func testCheckStartAndReloadAgreeAboutEveryConfiguration(t *testing.T) {
	t.Parallel()
	began := time.Now()
	env := []string{"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "AWS_EC2_METADATA_DISABLED=true"}
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"), env...)
	running := newService(t, m, "")
	running.up(t)
	// The one that is started again has no key of a host: it is degraded, and answers.
	other := newService(t, m.bare(t), "")

	all := append(invalidFiles(t), configurations...)
	if len(all) < 120 {
		t.Errorf("only %d configurations are tried", len(all))
	}
	src := t.TempDir()
	for _, c := range all {
		fill := func(s *service) string {
			here := fmt.Sprintf("state_dir: %s\nlisten: %s\n", s.state, s.listen())
			return strings.NewReplacer("@BASE@", fmt.Sprintf("repository: {url: %q}\n%s", s.repo, here), "@HERE@", here, "@SRC@", src, "@CONFIG@", s.config, "@STATE@", s.state).Replace(c.text)
		}

		other.write(t, fill(other))
		check := other.ask(t, "config", "check", other.config)
		if (check.code == exit.Usage) != c.refused() || !c.refused() && check.code != exit.Done {
			t.Errorf("%s: config check exits with %d\n%s%s", c.name, check.code, &check.stdout, &check.stderr)
		} else if c.refused() {
			c.said(t, "config check", check.stderr.String(), other.config)
		}

		if c.refused() {
			start := other.ask(t, "daemon")
			if start.code != exit.Usage {
				t.Errorf("%s: the daemon exits with %d\n%s", c.name, start.code, &start.stderr)
			}
			c.said(t, "the start", start.stderr.String(), other.config)
		} else {
			other.up(t)
			other.stop(t)
		}

		taken, said := running.reload(t, fill(running))
		if taken == c.refused() {
			t.Errorf("%s: a reload takes it: %v\n%s", c.name, taken, said)
		} else if c.refused() {
			c.said(t, "a reload", said, running.config)
		}
	}
	t.Logf("%d configurations in %v", len(all), time.Since(began).Round(time.Second))
}

func testTestNotifyRefusesWhatTheCheckRefuses(t *testing.T) {
	t.Parallel()
	s := newService(t, &machine{repo: "/nowhere", state: t.TempDir()}, "notify: {webhook: [{url: 'http://127.0.0.1:1/', headers: {'X Token': x}}]}\n")
	for _, args := range [][]string{{"config", "check", s.config}, {"config", "test-notify"}, {"daemon"}} {
		o := s.ask(t, args...)
		if o.code != exit.Usage || !strings.Contains(o.stderr.String(), "notify.webhook.0.headers.X Token: ") {
			t.Errorf("%v: %d, %s", args, o.code, &o.stderr)
		}
	}
}
