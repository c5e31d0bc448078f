package configs

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/goccy/go-yaml/ast"
)

// validator gathers problems.
type validator struct {
	file     string
	tree     *ast.File
	problems []error
}

// Validate tells what is wrong with a configuration that was not read from a
// file; Load and Parse do this themselves.
func (c *Config) Validate() error {
	v := &validator{file: "configuration"}
	v.config(c)
	if len(v.problems) == 0 {
		return nil
	}
	return v.problems[0]
}

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

const nameRule = "lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63"

func (v *validator) config(c *Config) {
	if !name.MatchString(c.Host) {
		v.addf([]any{"host"}, "%q is no name of a host: %s", c.Host, nameRule)
	}
	v.repository(&c.Repository)
	v.absolute(c.StateDir, "state_dir")
	if c.Identity != "" {
		v.absolute(c.Identity, "identity")
	}
	v.listen(c.Listen)
	switch c.Compression {
	case "default", "fastest", "better":
	default:
		v.addf([]any{"compression"}, "%q is none of default, fastest, better", c.Compression)
	}
	for _, n := range slices.Sorted(maps.Keys(c.Environments)) {
		key := []any{"environments", n}
		if !name.MatchString(n) {
			v.addf(key, "%q is no name of an environment: %s", n, nameRule)
		}
		if c.Environments[n] == nil {
			v.add("the environment is empty: it needs sources", key...)
			continue
		}
		v.environment(c.Environments[n], key)
	}
	v.notify(&c.Notify)
}

func (v *validator) absolute(p string, key ...any) {
	if !path.IsAbs(p) {
		v.addf(key, "%q is not an absolute path", p)
	}
}

func (v *validator) repository(r *Repository) {
	key := []any{"repository", "url"}
	switch u, err := url.Parse(r.URL); {
	case r.URL == "", strings.HasPrefix(r.URL, "/"):
	case err != nil:
		v.addf(key, "not a URL: %v", err)
	case u.Scheme != "s3" && u.Scheme != "file":
		v.addf(key, "%q: a repository lies in s3://bucket/prefix or file:///path", r.URL)
	case u.User != nil:
		v.add("a URL is no place for credentials: put them into the environment or ~/.aws", key...)
	}
	switch r.Lock.Mode {
	case "":
		if r.Lock.Keep != 0 {
			v.add("a duration without a mode: add mode: compliance", "repository", "lock", "keep")
		}
	case "compliance", "governance":
		if r.Lock.Keep == 0 {
			v.add("a lock needs keep, such as 30d", "repository", "lock")
		}
	default:
		v.addf([]any{"repository", "lock", "mode"}, "%q is neither compliance nor governance", r.Lock.Mode)
	}
}

func (v *validator) listen(s string) {
	if p, ok := strings.CutPrefix(s, "unix://"); ok {
		v.absolute(p, "listen")
		return
	}
	host, _, err := net.SplitHostPort(strings.TrimPrefix(s, "tcp://"))
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		v.addf([]any{"listen"}, "%q is neither unix:///path nor a loopback address such as 127.0.0.1:9321", s)
	}
}

func (v *validator) environment(e *Environment, key []any) {
	if e.Schedule != "" {
		v.schedule(e.Schedule, e.TimeZone, under(key, "schedule"))
	}
	v.zone(e.TimeZone, under(key, "time_zone"))
	if len(e.Sources) == 0 {
		v.add("there is nothing to capture: it needs sources", under(key, "sources")...)
	}
	paths, outputs := map[string]bool{}, map[string]bool{}
	for i := range e.Sources {
		s := &e.Sources[i]
		k := under(key, "sources", i)
		switch {
		case s.Path != "" && len(s.Command) > 0:
			v.add("a source is a path or a command, not both", k...)
		case s.Path != "":
			v.pathSource(s, paths, k)
		case len(s.Command) > 0:
			v.commandSource(s, outputs, k)
		default:
			v.add("a source needs a path or a command", k...)
		}
	}
	for _, h := range []struct {
		name  string
		hooks []Hook
	}{{"before", e.Hooks.Before}, {"after", e.Hooks.After}, {"on_failure", e.Hooks.OnFailure}} {
		for i, hook := range h.hooks {
			v.command(hook.Command, under(key, "hooks", h.name, i))
		}
	}
	for n, i := range map[string]int{"last": e.Keep.Last, "hourly": e.Keep.Hourly, "daily": e.Keep.Daily, "weekly": e.Keep.Weekly, "monthly": e.Keep.Monthly, "yearly": e.Keep.Yearly, "known_good": e.Keep.KnownGood} {
		if i < 0 {
			v.addf(under(key, "keep", n), "%d is less than none", i)
		}
	}
	if e.Root != "" {
		v.absolute(e.Root, under(key, "root")...)
	}
	if e.Drill != nil {
		v.drill(e, key)
	}
}

