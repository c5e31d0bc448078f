package snapshot

import (
	"fmt"
	"slices"
	"time"

	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/statement"
)

// recordSources are the sources of the run as the manifest has them, trees
// first, without what the run finds out.
func (c *capture) recordSources() []manifest.Source {
	var out []manifest.Source
	for i, s := range c.Sources {
		include, exclude := s.Rules.Patterns()
		out = append(out, manifest.Source{Path: s.Path, Include: include, Exclude: exclude, ExcludeIfPresent: s.ExcludeIfPresent,
			OneFileSystem: s.OneFileSystem, ExcludeCaches: s.ExcludeCaches, CachedAttributes: s.CachedAttributes, Frozen: c.expect(i).Frozen, MaxFileSize: s.MaxFileSize})
	}
	for _, x := range c.Commands {
		out = append(out, manifest.Source{Path: x.As, Command: x.Argv, Restore: x.Restore})
	}
	return out
}

// WalkSource is the source of a manifest as a walk takes it, with the rules of
// the capture. It must be a tree.
func WalkSource(s *manifest.Source) (walk.Source, error) {
	rules, err := filter.Compile(s.Path, s.Include, s.Exclude)
	if err != nil {
		return walk.Source{}, fmt.Errorf("the rules of source %q in the snapshot: %w", s.Path, err)
	}
	return walk.Source{Path: s.Path, Rules: rules, OneFileSystem: s.OneFileSystem, ExcludeCaches: s.ExcludeCaches, ExcludeIfPresent: s.ExcludeIfPresent, MaxFileSize: s.MaxFileSize,
		CachedAttributes: s.CachedAttributes}, nil
}

// resolved notes where a source leads to over symbolic links.
func (c *capture) resolved(source, real string) {
	c.real[source] = real
	c.Progress.note(fmt.Sprintf("%s leads to %s over symbolic links; what is there is captured", source, real))
}

// keptLink notes that of a source nothing but a symbolic link is captured.
func (c *capture) keptLink(source string) {
	c.Progress.note(fmt.Sprintf("%s is a symbolic link to a file; the link is captured, and not the file: for that, give the path of the file", source))
}

// sourceCounts are the counts per source for those who hold no identity.
func (c *capture) sourceCounts(sources []manifest.Source) []statement.SourceCounts {
	var out []statement.SourceCounts
	for i := range sources {
		s := &sources[i]
		out = append(out, statement.SourceCounts{Tag: c.host.Domain.SourceTag(s.Path), Files: s.Files, Directories: s.Directories, Bytes: s.Bytes})
	}
	return out
}

// sourceCounter counts entries, which come in path order, for the innermost
// source that each lies in. It takes the word frozen from those in which something
// changed after the run had started.
type sourceCounter struct {
	sources []manifest.Source
	started time.Time
	thawed  []string     // what changed first in each such source
	paths   []sourcePath // sorted
	next    int
	any     bool         // something was captured, not only the way to a source
	used    []bool       // of each source likewise
	open    []sourcePath // the sources that the last entry lay in, outermost first
}

// sourcePath is the path of a source as that of an entry.
type sourcePath struct {
	path string
	at   int // position among the sources
}

func newSourceCounter(sources []manifest.Source, started time.Time) sourceCounter {
	c := sourceCounter{sources: sources, started: started, used: make([]bool, len(sources))}
	for i := range sources {
		c.paths = append(c.paths, sourcePath{manifest.EntryPath(sources[i].Path), i})
	}
	slices.SortStableFunc(c.paths, func(a, b sourcePath) int { return manifest.Compare(a.path, b.path) })
	return c
}

func (c *sourceCounter) add(e *manifest.Entry) {
	for n := len(c.open); n > 0 && !manifest.Within(e.Path, c.open[n-1].path); n = len(c.open) {
		c.open = c.open[:n-1]
	}
	for c.next < len(c.paths) && manifest.Compare(c.paths[c.next].path, e.Path) <= 0 {
		if manifest.Within(e.Path, c.paths[c.next].path) {
			c.open = append(c.open, c.paths[c.next])
		}
		c.next++
	}
	if e.Flags&manifest.Implied != 0 {
		return
	}
	c.any = true
	if len(c.open) == 0 {
		return
	}

	at := c.open[len(c.open)-1].at
	c.used[at] = true
	s := &c.sources[at]
	if s.Frozen && e.Stat.Ctime.Time().After(c.started) {
		s.Frozen, c.thawed = false, append(c.thawed, e.Path)
	}
	switch e.Type {
	case manifest.File:
		s.Files++
		s.Bytes += e.Size
	case manifest.Dir:
		s.Directories++
	}
}

// nothing are the sources whose include patterns match nothing that exists.
func (c *sourceCounter) nothing() (out []*manifest.Source) {
	for i := range c.sources {
		if s := &c.sources[i]; len(s.Include) > 0 && !c.used[i] {
			out = append(out, s)
		}
	}
	return out
}

// mountPoint is the path of an entry on which another file system is mounted.
type mountPoint struct {
	path    string
	entered bool
}

// list is the sources with their counts, and the mount points in each.
func (c *sourceCounter) list(mounts []mountPoint) []manifest.Source {
	for _, m := range mounts {
		for _, p := range slices.Backward(c.paths) { // the innermost comes first
			if !manifest.Within(m.path, p.path) {
				continue
			}
			if s := &c.sources[p.at]; m.entered {
				s.Entered = append(s.Entered, m.path)
			} else {
				s.Mounts = append(s.Mounts, m.path)
			}
			break
		}
	}
	return c.sources
}
