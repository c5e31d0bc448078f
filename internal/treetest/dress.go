package treetest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// dressFresh gives metadata to all nodes that have none yet.
func (b *builder) dressFresh() error {
	for _, m := range b.fresh {
		if err := b.dress(m); err != nil {
			return err
		}
	}
	b.fresh = nil
	return nil
}

// dress chooses a node's metadata and sets it, in the order in which the
// kernel does not change it: a chown clears setuid and capabilities, an ACL
// changes the mode, and everything else may change the time.
func (b *builder) dress(m made) error {
	steps := []func(made) error{b.dressOwner, b.dressMode, b.dressACLs, b.dressXattrs, b.dressCapability, b.dressTime}
	for _, step := range steps {
		if err := step(m); err != nil {
			return fmt.Errorf("metadata of %q: %w", m.path, err)
		}
	}
	return nil
}

// one chooses one of some values.
func one[V any](b *builder, values ...V) V { return values[b.choices.IntN(len(values))] }

func (b *builder) dressOwner(m made) error {
	if b.without[Owners] {
		return nil
	}
	if !b.privileged {
		b.report.Refused[Owners]++
		return nil
	}
	uid := one(b, 0, 1000, 1000, 1234, 65534, 100_000, 1<<31-1)
	gid := one(b, 0, 1000, 100, 4321, 65534, 200_000, 1<<31-1)
	err := b.root.at(m.path, func(dirfd int, name string) error {
		return unix.Fchownat(dirfd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	})
	if b.refused(Owners, err) {
		return nil
	}
	return err
}

func (b *builder) dressMode(m made) error {
	if m.typ == unix.S_IFLNK || m.path == "" {
		return nil
	}
	mode := uint32(0o644)
	switch {
	case !b.without[OddModes] && b.choices.IntN(2) == 1:
		mode = one[uint32](b, 0, 0o444, 0o4755, 0o2755, 0o6711, 0o1644, 0o1777, 0o2775, 0o500, uint32(b.choices.IntN(0o10000)))
	case m.typ == unix.S_IFDIR:
		mode = one[uint32](b, 0o755, 0o700, 0o750)
	default:
		mode = one[uint32](b, 0o644, 0o600, 0o755)
	}
	return b.setMode(m, mode)
}

// setMode keeps to the users who are not root the rights that they need.
func (b *builder) setMode(m made, mode uint32) error {
	if !b.privileged {
		need := uint32(0o600)
		if m.typ == unix.S_IFDIR {
			need = 0o700
		}
		if mode&need != need {
			b.report.Refused[OddModes]++
		}
		mode |= need
	}
	return b.root.at(m.path, func(dirfd int, name string) error {
		return unix.Fchmodat(dirfd, name, mode, 0)
	})
}

// setXattr counts what the file system has no room for as refused, too.
func (b *builder) setXattr(m made, part Part, name, value string) error {
	err := b.root.at(m.path, func(dirfd int, base string) error {
		return unix.Lsetxattr(procPath(dirfd, base), name, []byte(value), 0)
	})
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ERANGE) {
		b.report.Refused[part]++
		return nil
	}
	if err == nil || b.refused(part, err) {
		return nil
	}
	return fmt.Errorf("setting the xattr %q: %w", name, err)
}

func (b *builder) dressXattrs(m made) error {
	// The kernel allows user.* on files and directories only.
	if !b.without[UserXattrs] && (m.typ == unix.S_IFREG || m.typ == unix.S_IFDIR) && b.choices.IntN(3) == 1 {
		for range 1 + b.choices.IntN(3) {
			name := "user." + one(b, "comment", "k", "mime_type", "\u00e9\u202e", "odd name\n\xff", fmt.Sprintf("%0250d", b.choices.IntN(100)))
			if err := b.setXattr(m, UserXattrs, name, b.xattrValue()); err != nil {
				return err
			}
		}
	}
	if !b.without[RootXattrs] && b.choices.IntN(6) == 1 {
		if !b.privileged {
			b.report.Refused[RootXattrs]++
			return nil
		}
		return b.setXattr(m, RootXattrs, "trusted."+one(b, "a", "overlay.opaque", "md5sum"), b.xattrValue())
	}
	return nil
}

