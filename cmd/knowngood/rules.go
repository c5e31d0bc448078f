package main

import (
	"fmt"
	"slices"
	"strings"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/runner"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// selection is what include and exclude patterns choose of a snapshot; nil is
// all. They mean what they mean for a capture: they are relative to the source
// that a path lies in, or to one around it. Besides, an absolute pattern may match a source, or a
// directory above it, and a source that is a single file is chosen by its name.
func selection(table *manifest.Table, include, exclude []string) (*snapshot.Scope, error) {
	if len(include)+len(exclude) == 0 {
		return nil, nil
	}
	var sources []walk.Source
	var paths []string
	for i := range table.Sources {
		paths = append(paths, "/"+manifest.EntryPath(table.Sources[i].Path))
	}
	for i := range table.Sources {
		rules, err := selectionOf(&table.Sources[i], paths, include, exclude)
		if err != nil {
			return nil, usage.Errorf("%w", err)
		}
		sources = append(sources, walk.Source{Path: paths[i], Rules: rules})
	}
	return snapshot.NewScope(sources), nil
}

// selectionOf is what patterns choose of one source of a snapshot that has
// sources at these paths.
func selectionOf(s *manifest.Source, sources, include, exclude []string) (*filter.Rules, error) {
	path := manifest.EntryPath(s.Path)
	single := len(s.Command) > 0 || s.Files == 1 && s.Directories == 0
	matches := func(patterns []string) (bool, error) {
		if !single {
			patterns = slices.DeleteFunc(slices.Clone(patterns), func(p string) bool { return !strings.HasPrefix(p, "/") })
		}
		if len(patterns) == 0 || path == "" {
			return false, nil
		}
		rules, err := filter.Compile("/", patterns, nil)
		return err == nil && rules.Match(path, !single) == filter.Include, err
	}

	excluded, err := matches(slices.DeleteFunc(slices.Clone(exclude), func(p string) bool { return strings.HasPrefix(p, "!") }))
	if err != nil {
		return nil, err
	}
	included, err := matches(include)
	switch {
	case err != nil:
		return nil, err
	case excluded, single && len(include) > 0 && !included:
		return filter.Nothing(), nil
	case single:
		return nil, nil
	}

	// A pattern that names the source itself says nothing of what is below.
	other := func(patterns []string) []string {
		return slices.DeleteFunc(slices.Clone(patterns), func(p string) bool {
			return strings.HasPrefix(p, "/") && strings.Trim(p, "/") == path
		})
	}
	include, exclude = other(include), other(exclude)
	switch {
	case included:
		include = nil
	case len(include) == 0 && len(exclude) == 0:
		return nil, nil
	}
	return filter.Compile("/"+path, filter.Inner("/"+path, sources, include), filter.Inner("/"+path, sources, exclude))
}

// today is what a capture of the environment would mean now, as the
// configuration has it; nil where it does not have it.
func (a *app) today(environment string) (*snapshot.Scope, error) {
	env := a.config.Environments[environment]
	if env == nil {
		return nil, nil
	}
	o, err := runner.CaptureOptions(environment, env)
	if err != nil {
		return nil, usage.Errorf("%w", err)
	}
	return snapshot.NewScope(o.Sources), nil
}

// ruleLines describe a source of a snapshot with its rules, each as a label and
// a text.
func ruleLines(s *manifest.Source) [][2]string {
	if len(s.Command) > 0 {
		out := [][2]string{{"source", fmt.Sprintf("command %s, as %s", printable.Command(s.Command), printable.Name(s.Path))}}
		if len(s.Restore) > 0 {
			out = append(out, [2]string{"  restore", printable.Command(s.Restore)})
		}
		return out
	}

	var out [][2]string
	add := func(label, text string) { out = append(out, [2]string{label, printable.Name(text)}) }

	add("source", s.Path)
	if s.Resolved != "" {
		add("  leads to", s.Resolved)
	}
	lists := []struct {
		label string
		texts []string
	}{{"  include", s.Include}, {"  exclude", s.Exclude}, {"  if present", s.ExcludeIfPresent}, {"  not entered", rooted(s.Mounts)}}
	for _, l := range lists {
		for _, text := range l.texts {
			add(l.label, text)
		}
	}
	if s.ExcludeCaches {
		add("  leaves out", "directories marked as caches")
	}
	if s.OneFileSystem {
		add("  leaves out", "other file systems")
	}
	if s.MaxFileSize > 0 {
		add("  leaves out", "files larger than "+human.Bytes(s.MaxFileSize))
	}
	if s.CachedAttributes {
		add("  attributes", "cached ones were believed")
	}
	add("  holds", fmt.Sprintf("%s, %s, %s", human.Counted(s.Files, "file"), human.Counted(s.Directories, "directory"), human.Bytes(s.Bytes)))
	return out
}

// rooted are paths of entries as absolute paths.
func rooted(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = "/" + p
	}
	return out
}

// sourceJSON is a source of a snapshot as --json prints it.
type sourceJSON struct {
	console.PathJSON
	Resolved         string             `json:"resolved,omitempty"`
	ExactResolved    []byte             `json:"resolved_base64,omitempty"`
	Include          []string           `json:"include,omitempty"`
	Exclude          []string           `json:"exclude,omitempty"`
	ExcludeIfPresent []string           `json:"exclude_if_present,omitempty"`
	ExcludeCaches    bool               `json:"exclude_caches,omitempty"`
	OneFileSystem    bool               `json:"one_file_system,omitempty"`
	CachedAttributes bool               `json:"cached_attributes,omitempty"`
	MaxFileSize      uint64             `json:"max_file_size,omitempty"`
	NotEntered       []console.PathJSON `json:"not_entered,omitempty"`
	Command          []string           `json:"command,omitempty"`
	Restore          []string           `json:"restore,omitempty"`
	Files            uint64             `json:"files"`
	Directories      uint64             `json:"directories"`
	Bytes            uint64             `json:"bytes"`
}

func sourcesJSON(sources []manifest.Source) []sourceJSON {
	out := []sourceJSON{}
	for i := range sources {
		s := &sources[i]
		var mounts []console.PathJSON
		for _, m := range s.Mounts {
			mounts = append(mounts, console.JSONPath(m))
		}
		out = append(out, sourceJSON{console.JSONName(s.Path), s.Resolved, console.Exact(s.Resolved), s.Include, s.Exclude, s.ExcludeIfPresent, s.ExcludeCaches, s.OneFileSystem, s.CachedAttributes, s.MaxFileSize,
			mounts, s.Command, s.Restore, s.Files, s.Directories, s.Bytes})
	}
	return out
}
