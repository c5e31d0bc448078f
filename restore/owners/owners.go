// Package owners decides who owns a restored file, and which users and groups
// its access lists name: the numbers of the snapshot, or those that this machine
// gives to the same names. It reads the accounts of the captured machine from the
// snapshot, changes entries in memory only, and counts who is not simply the same.
package owners

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
)

// Options decide who owns the restored files.
//
// A tree that brings its own accounts, an etc/passwd at its top, gets the
// numbers of the snapshot, which are those in that file. Any other tree goes
// by names: a user or group has the number that the machine gives to the name,
// and where the machine does not know the name, the number of the snapshot.
// Users and groups in ACLs, which have only numbers, are named by the accounts in
// the snapshot and follow the same rule.
type Options struct {
	// Numeric takes the numbers of the snapshot, whatever the names.
	Numeric bool
	// Keep leaves all files to the user who restores.
	Keep bool
	// Accounts of the machine; nil are those of this one.
	Accounts Accounts
}

// Accounts are the users and groups of a machine. Names are "" for numbers that
// nobody has.
type Accounts interface {
	UID(user string) (uint32, bool)
	GID(group string) (uint32, bool)
	User(uid uint32) string
	Group(gid uint32) string
}

// Report is how owners were found, and who is not simply the same here.
type Report struct {
	ByNumber bool
	// Changes are the most frequent ones first, at most 10,000; More is how
	// many there are besides.
	Changes []Change
	More    uint64
}

// Change is a user or a group whose files would be somebody else's, if only the
// number or only the name counted.
type Change struct {
	Group  bool
	Name   string // in the snapshot; "" when it has none, or none is known
	Number uint32 // in the snapshot
	Given  uint32 // here
	// Missing is set when this machine does not have the name.
	Missing bool
	// Here is whose number Given is on this machine, by name; "" is nobody's.
	Here  string
	InACL bool   // found in access lists, not as an owner
	Count uint64 // nodes that have it
}

const maxChanges = 10_000

// Map changes the owners of entries from those of the snapshot to those of this
// machine. Only one goroutine may use it.
type Map struct {
	Options
	tree     *snapshot.Tree
	byNumber bool

	owners              map[ownerKey]*Change
	last                manifest.Entry // whose owners lastUser and lastGroup are for
	lastUser, lastGroup *Change

	accounts *accountNames // of the snapshot; nil until an ACL needs them
}

type ownerKey struct {
	group, inACL bool
	id           uint32
	name         string
}

// NewMap returns the map for a restore of a tree below a path, whose entry is
// first.
func NewMap(ctx context.Context, o Options, tree *snapshot.Tree, under string, first *manifest.Entry, wanted func(path string, isDir bool) bool) (*Map, error) {
	m := &Map{Options: o, tree: tree, byNumber: o.Numeric, owners: map[ownerKey]*Change{}}
	if m.Accounts == nil {
		m.Accounts = &posix.Users{}
	}
	if m.byNumber || first.Type != manifest.Dir {
		return m, nil
	}

	path := strings.TrimPrefix(under+"/etc/passwd", "/")
	if !mayHold(tree.Table.Sources, path) {
		return m, nil
	}
	e, err := tree.Find(ctx, path)
	if authentic.Damaged(err) {
		return m, nil // the restore itself reports it, and does not restore it
	}

	// Whoever else may write it must not choose whose files become whose.
	ofRoot := e != nil && e.UID == 0 && e.Mode&0o022 == 0
	m.byNumber = err == nil && ofRoot && e.Type == manifest.File && e.Flags&manifest.ContentUnread == 0 && wanted(path, false)
	return m, err
}

// mayHold reports whether a path lies in one of the sources, which saves looking
// for it where none does.
func mayHold(sources []manifest.Source, path string) bool {
	return len(sources) == 0 || slices.ContainsFunc(sources, func(s manifest.Source) bool {
		return manifest.Within(path, manifest.EntryPath(s.Path)) || s.Resolved != "" && manifest.Within(path, manifest.EntryPath(s.Resolved))
	})
}