func (b *builder) xattrValue() string {
	switch b.choices.IntN(4) {
	case 0:
		return "text/plain"
	case 1:
		return ""
	case 2:
		return string(randomBytes(b.choices.Uint64(), 1500))
	}
	return string(randomBytes(b.choices.Uint64(), b.choices.IntN(100)))
}

func (b *builder) dressACLs(m made) error {
	if b.without[ACLs] || m.typ == unix.S_IFLNK || b.choices.IntN(6) != 1 {
		return nil
	}
	if err := b.setXattr(m, ACLs, "system.posix_acl_access", b.acl()); err != nil {
		return err
	}
	if m.typ == unix.S_IFDIR && b.choices.IntN(2) == 1 {
		return b.setXattr(m, ACLs, "system.posix_acl_default", b.acl())
	}
	return nil
}

// acl is a POSIX ACL as the kernel's xattr has it: version 2, then entries of
// tag, permissions and ID, sorted. The owner keeps all rights.
func (b *builder) acl() string {
	const (
		userObj, user, groupObj, group, mask, other = 1, 2, 4, 8, 0x10, 0x20
		nobody                                      = 1<<32 - 1
	)
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	entry := func(tag uint16, perm int, id uint32) {
		acl = binary.LittleEndian.AppendUint16(acl, tag)
		acl = binary.LittleEndian.AppendUint16(acl, uint16(perm))
		acl = binary.LittleEndian.AppendUint32(acl, id)
	}
	entry(userObj, 7, nobody)
	for id := range uint32(b.choices.IntN(4)) {
		entry(user, b.choices.IntN(8), 1000+7*id)
	}
	entry(groupObj, b.choices.IntN(8), nobody)
	entry(group, b.choices.IntN(8), 4321)
	entry(mask, b.choices.IntN(8), nobody)
	entry(other, b.choices.IntN(8), nobody)
	return string(acl)
}

func (b *builder) dressCapability(m made) error {
	if b.without[Capabilities] || m.typ != unix.S_IFREG || b.choices.IntN(10) != 1 {
		return nil
	}
	if !b.privileged {
		b.report.Refused[Capabilities]++
		return nil
	}
	// struct vfs_cap_data: revision 2, effective; low and high words of the
	// permitted and the inheritable set.
	value := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	for _, set := range []uint32{1 << unix.CAP_NET_BIND_SERVICE, uint32(b.choices.IntN(1 << 10)), 0, 0} {
		value = binary.LittleEndian.AppendUint32(value, set)
	}
	return b.setXattr(m, Capabilities, "security.capability", string(value))
}

func (b *builder) dressTime(m made) error {
	nsec := one[int64](b, 0, 1, 999_999_999, 123_456_789, 500)
	sec := 1_600_000_000 + int64(b.choices.IntN(100_000_000))
	if !b.without[OddTimes] && b.choices.IntN(2) == 1 {
		// Around 1970, 1901, 2038, 2106 and 2262, where some clocks end.
		sec = one[int64](b, 0, -1, 1, -1000, -2_000_000_000, 1<<31-1, 1<<31, 1<<31+12345, 1<<32, 9_300_000_000)
	}
	return b.setTime(m, sec, nsec)
}

func (b *builder) setTime(m made, sec, nsec int64) error {
	times := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
	err := b.root.at(m.path, func(dirfd int, name string) error {
		return unix.UtimesNanoAt(dirfd, name, times, unix.AT_SYMLINK_NOFOLLOW)
	})
	if b.refused(OddTimes, err) {
		return nil
	}
	return err
}
