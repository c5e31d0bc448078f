package configs

import (
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

func (v *validator) environment(e *Environment, key keyPath) {
	v.zone(e.TimeZone, key.child("time_zone"))
	if e.Schedule != "" {
		v.schedule(e.Schedule, e.TimeZone, key.child("schedule"))
	}
	sourceValidator{v}.all(e.Sources, key)
	v.hooks(e.Hooks.Before, key.child("hooks", "before"))
	v.hooks(e.Hooks.After, key.child("hooks", "after"))
	v.hooks(e.Hooks.OnFailure, key.child("hooks", "on_failure"))
	v.generations(e, key)
	if e.Scale != nil {
		v.scale(e, key.child("scale"))
	}
	if e.Drill != nil {
		v.drill(e.Drill, e.TimeZone, key.child("drill"))
	}
	v.knownGood(e, key.child("known_good"))
	v.drift(e.Drift, e.TimeZone, key.child("drift"))
	v.ping(e.Ping, key.child("ping"))
}

type sourceValidator struct{ *validator }

func (v sourceValidator) all(sources []Source, key keyPath) {
	if len(sources) == 0 {
		v.addf(key.child("sources"), "there is nothing to capture: it needs sources")
	}
	var paths, outputs []string
	for i := range sources {
		s, k := &sources[i], key.child("sources").item(i)
		switch {
		case s.Path != "" && s.Command != nil:
			v.addf(k, "a source is a path or a command, not both")
		case s.Path != "":
			v.pathSource(s, paths, k)
			paths = append(paths, s.Path)
		case s.Command != nil:
			v.commandSource(s, outputs, k)
			outputs = append(outputs, s.As)
		default:
			v.addf(k, "a source needs a path or a command")
		}
	}
	for i := range sources {
		if as := sources[i].As; as != "" && sources[i].Path == "" {
			v.outputAgainstPaths(as, paths, key.child("sources").item(i).child("as"))
		}
	}
}

// outputAgainstPaths refuses the output of a command in the place of what a
// path source captures: outputs lie where paths do, counted from the root.
func (v sourceValidator) outputAgainstPaths(as string, paths []string, key keyPath) {
	for _, p := range paths {
		if isWithin(strings.TrimPrefix(p, "/"), as) {
			v.addf(key, "%q is where the source %q is captured: choose another", as, p)
			return
		}
	}
}

// isWithin reports whether a path is another, or lies below it.
func isWithin(p, parent string) bool { return p == parent || strings.HasPrefix(p, parent+"/") }

// require checks what a source must be like; allowed are the words for its kind.
func (v sourceValidator) require(s *Source, key keyPath, allowed ...string) {
	if s.Require != "" && !slices.Contains(allowed, s.Require) {
		v.addf(key.child("require"), "%q is not what can be required of it: %s", s.Require, strings.Join(allowed, " or "))
	}
}

func (v sourceValidator) pathSource(s *Source, seen []string, key keyPath) {
	v.require(s, key, "mounted", "not_empty")
	k := key.child("path")
	switch {
	case !path.IsAbs(s.Path) || strings.ContainsRune(s.Path, 0):
		v.absolute(s.Path, k)
	case path.Clean(s.Path) != s.Path:
		v.addf(k, "write it as %q", path.Clean(s.Path))
	case slices.Contains(seen, s.Path):
		v.addf(k, "%q is a source already", s.Path)
	}
	if s.As != "" || s.Restore != nil || s.Timeout != 0 || s.Outside {
		v.addf(key, "as, restore, timeout and outside belong to command sources")
	}
	if a := s.Attributes; a != "" && a != "current" && a != "cached" {
		v.addf(key.child("attributes"), "%q is neither current nor cached", a)
	}
	v.patterns(s.Include, key.child("include"))
	v.patterns(s.Exclude, key.child("exclude"))
	for i, n := range s.ExcludeIfPresent {
		if n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00") {
			v.addf(key.child("exclude_if_present").item(i), "%q is not the name of a file", n)
		}
	}
}

func (v *validator) patterns(patterns []string, key keyPath) {
	for i, p := range patterns {
		if strings.TrimLeft(p, "!") == "" || !doublestar.ValidatePattern(strings.TrimPrefix(p, "!")) {
			v.addf(key.item(i), "%q is not a valid pattern", p)
		}
	}
}

func (v sourceValidator) commandSource(s *Source, seen []string, key keyPath) {
	v.require(s, key, "not_empty")
	v.command(s.Command, key.child("command"))
	if len(s.Include)+len(s.Exclude)+len(s.ExcludeIfPresent) > 0 || s.ExcludeCaches || s.OneFileSystem || s.MaxFileSize > 0 || s.Attributes != "" || s.Frozen {
		v.addf(key, "patterns, limits, attributes and frozen belong to path sources")
	}
	if s.Restore != nil {
		v.command(s.Restore, key.child("restore"))
	}
	k := key.child("as")
	if s.As == "" {
		v.addf(key, "a command needs as: the path of its output in the snapshot, such as db/web.dump")
		return
	}
	if !isPlain(s.As) {
		v.addf(k, "%q is not a plain relative path, such as db/web.dump", s.As)
	}
	for _, other := range seen {
		if isWithin(s.As, other) || isWithin(other, s.As) {
			v.addf(k, "%q and %q are in each other's way", s.As, other)
		}
	}
}

// isPlain reports whether a path is relative, and leads nowhere else.
func isPlain(p string) bool {
	return p != "" && !path.IsAbs(p) && path.Clean(p) == p && p != "." && !isWithin(p, "..") && !strings.ContainsRune(p, 0)
}

func (v *validator) hooks(hooks []Hook, key keyPath) {
	for i, h := range hooks {
		v.command(h.Command, key.item(i))
	}
}

func (v *validator) command(argv []string, key keyPath) {
	if len(argv) == 0 || argv[0] == "" {
		v.addf(key, "a command needs a program: [program, argument, ...]")
	}
	for i, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			v.addf(key.item(i), "an argument cannot hold a NUL")
		}
	}
}
