package snapshot

import (
	"strings"

	"knowngood/internal/posix"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// Scope is what a list of sources means of a tree of entries: each path belongs
// to the innermost source that it lies in, whose rules decide. It never changes
// and may be shared.
type Scope struct {
	sources map[string]*walk.Source // by the path of an entry
}

// NewScope makes the scope of sources, which must not be changed any more.
func NewScope(sources []walk.Source) *Scope {
	s := &Scope{sources: make(map[string]*walk.Source, len(sources))}
	for i := range sources {
		s.sources[manifest.EntryPath(sources[i].Path)] = &sources[i]
	}
	return s
}

// Scope is what the sources of the snapshot mean, with the rules under which it
// was captured. Outputs of commands belong to no source of it.
func (t *Tree) Scope() (*Scope, error) {
	var sources []walk.Source
	for i := range t.Table.Sources {
		if len(t.Table.Sources[i].Command) > 0 {
			continue
		}
		s, err := WalkSource(&t.Table.Sources[i])
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	return NewScope(sources), nil
}

// Source is the innermost source that the path of an entry lies in, with the
// path relative to it; nil when there is none.
func (s *Scope) Source(path string) (in *walk.Source, rel string) {
	for at := path; ; at = at[:max(0, strings.LastIndexByte(at, '/'))] {
		if in = s.sources[at]; in != nil {
			return in, strings.TrimPrefix(path[len(at):], "/")
		}
		if at == "" {
			return nil, ""
		}
	}
}

// Decide is what the rules of the innermost source decide of a path; Parent where
// there is no such source.
func (s *Scope) Decide(path string, isDir bool) filter.Decision {
	in, rel := s.Source(path)
	if in == nil {
		return filter.Parent
	}
	return in.Rules.Match(rel, isDir)
}

// LeavesOut reports whether a capture would leave out a node that exists, and
// all below it, by rules that go by path and size. What lies in no source is
// not left out by a rule.
func (s *Scope) LeavesOut(path string, st *posix.Stat) bool {
	in, rel := s.Source(path)
	if in == nil {
		return false
	}
	return in.TooLarge(st) || in.Rules.Match(rel, st.Type == manifest.Dir) == filter.Exclude
}

// LeavesOutContent reports whether a capture would leave out what is in a
// directory because of a mark in it; see walk.Source.MarkedBy.
func (s *Scope) LeavesOutContent(path string, fd int, has func(name string) bool) bool {
	in, _ := s.Source(path)
	return in != nil && in.MarkedBy(fd, has) != 0
}
