// Package selection chooses files of a snapshot by patterns.
package selection

import (
	"slices"
	"strings"

	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// Of is what include and exclude patterns choose of a snapshot; nil is
// all. They mean what they mean for a capture: they are relative to the source
// that a path lies in, or to one around it. Besides, an absolute pattern may match a source, or a
// directory above it, and a source that is a single file is chosen by its name.
func Of(table *manifest.Table, include, exclude []string) (*snapshot.Scope, error) {
	if len(include)+len(exclude) == 0 {
		return nil, nil
	}
	var sources []walk.Source
	var paths []string
	for i := range table.Sources {
		paths = append(paths, "/"+manifest.EntryPath(table.Sources[i].Path))
	}
	for i := range table.Sources {
		rules, err := rulesOf(&table.Sources[i], paths, include, exclude)
		if err != nil {
			return nil, err
		}
		sources = append(sources, walk.Source{Path: paths[i], Rules: rules})
	}
	return snapshot.NewScope(sources), nil
}

// rulesOf is what patterns choose of one source of a snapshot that has
// sources at these paths.
func rulesOf(s *manifest.Source, sources, include, exclude []string) (*filter.Rules, error) {
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

	// A pattern that names the source itself does not concern what is below.
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
