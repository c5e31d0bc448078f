package target

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	"knowngood/snapshot/manifest"
)

// Paths is where the entries of a manifest come to lie. A path without a slash in
// front is that of an entry; "rel" is one below the directory of the target.
type Paths struct {
	under    string // of what is restored; "" is all
	target   string // as the caller names it
	place    string // see Place
	single   string // see Single
	original bool   // what is restored comes to lie where it was
	detours  []detour
	strip    int    // bytes of the path of an entry that lie above the target
	real     string // path of the target in place, free of links; else ""
	spare    []string
}

// Single returns the name that the restored node gets when it is not a directory,
// and "" when it is one.
func (p *Paths) Single() string { return p.single }

// Place returns the path of the restored node when it is not a directory; else
// the target, as the caller named it.
func (p *Paths) Place() string { return p.place }

// Rel returns the path of an entry below the directory of the target.
func (p *Paths) Rel(path string) string {
	if p.single != "" {
		if manifest.Within(path, p.under) {
			return p.single + path[len(p.under):]
		}
		_, name := Split(path) // what is made beside it
		return name
	}
	if len(p.detours) > 0 {
		return strings.TrimPrefix(strings.TrimPrefix(p.at(path), p.at(p.under)), "/")
	}
	if len(path) < p.strip {
		return ""
	}
	return path[p.strip:]
}

// entry returns the path of the entry that comes to lie at rel.
func (p *Paths) entry(rel string) string {
	if p.under == "" || rel == "" {
		return p.under + rel
	}
	return p.under + "/" + rel
}

// Located returns where an entry comes to lie, as the caller names the target.
func (p *Paths) Located(entry string) string {
	switch {
	case p.original:
		return "/" + p.at(entry)
	case p.single != "":
		return path.Join(path.Dir(p.place), p.Rel(entry))
	}
	return path.Join(p.target, p.Rel(entry))
}

// IsSpare reports whether an entry would lie at one of the paths that are
// spared, or below one.
func (p *Paths) IsSpare(entry string) bool {
	at := filepath.Join(p.real, p.Rel(entry))
	return slices.ContainsFunc(p.spare, func(s string) bool { return s == at || strings.HasPrefix(at, s+"/") })
}

// HoldsSpare reports whether an entry would lie at one of the paths that are
// spared, or above or below one.
func (p *Paths) HoldsSpare(entry string) bool {
	at := filepath.Join(p.real, p.Rel(entry))
	return p.IsSpare(entry) || slices.ContainsFunc(p.spare, func(s string) bool { return strings.HasPrefix(s, at+"/") })
}

// LeadsToSource reports whether a path is on the way to a source behind links,
// and may be such a link.
func (p *Paths) LeadsToSource(entry string) bool {
	return slices.ContainsFunc(p.detours, func(d detour) bool { return manifest.Within(d.path, entry) })
}

// at returns the path at which an entry lies on the machine, without the slash in
// front: the same, unless a source lay behind links.
func (p *Paths) at(entry string) string {
	for _, d := range p.detours {
		if manifest.Within(entry, d.path) {
			return d.real + entry[len(d.path):]
		}
	}
	return entry
}

// Split separates the last component of a path that has no slash in front.
func Split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

// splitAbove separates the last component of a path of the machine; that of "/"
// and "." is themselves.
func splitAbove(p string) (above, name string) {
	for len(p) > 1 && p[len(p)-1] == '/' {
		p = p[:len(p)-1]
	}
	switch i := strings.LastIndexByte(p, '/'); i {
	case -1:
		return ".", p
	case 0:
		return "/", p[1:]
	default:
		return p[:i], p[i+1:]
	}
}
