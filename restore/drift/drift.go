// Package drift finds what differs between a tree and its known-good state: between the
// live tree and a snapshot, the live generation and its record, or two snapshots.
//
// It explains what it can: by packages, by declared data, and by patterns. It promises that
// set-uid files, new programs and units of systemd are reported whatever explains them,
// and that its memory is bounded however much differs.
//
// What it reads of a host is that host's own word, package database included: of one that
// may be taken over, only two snapshots compared elsewhere show something.
package drift

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"knowngood/internal/inode"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
)

// Change is how a path differs.
type Change string

// The changes. Metadata is only owner, mode, attributes or times.
const (
	Added    Change = "added"
	Changed  Change = "changed"
	Removed  Change = "removed"
	Metadata Change = "metadata"
)

// Why a path is reported whatever explains it.
const (
	SetUID  = "set-uid"
	Program = "new program"
	Unit    = "systemd unit"
)

// Node is a path in one of the two states.
type Node struct {
	Type   inode.Type
	Mode   uint32
	Target string // of a link
	// Capable means that a program has capabilities, as others are set-uid.
	Capable bool
}

// Pair is a path that differs. Was and Is are nil where it does not exist.
type Pair struct {
	Path    string // of an entry
	Was, Is *Node
	Content bool // content, type or target differ
	Owner   bool // owner, mode or attributes differ
}

// Row is a difference that nothing explains.
type Row struct {
	Path   string // of an entry
	Change Change
	Why    string // it is reported whatever explains it; empty for other paths

	owner bool
	is    *Node
	sum   string // MD5, once it was needed
	group *Group
}

// Group is what one thing explains: a package, declared data, patterns.
type Group struct {
	// What is package, database (of the packages), data or ignored.
	What string `json:"what"`
	// Name is that of a package, or the path of data.
	Name string `json:"name,omitempty"`
	// From and To are the versions of a package; empty where it was not there, or is not.
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
	Paths int    `json:"paths"`
}

// maxRows is how many differences are kept; the others are counted, and not explained.
const maxRows = 200_000

// Set gathers differences. It is safe for concurrent use.
type Set struct {
	// Ignore are patterns of paths that are left out; nil for none.
	Ignore *filter.Rules
	// Data are paths of entries below which programs change files.
	Data []string
	// Problem gets what could not be compared.
	Problem func(path string, err error)

	mu     sync.Mutex
	rows   []*Row
	more   int
	groups map[string]*Group
}

// Add adds a path that differs.
func (s *Set) Add(p *Pair) {
	onlyTimes := p.Was != nil && p.Is != nil && !p.Content && !p.Owner
	shown := cmp.Or(p.Is, p.Was)
	if onlyTimes && shown.Type == inode.Dir {
		return // what came and went in it is reported
	}
	r := &Row{Path: strings.Clone(p.Path), Change: Changed, owner: p.Owner, is: p.Is}
	switch {
	case p.Was == nil:
		r.Change = Added
	case p.Is == nil:
		r.Change = Removed
	case !p.Content:
		r.Change = Metadata
	}
	if !onlyTimes {
		r.Why = why(p)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Why == "" {
		for _, d := range s.Data {
			if manifest.Within(p.Path, d) {
				s.group(Group{What: "data", Name: d}).Paths++
				return
			}
		}
		if s.Ignore.Match(p.Path, shown.Type == inode.Dir) == filter.Exclude {
			s.group(Group{What: "ignored"}).Paths++
			return
		}
	}
	if len(s.rows) == maxRows {
		s.more++
		return
	}
	s.rows = append(s.rows, r)
}

// why a difference is reported whatever explains it; empty where it need not be.
func why(p *Pair) string {
	switch {
	case p.Was.privileged() || p.Is.privileged():
		return SetUID
	case p.Is.program() && !p.Was.program():
		return Program
	case isUnit(p.Path) && (p.Is == nil || p.Is.Type != inode.Dir):
		return Unit
	}
	return ""
}

// privileged reports whether a program runs with rights that its caller may not have.
func (n *Node) privileged() bool {
	const setIDs = 0o6000
	return n != nil && n.Type == inode.File && (n.Mode&setIDs != 0 || n.Capable)
}

func (n *Node) program() bool { return n != nil && n.Type == inode.File && n.Mode&0o111 != 0 }

// isUnit reports whether a path is one that systemd reads units, generators or its own
// configuration from.
func isUnit(path string) bool {
	path = "/" + path
	for _, dir := range []string{"/etc/systemd/", "/systemd/system", "/systemd/user"} {
		if strings.Contains(path, dir) {
			return true
		}
	}
	return false
}

// group finds a group, or adds it; mu is held.
func (s *Set) group(like Group) *Group {
	if s.groups == nil {
		s.groups = map[string]*Group{}
	}
	key := like.What + " " + like.Name
	if s.groups[key] == nil {
		s.groups[key] = &like
	}
	return s.groups[key]
}

// explain makes a row one of a group.
func (s *Set) explain(r *Row, by Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.group = s.group(by)
	r.group.Paths++
}

// Rows are the differences that nothing explains, in path order, and how many more there
// are.
func (s *Set) Rows() (rows []*Row, more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if r.group == nil {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *Row) int { return manifest.Compare(a.Path, b.Path) })
	return rows, s.more
}

// Groups are what was explained, packages first.
func (s *Set) Groups() []*Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	order := []string{"package", "database", "data", "ignored"}
	return slices.SortedFunc(maps.Values(s.groups), func(a, b *Group) int {
		return cmp.Or(slices.Index(order, a.What)-slices.Index(order, b.What), strings.Compare(a.Name, b.Name))
	})
}
