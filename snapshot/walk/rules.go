package walk

import (
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// The mark of cache directories, as https://bford.info/cachedir/ defines it.
const (
	cacheTag       = "CACHEDIR.TAG"
	cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55"
)

// MarkedBy returns why the content of a directory of the source is left out
// because of what is in it: Marked, Cache, or 0. fd is open for listing; has
// reports whether the directory holds a name.
func (s *Source) MarkedBy(fd int, has func(name string) bool) Reason {
	switch {
	case slices.ContainsFunc(s.ExcludeIfPresent, has):
		return Marked
	case s.ExcludeCaches && has(cacheTag) && isCache(fd):
		return Cache
	}
	return 0
}

// TooLarge reports whether a node is a file above the source's limit.
func (s *Source) TooLarge(st *posix.Stat) bool {
	return st.Type == manifest.File && s.MaxFileSize > 0 && st.Size > s.MaxFileSize
}

// isCache reports whether the tag in a directory is a valid one. A tag that
// cannot be read marks nothing: too much is captured rather than too little.
func isCache(dirfd int) bool {
	fd, _, err := posix.OpenFile(dirfd, cacheTag)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	buf := make([]byte, len(cacheSignature))
	n, err := unix.Pread(fd, buf, 0)
	return (err == nil || err == io.EOF) && string(buf[:max(n, 0)]) == cacheSignature
}
