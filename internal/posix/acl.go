package posix

import (
	"encoding/binary"
	"slices"
	"strings"
)

// The parts of an ACL as extended attributes hold it: a version, then entries of
// a tag, permissions and a number, little-endian.
const (
	aclVersion  = 2
	aclHeader   = 4
	aclEntry    = 8
	aclUser     = 0x02 // tag of an entry for one user
	aclGroup    = 0x08 // tag of an entry for one group
	aclIDOffset = 4
)

// IsACL reports whether an extended attribute is a POSIX ACL, whose value names
// users and groups by number.
func IsACL(name string) bool { return strings.HasPrefix(name, "system.posix_acl_") }

// MapACL returns the value of an ACL with the numbers of its users and groups
// mapped: value itself when none changes, and when it is no valid ACL, which
// the kernel refuses.
func MapACL(value []byte, user, group func(id uint32) uint32) []byte {
	if len(value) < aclHeader || (len(value)-aclHeader)%aclEntry != 0 || binary.LittleEndian.Uint32(value) != aclVersion {
		return value
	}

	out := value
	for at := aclHeader; at < len(value); at += aclEntry {
		id := binary.LittleEndian.Uint32(value[at+aclIDOffset:])
		mapped := id
		switch binary.LittleEndian.Uint16(value[at:]) {
		case aclUser:
			mapped = user(id)
		case aclGroup:
			mapped = group(id)
		}
		if mapped == id {
			continue
		}
		if &out[0] == &value[0] {
			out = slices.Clone(value)
		}
		binary.LittleEndian.PutUint32(out[at+aclIDOffset:], mapped)
	}
	return out
}

// aclWrite is the permission to write, of an entry.
const aclWrite = 0x02

// ACLWriters returns the users that an ACL names and lets write, as far as its
// mask goes. The groups that it names count as the group of the node does.
func ACLWriters(value []byte) (users []uint32) {
	if len(value) < aclHeader || (len(value)-aclHeader)%aclEntry != 0 || binary.LittleEndian.Uint32(value) != aclVersion {
		return nil
	}
	for at := aclHeader; at < len(value); at += aclEntry {
		tag, perm := binary.LittleEndian.Uint16(value[at:]), binary.LittleEndian.Uint16(value[at+2:])
		if tag == aclUser && perm&aclWrite != 0 {
			users = append(users, binary.LittleEndian.Uint32(value[at+aclIDOffset:]))
		}
	}
	return users
}
