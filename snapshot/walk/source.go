package walk

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// place is a path that is a source, or leads to sources.
type place struct {
	path   string // of an entry
	name   string
	source *Source  // nil where it merely leads to some
	below  []*place // sorted by name
}

func (p *place) abs() string { return "/" + p.path }

// at is where the source of the place lies.
func (p *place) at() string { return cmp.Or(p.source.At, p.abs()) }

// child finds what leads on over name, or nil.
func (p *place) child(name string) *place {
	if p == nil {
		return nil
	}
	i := sort.Search(len(p.below), func(i int) bool { return p.below[i].name >= name })
	if i < len(p.below) && p.below[i].name == name {
		return p.below[i]
	}
	return nil
}

// fail is the error of the first source at or below the place.
func (p *place) fail(err error) *SourceError {
	for p.source == nil && len(p.below) > 0 {
		p = p.below[0]
	}
	if p.source == nil {
		return &SourceError{p.abs(), err}
	}
	return &SourceError{p.source.Path, err}
}

// plan arranges the sources by their paths.
func plan(sources []Source) (*place, error) {
	top := &place{}
	for i := range sources {
		s := &sources[i]
		if !path.IsAbs(s.Path) || strings.IndexByte(s.Path, 0) >= 0 {
			return nil, &SourceError{s.Path, errors.New("not an absolute path")}
		}
		at, rel := top, strings.TrimPrefix(path.Clean(s.Path), "/")
		for end := 0; end < len(rel); {
			start := end
			if start > 0 {
				start++
			}
			if end = strings.IndexByte(rel[start:], '/') + start; end < start {
				end = len(rel)
			}
			next := at.child(rel[start:end])
			if next == nil {
				next = &place{path: rel[:end], name: rel[start:end]}
				at.below = append(at.below, next)
				slices.SortFunc(at.below, func(a, b *place) int { return strings.Compare(a.name, b.name) })
			}
			at = next
		}
		if at.source != nil && !at.source.equal(s) {
			return nil, &SourceError{s.Path, errors.New("given twice with different settings")}
		}
		at.source = s
	}
	return top, check(top, "")
}

func (s *Source) equal(o *Source) bool {
	return s.At == o.At && s.Rules == o.Rules && s.OneFileSystem == o.OneFileSystem && s.ExcludeCaches == o.ExcludeCaches &&
		slices.Equal(s.ExcludeIfPresent, o.ExcludeIfPresent) && s.MaxFileSize == o.MaxFileSize && s.CachedAttributes == o.CachedAttributes && s.Sealed == o.Sealed
}

// volume is that of nodes of the source on a volume.
func (s *Source) volume(v *posix.Volume) *posix.Volume {
	if s.Sealed {
		return v.Sealed()
	}
	return v
}

// check finds sources that are missing, and those that lie behind a symbolic
// link in another source: that link cannot be captured both as itself and as a
// directory. At is where the place lies when it is in a source; else "".
func check(p *place, at string) error {
	if p.source != nil {
		at = p.at()
	}
	if at != "" {
		st, err := posix.StatAt(unix.AT_FDCWD, at)
		if err != nil {
			return p.fail(err)
		}
		if p.source == nil && len(p.below) > 0 && st.Type == manifest.Symlink {
			return p.below[0].fail(fmt.Errorf("it lies behind the symbolic link %s, which is in another source; give the path that the link leads to", p.abs()))
		}
	}
	if p.source != nil {
		t, _, err := openSource(p)
		if err != nil {
			return p.fail(err)
		}
		t.release()
	}
	for _, b := range p.below {
		below := ""
		if at != "" {
			below = path.Join(at, b.name)
		}
		if err := check(b, below); err != nil {
			return err
		}
	}
	return nil
}

// openSource opens the tree in which a source lies, and describes the source,
// which has the name of n there: "." where the tree is the source itself.
func openSource(p *place) (*tree, *Node, error) {
	at := p.at()
	r, err := follow(path.Dir(at))
	if err != nil {
		return nil, nil, err
	}
	n := &Node{Path: p.path, Name: path.Base(at), Listed: true}
	if at == "/" {
		n.Name = "."
	}
	if n.Stat, err = posix.StatAt(r.fd, n.Name); err != nil {
		r.close()
		return nil, nil, err
	}
	if n.Stat.Type == manifest.Symlink || n.Stat.Type == manifest.Dir && p.source.At != "" { // the name in there is not that of the path
		end, err := follow(at)
		switch {
		case err != nil:
			r.close()
			return nil, nil, dangling(at, err)
		case end.stat.Type != manifest.Dir:
			end.close()
		default:
			r.close()
			r, n.Name, n.Stat = end, ".", end.stat
		}
	}
	t, err := openTree(r)
	return t, n, err
}

// openTree makes a tree of the directory that a route ends at, and takes over
// its descriptor.
func openTree(r *route) (*tree, error) {
	if err := r.safe(); err != nil {
		r.close()
		return nil, err
	}
	dirs, err := posix.NewDirs(r.fd, posix.DirsLimit)
	if err != nil {
		return nil, err
	}
	t := &tree{dirs: dirs, stat: r.stat, real: r.real, linked: r.link != ""}
	t.refs.Store(1)
	// A run that fails may leave nodes behind without a release.
	runtime.AddCleanup(t, func(ds *posix.Dirs) { ds.Close() }, dirs)
	return t, nil
}
