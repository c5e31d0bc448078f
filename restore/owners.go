package restore

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
)

// OwnerOptions say whose the restored files will be.
//
// A tree that brings its own accounts, an etc/passwd at its top, gets the
// numbers of the snapshot, which are what that file says. Any other tree goes
// by names: a user or group has the number that the machine gives to the name,
// and where the machine does not know the name, the number of the snapshot.
// Users and groups in ACLs, which have numbers alone, are named by the
// snapshot's own accounts and follow the same rule.
type OwnerOptions struct {
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

// Owners is how owners were found, and who is not simply the same here.
type Owners struct {
	ByNumber bool
	// Changes are the most frequent ones first, at most 10,000; More is how
	// many there are besides.
	Changes []OwnerChange
	More    uint64
}

// OwnerChange is a user or a group whose files would be, by number or by name
// alone, somebody else's.
type OwnerChange struct {
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

const maxOwnerChanges = 10_000

// ownerMap changes the owners of entries from those of the snapshot to those of
// this machine. Only one goroutine may use it.
type ownerMap struct {
	OwnerOptions
	tree     *snapshot.Tree
	byNumber bool

	owners              map[ownerKey]*OwnerChange
	last                manifest.Entry // whose owners lastUser and lastGroup are for
	lastUser, lastGroup *OwnerChange

	accounts *accountNames // of the snapshot; nil until an ACL needs them
}

type ownerKey struct {
	group, inACL bool
	id           uint32
	name         string
}

func newOwnerMap(ctx context.Context, o *Options, first *manifest.Entry) (*ownerMap, error) {
	m := &ownerMap{OwnerOptions: o.Owners, tree: o.Tree, byNumber: o.Owners.Numeric, owners: map[ownerKey]*OwnerChange{}}
	if m.Accounts == nil {
		m.Accounts = &posix.Users{}
	}
	if m.byNumber || first.Type != manifest.Dir {
		return m, nil
	}

	path := strings.TrimPrefix(o.Under+"/etc/passwd", "/")
	if !mayHold(o.Tree.Table.Sources, path) {
		return m, nil
	}
	e, err := o.Tree.Find(ctx, path)
	if authentic.Damaged(err) {
		return m, nil // the restore itself names it, and does not bring it
	}
	// Whoever else may write it must not choose whose files become whose.
	ofRoot := e != nil && e.UID == 0 && e.Mode&0o022 == 0
	m.byNumber = err == nil && ofRoot && e.Type == manifest.File && e.Flags&manifest.ContentUnread == 0 && (o.Select == nil || o.Select.Decide(path, false) == filter.Include)
	return m, err
}

// mayHold reports whether a path lies in one of the sources, which saves looking
// for it where none does.
func mayHold(sources []manifest.Source, path string) bool {
	return len(sources) == 0 || slices.ContainsFunc(sources, func(s manifest.Source) bool {
		return manifest.Within(path, manifest.EntryPath(s.Path)) || s.Resolved != "" && manifest.Within(path, manifest.EntryPath(s.Resolved))
	})
}

// apply gives an entry, and the users and groups of its ACLs, the numbers that
// they have here, and counts it when it is to be restored.
func (m *ownerMap) apply(ctx context.Context, e *manifest.Entry, counted bool) {
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

// of are the owners of an entry; neighbours mostly have the same.
func (m *ownerMap) of(e *manifest.Entry) (user, group *OwnerChange) {
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

// inACL is the number here of a user or group that an ACL names.
func (m *ownerMap) inACL(ctx context.Context, id uint32, group bool, n uint64) uint32 {
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

func (m *ownerMap) find(k ownerKey) *OwnerChange {
	if c := m.owners[k]; c != nil {
		return c
	}
	lookup, nameOf := m.Accounts.UID, m.Accounts.User
	if k.group {
		lookup, nameOf = m.Accounts.GID, m.Accounts.Group
	}
	c := &OwnerChange{Group: k.group, Name: k.name, Number: k.id, Given: k.id, InACL: k.inACL}
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
func (c *OwnerChange) notable() bool {
	if c.Count == 0 {
		return false
	}
	if c.Name == "" {
		return c.Number != 0 && (c.Here != "" || c.InACL) // 0 is root everywhere
	}
	return c.Missing || c.Given != c.Number
}

func (m *ownerMap) result() Owners {
	o := Owners{ByNumber: m.byNumber}
	for _, c := range m.owners {
		if c.notable() {
			o.Changes = append(o.Changes, *c)
		}
	}
	slices.SortFunc(o.Changes, func(a, b OwnerChange) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Number, b.Number), compareBool(a.Group, b.Group), compareBool(a.InACL, b.InACL))
	})
	if n := len(o.Changes); n > maxOwnerChanges {
		o.Changes, o.More = o.Changes[:maxOwnerChanges], uint64(n-maxOwnerChanges)
	}
	return o
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