// Apply gives an entry, and the users and groups of its ACLs, the numbers that
// they have here, and counts it when counted is set.
func (m *Map) Apply(ctx context.Context, e *manifest.Entry, counted bool) {
	if m.byNumber {
		return
	}
	n := uint64(0)
	if counted {
		n = 1
	}
	if !m.Keep {
		user, group := m.of(e)
		user.Count += n
		group.Count += n
		e.UID, e.GID = user.Given, group.Given
	}

	shared := true // with other entries of the segment
	for i, x := range e.Xattrs {
		if !posix.IsACL(x.Name) {
			continue
		}
		value := posix.MapACL(x.Value, func(id uint32) uint32 { return m.inACL(ctx, id, false, n) }, func(id uint32) uint32 { return m.inACL(ctx, id, true, n) })
		if bytes.Equal(value, x.Value) {
			continue
		}
		if shared {
			e.Xattrs, shared = slices.Clone(e.Xattrs), false
		}
		e.Xattrs[i].Value = value
	}
}

// of returns the owners of an entry; neighbours mostly have the same.
func (m *Map) of(e *manifest.Entry) (user, group *Change) {
	l := &m.last
	if m.lastUser == nil || l.UID != e.UID || l.User != e.User {
		l.UID, l.User = e.UID, strings.Clone(e.User)
		m.lastUser = m.find(ownerKey{id: e.UID, name: l.User})
	}
	if m.lastGroup == nil || l.GID != e.GID || l.Group != e.Group {
		l.GID, l.Group = e.GID, strings.Clone(e.Group)
		m.lastGroup = m.find(ownerKey{group: true, id: e.GID, name: l.Group})
	}
	return m.lastUser, m.lastGroup
}

// inACL returns the number here of a user or group that an ACL names.
func (m *Map) inACL(ctx context.Context, id uint32, group bool, n uint64) uint32 {
	if m.accounts == nil {
		m.accounts = readAccountNames(ctx, m.tree)
	}
	names := m.accounts.users
	if group {
		names = m.accounts.groups
	}
	c := m.find(ownerKey{group, true, id, names[id]})
	c.Count += n
	return c.Given
}

func (m *Map) find(k ownerKey) *Change {
	if c := m.owners[k]; c != nil {
		return c
	}
	lookup, nameOf := m.Accounts.UID, m.Accounts.User
	if k.group {
		lookup, nameOf = m.Accounts.GID, m.Accounts.Group
	}
	c := &Change{Group: k.group, Name: k.name, Number: k.id, Given: k.id, InACL: k.inACL}
	if k.name != "" {
		id, ok := lookup(k.name)
		if c.Missing = !ok; ok {
			c.Given = id
		}
	}
	c.Here = nameOf(c.Given)
	m.owners[k] = c
	return c
}

// notable reports whether somebody should know of an owner: its number or name
// is not the same here, or may be somebody else's.
func (c *Change) notable() bool {
	if c.Count == 0 {
		return false
	}
	if c.Name == "" {
		return c.Number != 0 && (c.Here != "" || c.InACL) // 0 is root everywhere
	}
	return c.Missing || c.Given != c.Number
}

// Report returns what was counted.
func (m *Map) Report() Report {
	o := Report{ByNumber: m.byNumber}
	for _, c := range m.owners {
		if c.notable() {
			o.Changes = append(o.Changes, *c)
		}
	}
	slices.SortFunc(o.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Number, b.Number), rank(&a)-rank(&b))
	})
	if n := len(o.Changes); n > maxChanges {
		o.Changes, o.More = o.Changes[:maxChanges], uint64(n-maxChanges)
	}
	return o
}

// rank orders users before groups, and owners before those in access lists.
func rank(c *Change) (n int) {
	if c.Group {
		n += 2
	}
	if c.InACL {
		n++
	}
	return n
}