func (v *validator) pathSource(s *Source, seen map[string]bool, key []any) {
	k := under(key, "path")
	switch {
	case !path.IsAbs(s.Path):
		v.addf(k, "%q is not an absolute path", s.Path)
	case path.Clean(s.Path) != s.Path:
		v.addf(k, "write it as %q", path.Clean(s.Path))
	case seen[s.Path]:
		v.addf(k, "%q is a source already", s.Path)
	}
	seen[s.Path] = true
	if s.As != "" || len(s.Restore) > 0 || s.Timeout != 0 {
		v.add("as, restore and timeout belong to command sources", key...)
	}
	for list, patterns := range map[string][]string{"include": s.Include, "exclude": s.Exclude} {
		for i, p := range patterns {
			if strings.TrimLeft(p, "!") == "" || !doublestar.ValidatePattern(strings.TrimPrefix(p, "!")) {
				v.addf(under(key, list, i), "%q is not a valid pattern", p)
			}
		}
	}
	for i, n := range s.ExcludeIfPresent {
		if n == "" || strings.Contains(n, "/") {
			v.addf(under(key, "exclude_if_present", i), "%q is not the name of a file", n)
		}
	}
}

func (v *validator) commandSource(s *Source, seen map[string]bool, key []any) {
	v.command(s.Command, under(key, "command"))
	k := under(key, "as")
	switch {
	case s.As == "":
		v.add("a command needs as: the path of its output in the snapshot, such as db/web.dump", key...)
		return
	case path.IsAbs(s.As) || path.Clean(s.As) != s.As || s.As == ".." || s.As == "." || strings.HasPrefix(s.As, "../"):
		v.addf(k, "%q is not a plain relative path, such as db/web.dump", s.As)
	}
	for other := range seen {
		if other == s.As || strings.HasPrefix(other, s.As+"/") || strings.HasPrefix(s.As, other+"/") {
			v.addf(k, "%q and %q are in each other's way", s.As, other)
		}
	}
	seen[s.As] = true
	if len(s.Include)+len(s.Exclude)+len(s.ExcludeIfPresent) > 0 || s.ExcludeCaches || s.OneFileSystem || s.MaxFileSize > 0 {
		v.add("patterns and limits belong to path sources", key...)
	}
	if s.Restore != nil {
		v.command(s.Restore, under(key, "restore"))
	}
}

func (v *validator) command(argv []string, key []any) {
	if len(argv) == 0 || argv[0] == "" {
		v.add("a command needs a program: [program, argument, ...]", key...)
	}
}

func (v *validator) drill(e *Environment, key []any) {
	v.schedule(e.Drill.Schedule, e.TimeZone, under(key, "drill", "schedule"))
	for i, p := range e.Drill.Probes {
		k := under(key, "drill", "probes", i)
		n := 0
		for _, set := range []bool{len(p.Command) > 0, p.HTTP != "", p.TCP != ""} {
			if set {
				n++
			}
		}
		if n != 1 {
			v.add("a probe is one of command, http and tcp", k...)
		}
		if u, err := url.Parse(p.HTTP); p.HTTP != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			v.addf(under(k, "http"), "%q is not an http URL", p.HTTP)
		}
		if _, _, err := net.SplitHostPort(p.TCP); p.TCP != "" && err != nil {
			v.addf(under(k, "tcp"), "%q is not host:port", p.TCP)
		}
	}
}

func (v *validator) notify(n *Notify) {
	for i, w := range n.Webhook {
		if u, err := url.Parse(w.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			v.add("not an http URL", "notify", "webhook", i, "url")
		}
	}
	if e := n.Email; e != nil {
		if e.From == "" || len(e.To) == 0 {
			v.add("mail needs from and to", "notify", "email")
		}
		if _, _, err := net.SplitHostPort(e.Server); err != nil {
			v.addf([]any{"notify", "email", "server"}, "%q is not host:port", e.Server)
		}
	}
	if u, err := url.Parse(n.Ping); n.Ping != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https") {
		v.add("not an http URL", "notify", "ping")
	}
}

// Warnings are not wrong, but hardly what was meant.
func (c *Config) Warnings() []string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(c.Environments)) {
		e := c.Environments[n]
		if every, ok := interval(e.Schedule, e.TimeZone); ok && e.RPO > 0 && Duration(every) > e.RPO {
			out = append(out, fmt.Sprintf("environments.%s: rpo is shorter than the time between two runs: it will be broken between them", n))
		}
		if e.Schedule == "" && e.RPO > 0 {
			out = append(out, fmt.Sprintf("environments.%s: rpo without a schedule: nothing takes snapshots by itself", n))
		}
	}
	return out
}
