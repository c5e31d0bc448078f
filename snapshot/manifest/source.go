package manifest

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"knowngood/internal/wire"
)

// Source is one source of a snapshot with the rules under which it was
// captured. The rules of a capture belong to the snapshot: what they left out
// is no difference of a later state, and nothing to delete.
type Source struct {
	// Path as configured, absolute; of a command the path of its output, as
	// that of an entry.
	Path string
	// Resolved is where Path led to, free of links, when there were symbolic
	// links on the way; else "".
	Resolved string

	Include, Exclude []string // patterns in order; see package filter
	ExcludeIfPresent []string
	OneFileSystem    bool
	ExcludeCaches    bool
	CachedAttributes bool   // change was detected by attributes that a network file system had cached
	MaxFileSize      uint64 // bytes; 0 sets no limit
	// Mounts and Entered are the mount points that were met, as paths of
	// entries in path order: those that were captured as empty directories,
	// and those whose content was captured.
	Mounts, Entered []string

	Command []string // arguments of a command source; none for a tree
	Restore []string // arguments of the command that takes its output back

	Counts
	Unknown []wire.Field // fields of newer versions, kept
}

// Counts of what a source contributed; Bytes are those of files, holes
// included.
type Counts struct{ Files, Directories, Bytes uint64 }

// MaxSources is how many sources a snapshot may have.
const MaxSources = 4096

// maxSourceLists is how many elements all lists of all sources of a table have
// together: patterns, arguments, mount points.
const maxSourceLists = 1 << 20

// Flags of a source's record.
const (
	oneFileSystem = 1 << iota
	excludeCaches
	cachedAttributes

	sourceFlags = oneFileSystem | excludeCaches | cachedAttributes
)

func (s *Source) flags() (f uint64) {
	for _, x := range []struct {
		set bool
		bit uint64
	}{{s.OneFileSystem, oneFileSystem}, {s.ExcludeCaches, excludeCaches}, {s.CachedAttributes, cachedAttributes}} {
		if x.set {
			f |= x.bit
		}
	}
	return f
}

// appendSources appends the value of the table's field of sources.
func appendSources(b []byte, sources []Source) []byte {
	b = wire.AppendUvarint(b, uint64(len(sources)))
	for i := range sources {
		s := &sources[i]
		var r wire.Record
		r.Text(2, s.Path)
		r.Text(4, s.Resolved)
		r.List(6, fromStrings(s.Include))
		r.List(8, fromStrings(s.Exclude))
		r.List(10, fromStrings(s.ExcludeIfPresent))
		r.Uint(12, s.flags())
		r.Uint(14, s.MaxFileSize)
		r.List(16, fromStrings(s.Mounts))
		r.List(18, fromStrings(s.Entered))
		r.List(20, fromStrings(s.Command))
		r.List(22, fromStrings(s.Restore))
		r.Uint(24, s.Files)
		r.Uint(26, s.Directories)
		r.Uint(28, s.Bytes)
		r.Unknown(s.Unknown)
		b = wire.AppendBytes(b, r.Append(nil))
	}
	return b
}

// parseSource reads a source whose lists have at most *left elements together,
// and takes those from it.
func parseSource(b []byte, left *int) (Source, error) {
	f, err := wire.ParseRecord(b)
	if err != nil {
		return Source{}, err
	}
	s := Source{Path: string(f.Bytes(2)), Resolved: string(f.Bytes(4))}
	lists := []struct {
		tag uint64
		to  *[]string
	}{{6, &s.Include}, {8, &s.Exclude}, {10, &s.ExcludeIfPresent}, {16, &s.Mounts}, {18, &s.Entered}, {20, &s.Command}, {22, &s.Restore}}
	for _, l := range lists {
		*l.to = toStrings(f.List(l.tag, *left))
		*left -= len(*l.to)
	}

	flags := f.Uint(12)
	if flags&^sourceFlags != 0 {
		return Source{}, fmt.Errorf("flags %#x of a source: %w", flags, wire.ErrVersion)
	}
	s.OneFileSystem, s.ExcludeCaches, s.CachedAttributes = flags&oneFileSystem != 0, flags&excludeCaches != 0, flags&cachedAttributes != 0
	s.MaxFileSize = f.Uint(14)
	s.Files, s.Directories, s.Bytes = f.Uint(24), f.Uint(26), f.Uint(28)

	if s.Unknown, err = f.Finish(); err != nil {
		return Source{}, err
	}
	if s.Path == "" || !sortedPaths(s.Mounts) || !sortedPaths(s.Entered) {
		return Source{}, fmt.Errorf("source %q: %w", s.Path, wire.ErrMalformed)
	}
	return s, nil
}

// sortedPaths reports whether paths of entries are in order, without
// duplicates.
func sortedPaths(paths []string) bool {
	for i := range paths {
		if i > 0 && Compare(paths[i-1], paths[i]) >= 0 || !ValidPath(paths[i]) {
			return false
		}
	}
	return true
}

// EqualSources reports whether two lists of sources say the same.
func EqualSources(a, b []Source) bool {
	return bytes.Equal(appendSources(nil, a), appendSources(nil, b))
}

// EntryPath is the path of a source as that of an entry.
func EntryPath(source string) string { return strings.Trim(path.Clean(source), "/") }
