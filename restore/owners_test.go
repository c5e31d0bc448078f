package restore_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/restore/owners"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/storagetest"
)

// accounts are those of a made-up machine.
type accounts struct{ users, groups map[string]uint32 }

func (a accounts) UID(name string) (uint32, bool) { id, ok := a.users[name]; return id, ok }
func (a accounts) GID(name string) (uint32, bool) { id, ok := a.groups[name]; return id, ok }
func (a accounts) User(uid uint32) string         { return nameOf(a.users, uid) }
func (a accounts) Group(gid uint32) string        { return nameOf(a.groups, gid) }

func nameOf(names map[string]uint32, id uint32) string {
	for name, x := range names {
		if x == id {
			return name
		}
	}
	return ""
}

// rescue is a machine whose accounts differ from those of the snapshot: postgres
// has another number, its group does not exist, and 113 is somebody else's.
var rescue = accounts{
	users:  map[string]uint32{"root": 0, "postgres": 120, "alice": 1000},
	groups: map[string]uint32{"root": 0, "ssl-cert": 113, "alice": 1000},
}

const (
	passwdOfSnapshot = "root:x:0:0::/root:/bin/sh\n# comment\n+nis\npostgres:x:113:113:,,,:/var/lib/postgresql:/bin/sh\nodd:x:many:1::\n"
	groupOfSnapshot  = "root:x:0:\npostgres:x:113:alice\n"
)

// database is a snapshot of a machine, or of a part of it without accounts.
func database(w *enginetest.World, accounts bool) {
	owned := func(path string, e manifest.Entry) *manifest.Entry {
		e.Path, e.Mode, e.UID, e.GID, e.User, e.Group = path, 0o640, 113, 113, "postgres", "postgres"
		if e.Type = manifest.File; e.Size == 1 {
			e.Type, e.Size = manifest.Dir, 0
		}
		return &e
	}
	dir := manifest.Entry{Size: 1}
	entries := []*manifest.Entry{folder("")}
	contents := map[string]string{}
	if accounts {
		entries = append(entries, folder("etc"), &manifest.Entry{Path: "etc/group", Type: manifest.File, Mode: 0o644}, &manifest.Entry{Path: "etc/passwd", Type: manifest.File, Mode: 0o644})
		contents["etc/passwd"], contents["etc/group"] = passwdOfSnapshot, groupOfSnapshot
	}
	nobody := owned("var/nobody", manifest.Entry{})
	nobody.UID, nobody.GID, nobody.User, nobody.Group = 1000, 4321, "", ""
	entries = append(entries, folder("var"), owned("var/db", dir), owned("var/db/1", manifest.Entry{}), owned("var/db/2", manifest.Entry{}), nobody)
	contents["var/db/1"], contents["var/db/2"], contents["var/nobody"] = "1", "2", "nobody"
	forge(w, entries, contents)
}

