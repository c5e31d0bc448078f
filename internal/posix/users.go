package posix

import (
	"os/user"
	"strconv"
	"sync"
)

// Users translates numeric owners to names and back, asking the system once
// for each. The zero value is ready; it is safe for concurrent use. A number
// or name that the system does not know stays unknown for the life of the
// value, so a long-running program makes one for each run.
type Users struct {
	userNames, groupNames table[uint32, string]
	userIDs, groupIDs     table[string, uint32]
}

// User is the name of a user, or "".
func (u *Users) User(uid uint32) string {
	name, _ := u.userNames.get(uid, func(uid uint32) (string, bool) {
		found, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
		if err != nil {
			return "", false
		}
		return found.Username, true
	})
	return name
}

// Group is the name of a group, or "".
func (u *Users) Group(gid uint32) string {
	name, _ := u.groupNames.get(gid, func(gid uint32) (string, bool) {
		found, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10))
		if err != nil {
			return "", false
		}
		return found.Name, true
	})
	return name
}

// UID of a user's name.
func (u *Users) UID(name string) (uint32, bool) {
	return u.userIDs.get(name, func(name string) (uint32, bool) {
		found, err := user.Lookup(name)
		if err != nil {
			return 0, false
		}
		return parseID(found.Uid)
	})
}

// GID of a group's name.
func (u *Users) GID(name string) (uint32, bool) {
	return u.groupIDs.get(name, func(name string) (uint32, bool) {
		found, err := user.LookupGroup(name)
		if err != nil {
			return 0, false
		}
		return parseID(found.Gid)
	})
}

func parseID(s string) (uint32, bool) {
	id, err := strconv.ParseUint(s, 10, 32)
	return uint32(id), err == nil
}

type table[K comparable, V any] struct {
	mu    sync.Mutex
	known map[K]answer[V]
}

type answer[V any] struct {
	value V
	ok    bool
}

func (t *table[K, V]) get(key K, ask func(K) (V, bool)) (V, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, ok := t.known[key]
	if !ok {
		if t.known == nil {
			t.known = make(map[K]answer[V])
		}
		a.value, a.ok = ask(key)
		t.known[key] = a
	}
	return a.value, a.ok
}
