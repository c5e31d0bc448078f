package manifest

import (
	"bytes"
	"fmt"
	"math"
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
	Frozen           bool   // the host declares that nothing changed in it while it was captured
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
	frozen

	sourceFlags = oneFileSystem | excludeCaches | cachedAttributes | frozen
)

func (s *Source) flags() (f uint64) {
	for _, x := range []struct {
		set bool
		bit uint64
	}{{s.OneFileSystem, oneFileSystem}, {s.ExcludeCaches, excludeCaches}, {s.CachedAttributes, cachedAttributes}, {s.Frozen, frozen}} {
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
		b = appendSource(b, &sources[i])
	}
	return b
}

func appendSource(b []byte, s *Source) []byte {
	record, _ := wire.Encode(func(c *wire.Codec) { s.fields(c, new(int)) }) // which refuses only what it reads
	return wire.AppendBytes(b, record)
}

// parseSource reads a source whose lists have at most *left elements together,
// and takes those from it.
func parseSource(b []byte, left *int) (s Source, err error) {
	if err := wire.Decode(b, func(c *wire.Codec) { s.fields(c, left) }); err != nil {
		return Source{}, err
	}
	if s.Path == "" || !sortedPaths(s.Mounts) || !sortedPaths(s.Entered) {
		return Source{}, fmt.Errorf("source %q: %w", s.Path, wire.ErrMalformed)
	}
	return s, nil
}

func (s *Source) fields(c *wire.Codec, left *int) {
	path, resolved := []byte(s.Path), []byte(s.Resolved)
	c.Bytes(2, &path)
	c.Bytes(4, &resolved)
	s.Path, s.Resolved = string(path), string(resolved)
	for _, l := range []struct {
		tag  uint64
		list *[]string
	}{{6, &s.Include}, {8, &s.Exclude}, {10, &s.ExcludeIfPresent}, {16, &s.Mounts}, {18, &s.Entered}, {20, &s.Command}, {22, &s.Restore}} {
		c.Texts(l.tag, l.list, *left)
		*left -= len(*l.list)
	}

	flags := s.flags()
	if c.Uint(12, &flags, 0, math.MaxUint64); flags&^sourceFlags != 0 {
		c.Refuse(fmt.Errorf("flags %#x of a source: %w", flags, wire.ErrVersion))
	}
	s.OneFileSystem, s.ExcludeCaches, s.CachedAttributes, s.Frozen = flags&oneFileSystem != 0, flags&excludeCaches != 0, flags&cachedAttributes != 0, flags&frozen != 0
	c.Uint(14, &s.MaxFileSize, 0, math.MaxUint64)
	c.Uint(24, &s.Files, 0, math.MaxUint64)
	c.Uint(26, &s.Directories, 0, math.MaxUint64)
	c.Uint(28, &s.Bytes, 0, math.MaxUint64)
	c.Unknown(&s.Unknown)
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

// EqualSources reports whether two lists of sources have the same.
func EqualSources(a, b []Source) bool {
	return bytes.Equal(appendSources(nil, a), appendSources(nil, b))
}

// EntryPath is the path of a source as that of an entry.
func EntryPath(source string) string { return strings.Trim(path.Clean(source), "/") }