func TestOwners(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving files away takes root")
	}
	renumbered := owners.Change{Name: "postgres", Number: 113, Given: 120, Here: "postgres", Count: 3}
	missing := owners.Change{Group: true, Name: "postgres", Number: 113, Given: 113, Missing: true, Here: "ssl-cert", Count: 3}
	unnamed := owners.Change{Number: 1000, Given: 1000, Here: "alice", Count: 1}
	differ := []owners.Change{unnamed, missing, renumbered}

	for name, c := range map[string]struct {
		accounts bool
		options  restore.Options
		byNumber bool
		uid, gid uint32
		changes  []owners.Change
	}{
		"go by name, and by number where there is no such name":  {false, restore.Options{}, false, 120, 113, differ},
		"are the snapshot's where the tree brings its accounts":  {true, restore.Options{}, true, 113, 113, nil},
		"go by name when the accounts are left out":              {true, restore.Options{Select: chosen(t, nil, []string{"/etc/passwd"})}, false, 120, 113, differ},
		"go by name in a part of a tree that has accounts":       {true, restore.Options{Under: "var"}, false, 120, 113, differ},
		"go by number when that is asked for":                    {false, restore.Options{Owners: owners.Options{Numeric: true}}, true, 113, 113, nil},
		"are nobody's but the user's when that is asked for":     {false, restore.Options{Owners: owners.Options{Keep: true}}, false, 0, 0, nil},
		"of one file go by name":                                 {true, restore.Options{Under: "var/db/1"}, false, 120, 113, []owners.Change{with(missing, 1), with(renumbered, 1)}},
		"are counted in a dry run":                               {false, restore.Options{DryRun: true}, false, 0, 0, differ},
		"are counted without what is left out":                   {false, restore.Options{Select: chosen(t, nil, []string{"/var/nobody", "/var/db/2"})}, false, 120, 113, []owners.Change{with(missing, 2), with(renumbered, 2)}},
		"go by name when only accounts are left in the snapshot": {true, restore.Options{Select: chosen(t, []string{"/var"}, nil)}, false, 120, 113, differ},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := enginetest.New(t, storagetest.NewMemory())
			database(w, c.accounts)
			o := c.options
			o.Target, o.Owners.Accounts = treetest.TempDir(t), rescue
			res := w.Restore("e", o)
			if res.Owners.ByNumber != c.byNumber || !slices.EqualFunc(sorted(res.Owners.Changes), sorted(c.changes), func(a, b owners.Change) bool { return a == b }) {
				t.Errorf("by number %v, changes %+v\nwant %v, %+v", res.Owners.ByNumber, res.Owners.Changes, c.byNumber, c.changes)
			}
			if o.DryRun {
				return
			}
			file := filepath.Join(o.Target, strings.TrimPrefix("var/db/1", o.Under))
			if o.Under == "var/db/1" {
				file = filepath.Join(o.Target, "1")
			}
			if uid, gid := ownerOf(t, file); uid != c.uid || gid != c.gid {
				t.Errorf("the file is %d:%d, want %d:%d", uid, gid, c.uid, c.gid)
			}
			if o.Under == "" {
				if uid, gid := ownerOf(t, filepath.Join(o.Target, "var/db")); uid != c.uid || gid != c.gid {
					t.Errorf("the directory is %d:%d, want %d:%d", uid, gid, c.uid, c.gid)
				}
			}
		})
	}
	t.Run("of a tree below that brings its own accounts are the snapshot's", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		forge(w, []*manifest.Entry{folder(""), folder("guest"), folder("guest/etc"), {Path: "guest/etc/passwd", Type: manifest.File, Mode: 0o644},
			{Path: "guest/file", Type: manifest.File, Mode: 0o644, UID: 113, GID: 113, User: "postgres", Group: "postgres"}}, map[string]string{"guest/etc/passwd": "x", "guest/file": "x"})
		out := treetest.TempDir(t)
		res := w.Restore("e", restore.Options{Under: "guest", Target: out, Owners: owners.Options{Accounts: rescue}})
		if uid, gid := ownerOf(t, filepath.Join(out, "file")); uid != 113 || gid != 113 || !res.Owners.ByNumber {
			t.Errorf("the file is %d:%d, by number %v", uid, gid, res.Owners.ByNumber)
		}
	})
	t.Run("are the same when restored in place again", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		database(w, false)
		o := restore.Options{Target: treetest.TempDir(t), InPlace: true, Owners: owners.Options{Accounts: rescue}}
		first := w.Restore("e", o)
		second := w.Restore("e", o)
		if second.Changed+second.Created > 0 || !reflect.DeepEqual(first.Owners, second.Owners) {
			t.Errorf("restored again: %+v\nthe first time %+v", second, first)
		}
		if err := os.Chown(filepath.Join(o.Target, "var/db/1"), 113, 113); err != nil {
			t.Fatal(err)
		}
		w.Restore("e", o)
		if uid, gid := ownerOf(t, filepath.Join(o.Target, "var/db/1")); uid != 120 || gid != 113 {
			t.Errorf("the file is %d:%d, want 120:113", uid, gid)
		}
	})
	t.Run("that are very many are counted", func(t *testing.T) {
		t.Parallel()
		w := enginetest.New(t, storagetest.NewMemory())
		entries := []*manifest.Entry{folder("")}
		for i := range 10_010 {
			entries = append(entries, &manifest.Entry{Path: fmt.Sprintf("%05d", i), Type: manifest.Fifo, Mode: 0o600, UID: uint32(5000 + i), User: fmt.Sprint("u", i), Group: "root"})
		}
		forge(w, entries, nil)
		res := w.Restore("e", restore.Options{Target: treetest.TempDir(t), DryRun: true, Owners: owners.Options{Accounts: rescue}})
		if len(res.Owners.Changes) != 10_000 || res.Owners.More != 10 {
			t.Errorf("%d changes, and %d more", len(res.Owners.Changes), res.Owners.More)
		}
	})
}

// chosen is a choice of what a snapshot of / has.
func chosen(t *testing.T, include, exclude []string) *snapshot.Scope {
	t.Helper()
	rules, err := filter.Compile("/", include, exclude)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.NewScope([]walk.Source{{Path: "/", Rules: rules}})
}

func with(c owners.Change, count uint64) owners.Change {
	c.Count = count
	return c
}

func sorted(changes []owners.Change) []owners.Change {
	changes = slices.Clone(changes)
	slices.SortFunc(changes, func(a, b owners.Change) int {
		return strings.Compare(fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b))
	})
	return changes
}

func ownerOf(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Gid
}

