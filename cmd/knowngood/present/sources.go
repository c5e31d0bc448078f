package present

import (
	"fmt"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
	"knowngood/snapshot/manifest"
)

// RuleLines describe a source of a snapshot with its rules, each as a label and
// a text.
func RuleLines(s *manifest.Source) [][2]string {
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
	if s.Frozen {
		add("  frozen", "nothing in it changed meanwhile, as its host declares")
	}
	add("  contains", fmt.Sprintf("%s, %s, %s", human.Counted(s.Files, "file"), human.Counted(s.Directories, "directory"), human.Bytes(s.Bytes)))
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
	Frozen           bool               `json:"frozen,omitempty"`
	MaxFileSize      uint64             `json:"max_file_size,omitempty"`
	NotEntered       []console.PathJSON `json:"not_entered,omitempty"`
	Command          []string           `json:"command,omitempty"`
	Restore          []string           `json:"restore,omitempty"`
	Files            uint64             `json:"files"`
	Directories      uint64             `json:"directories"`
	Bytes            uint64             `json:"bytes"`
}

func SourcesJSON(sources []manifest.Source) []sourceJSON {
	return console.Each(sources, func(s manifest.Source) sourceJSON {
		return sourceJSON{console.JSONName(s.Path), s.Resolved, console.Exact(s.Resolved), s.Include, s.Exclude, s.ExcludeIfPresent, s.ExcludeCaches, s.OneFileSystem, s.CachedAttributes, s.Frozen, s.MaxFileSize,
			console.Each(s.Mounts, console.JSONPath), s.Command, s.Restore, s.Files, s.Directories, s.Bytes}
	})
}
