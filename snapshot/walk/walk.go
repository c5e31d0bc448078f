// Package walk reads the trees of an environment's sources, in parallel, and
// yields one node after the other in the order of manifest.Compare.
//
// Workers list directories and describe their nodes ahead of the consumer, as
// far as a budget of memory allows; what nobody has read when the consumer
// comes to it, the consumer reads itself. A directory costs its names while it
// is walked. Nothing is resolved by path below a source: every directory is
// opened from its parent, so trees deeper than PATH_MAX and links that are
// exchanged meanwhile are no special cases, and the number of open descriptors
// does not grow with the tree.
//
// What cannot be read is yielded with its error and does not end the walk; a
// source that is missing does.
package walk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"knowngood/internal/posix"
	"knowngood/snapshot/filter"
)

// Source is a tree to be walked, or a single node of any type.
//
// It is recorded at the path given here. Symbolic links on the way, and one at
// its end that leads to a directory, are recorded as the directories that they
// lead to, so that the path names the same data when the link, such as that of
// a current release, moves on. They are followed only where nobody but root and
// the running user could have made them lead elsewhere; see UnsafeLinkError.
// Any other link at the end is the node itself.
type Source struct {
	// Path is absolute.
	Path string
	// At is where what is recorded at Path lies, when it lies elsewhere: an absolute
	// path without links, which the caller trusts.
	At string
	// Rules decide about paths below the source, never about the source
	// itself; nil includes all.
	Rules *filter.Rules
	// OneFileSystem keeps directories of other devices empty. Files that are
	// mounted are captured.
	OneFileSystem bool
	// ExcludeCaches leaves out what is in directories that are marked by a
	// CACHEDIR.TAG with the known signature; the tag stays.
	ExcludeCaches bool
	// ExcludeIfPresent leaves out what is in directories that hold one of
	// these names; those names stay.
	ExcludeIfPresent []string
	// MaxFileSize leaves out larger files, in bytes; 0 sets no limit.
	MaxFileSize uint64
	// CachedAttributes believes what the kernel remembers of files on network
	// and FUSE file systems, instead of asking these for each file.
	CachedAttributes bool
	// Sealed means that all of it was made immutable where it lies, which is no part of it.
	Sealed bool
}

// Options of a walk.
type Options struct {
	// Sources are walked as one tree, in the order of their paths. Where
	// one lies in another, each path is yielded once and belongs to the
	// innermost source, whatever the rules of the outer one are. A source
	// given twice must be given with equal settings.
	Sources []Source
	// Omit names nodes that are left out wherever they turn up: the
	// repository and the state directory. A source itself is not omitted.
	Omit []posix.DevIno
	// Skipped, when set, is called with what is left out, in path order between
	// the calls of yield: the node at path, or for reasons of directories
	// (see Reason) what is in it.
	Skipped func(path string, why Reason)
	// Resolved, when set, is called with each source that is reached over symbolic
	// links, and the real path of what is walked, before its first node.
	Resolved func(source, real string)
	// KeptLink, when set, is called with each source that is a symbolic link to
	// something else than a directory: it is walked as the link that it is.
	KeptLink func(source string)
	// Workers that read ahead; 0 chooses a number for this machine. File
	// systems that have to be asked for attributes get remoteWorkers more.
	Workers int
}

// Reason why something was left out.
type Reason uint8

const (
	// Excluded by a rule.
	Excluded Reason = iota + 1
	// Omitted because it is one of Options.Omit, or holds generations.
	Omitted
	// TooLarge is a file above MaxFileSize.
	TooLarge
	// OtherFileSystem is a directory that is captured empty.
	OtherFileSystem
	// Cache is a directory that is captured with nothing but its tag.
	Cache
	// Marked is a directory that is captured with nothing but its marks.
	Marked
	// KernelFileSystem is a directory that is captured empty: on it is mounted
	// an interface of the kernel, such as /proc, and the source is not in it.
	KernelFileSystem
	// Unfinished is a file that a restore left which did not finish.
	Unfinished
)

func (r Reason) String() string {
	switch r {
	case Excluded:
		return "excluded by a pattern"
	case Omitted:
		return "belongs to knowngood"
	case TooLarge:
		return "larger than the limit"
	case OtherFileSystem:
		return "on another file system"
	case Cache:
		return "marked as a cache"
	case Marked:
		return "marked to be left out"
	case KernelFileSystem:
		return "a file system of the kernel"
	case Unfinished:
		return "left by a restore that did not finish"
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// SourceError is a source that cannot be walked at all.
type SourceError struct {
	Path string
	Err  error
}

func (e *SourceError) Error() string {
	if link := (*DanglingLinkError)(nil); errors.As(e.Err, &link) {
		return fmt.Sprintf("source %q %v", e.Path, link)
	}
	if errors.Is(e.Err, fs.ErrNotExist) {
		return fmt.Sprintf("source %s does not exist: is the disk mounted? Otherwise correct the path", e.Path)
	}
	return fmt.Sprintf("source %q: %v", e.Path, e.Err)
}

func (e *SourceError) Unwrap() error { return e.Err }

// Walk yields the nodes of all sources, first the root of the file system and
// all other parents of sources as implied nodes. It ends with the first error
// of yield, the cause of ctx's end, or a *SourceError.
//
// Yield is called from the goroutine that called Walk. It may keep the node,
// and use its Dir after Walk has returned, but has to release each Dir, even
// when it does not use it.
func Walk(ctx context.Context, opts Options, yield func(*Node) error) error {
	top, err := plan(opts.Sources)
	if err != nil {
		return err
	}
	workers := opts.Workers
	if workers <= 0 {
		workers = min(max(4, 2*runtime.GOMAXPROCS(0)), 32)
	}
	w := newWalker(opts)
	defer w.stop()
	w.start(workers)
	stop := context.AfterFunc(ctx, func() { w.halt(context.Cause(ctx)) })
	defer stop()
	e := &emitter{walker: w, lister: newLister(w), yield: yield}
	if err := e.place(top); err != nil {
		return err
	}
	return context.Cause(ctx) // which the last nodes may not have noticed
}