// aclOf is an access list of a user and a group, as an attribute holds it.
func aclOf(user, group uint32) []byte {
	b := []byte{2, 0, 0, 0}
	none := ^uint32(0)
	for _, e := range []struct {
		tag, perm byte
		id        uint32
	}{{0x01, 6, none}, {0x02, 6, user}, {0x04, 4, none}, {0x08, 4, group}, {0x10, 6, none}, {0x20, 0, none}} {
		b = append(b, e.tag, 0, e.perm, 0, byte(e.id), byte(e.id>>8), byte(e.id>>16), byte(e.id>>24))
	}
	return b
}

func TestOwnersInACLs(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving files away takes root")
	}
	// snapshotOf has a file, and two in one directory with the same lists.
	snapshotOf := func(t *testing.T, accounts bool) *enginetest.World {
		w := enginetest.New(t, storagetest.NewMemory())
		list := []manifest.Xattr{{Name: "system.posix_acl_access", Value: aclOf(113, 113)}}
		both := append(slices.Clone(list), manifest.Xattr{Name: "system.posix_acl_default", Value: aclOf(113, 113)})
		entries, contents := []*manifest.Entry{folder("")}, map[string]string{"srv/a": "a", "srv/b": "b"}
		if accounts {
			entries = append(entries, folder("etc"), &manifest.Entry{Path: "etc/group", Type: manifest.File, Mode: 0o644}, &manifest.Entry{Path: "etc/passwd", Type: manifest.File, Mode: 0o644})
			contents["etc/passwd"], contents["etc/group"] = passwdOfSnapshot, groupOfSnapshot
		}
		srv := folder("srv")
		srv.Mode, srv.Xattrs = 0o660, both // what these lists come to
		entries = append(entries, srv, &manifest.Entry{Path: "srv/a", Type: manifest.File, Mode: 0o660, Xattrs: list}, &manifest.Entry{Path: "srv/b", Type: manifest.File, Mode: 0o660, Xattrs: list})
		forge(w, entries, contents)
		return w
	}
	renumbered := owners.Change{Name: "postgres", Number: 113, Given: 120, Here: "postgres", InACL: true, Count: 4}
	missing := owners.Change{Group: true, Name: "postgres", Number: 113, Given: 113, Missing: true, Here: "ssl-cert", InACL: true, Count: 4}
	unknown := []owners.Change{{Number: 113, Given: 113, InACL: true, Count: 4}, {Group: true, Number: 113, Given: 113, Here: "ssl-cert", InACL: true, Count: 4}}

	for name, c := range map[string]struct {
		accounts bool
		options  restore.Options
		user     uint32
		changes  []owners.Change
	}{
		"follow the rule of owners, named by the accounts of the snapshot": {true, restore.Options{Under: "srv"}, 120, []owners.Change{renumbered, missing}},
		"follow it when owners are not set":                                {true, restore.Options{Under: "srv", Owners: owners.Options{Keep: true}}, 120, []owners.Change{renumbered, missing}},
		"stay, and are reported, where the snapshot has no accounts":       {false, restore.Options{Under: "srv"}, 113, unknown},
		"stay where the tree brings its accounts":                          {true, restore.Options{}, 113, nil},
		"stay when numbers are asked for":                                  {true, restore.Options{Under: "srv", Owners: owners.Options{Numeric: true}}, 113, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := snapshotOf(t, c.accounts)
			o := c.options
			o.Target, o.InPlace, o.Owners.Accounts = treetest.TempDir(t), true, rescue
			if err := unix.Setxattr(o.Target, "system.posix_acl_access", aclOf(1, 1), 0); err != nil {
				t.Skipf("no ACLs here: %v", err)
			}
			res := w.Restore("e", o)
			if !slices.Equal(sorted(res.Owners.Changes), sorted(c.changes)) {
				t.Errorf("changes %+v\nwant %+v", res.Owners.Changes, c.changes)
			}
			srv := filepath.Join(o.Target, strings.TrimPrefix("srv", o.Under))
			for _, x := range []struct{ path, name string }{{srv, "system.posix_acl_access"}, {srv, "system.posix_acl_default"}, {srv + "/a", "system.posix_acl_access"}, {srv + "/b", "system.posix_acl_access"}} {
				buf := make([]byte, 256)
				n, err := unix.Getxattr(x.path, x.name, buf)
				if want := aclOf(c.user, 113); err != nil || !bytes.Equal(buf[:n], want) {
					t.Errorf("%s of %s: %x, %v; want %x", x.name, x.path, buf[:max(n, 0)], err, want)
				}
			}
			if again := w.Restore("e", o); again.Changed+again.Created > 0 || again.Owners.ByNumber != res.Owners.ByNumber {
				t.Errorf("restored again: %+v", again)
			}
		})
	}
}
