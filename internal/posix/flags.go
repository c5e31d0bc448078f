package posix

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Inode flags, with the numbers of FS_IOC_GETFLAGS.
const (
	flagImmutable = 0x00000010
	flagAppend    = 0x00000020
	flagNoCow     = 0x00800000
	flagCaseFold  = 0x40000000

	// LockingFlags forbid to change a node, and names in a directory.
	LockingFlags = flagImmutable | flagAppend
	// EmptyFlags can only be set while a node is empty.
	EmptyFlags = flagNoCow | flagCaseFold
)

// inodeFlags are those that a user can set, each with its letter in chattr(1).
// Those that a file system sets by itself, such as "stored in extents", are
// not kept. They are in the order in which they can be set one by one: the last
// forbids changes of the others.
var inodeFlags = [...]struct {
	bit    uint32
	letter byte
}{
	{0x00000001, 's'}, // overwritten when deleted
	{0x00000002, 'u'}, // kept when deleted
	{0x00000004, 'c'}, // compressed
	{0x00000008, 'S'}, // written synchronously
	{0x00000040, 'd'}, // left out by dump
	{0x00000080, 'A'}, // no access times
	{0x00000400, 'm'}, // not compressed
	{0x00004000, 'j'}, // content goes through the journal
	{0x00008000, 't'}, // tails are not merged
	{0x00010000, 'D'}, // a directory written synchronously
	{0x00020000, 'T'}, // top of a hierarchy
	{flagNoCow, 'C'},  // written in place
	{0x02000000, 'x'}, // mapped without a cache
	{0x20000000, 'P'}, // hands its project on
	{flagCaseFold, 'F'},
	{flagAppend, 'a'},
	{flagImmutable, 'i'},
}

// keptFlags is the union of inodeFlags.
func keptFlags() (all uint32) {
	for _, f := range inodeFlags {
		all |= f.bit
	}
	return all
}

// FlagLetters returns inode flags as chattr(1) writes them, such as "ia".
func FlagLetters(flags uint32) string {
	var out []byte
	for _, f := range inodeFlags {
		if flags&f.bit != 0 {
			out = append(out, f.letter)
		}
	}
	return string(out)
}

// InodeFlags returns the flags of an open file or directory (not O_PATH) that
// a user can set. ok is false where the file system has none.
func InodeFlags(fd int) (flags uint32, ok bool, err error) {
	all, err := getFlags(fd)
	if errors.Is(err, errNoFlags) {
		return 0, false, nil
	}
	return all & keptFlags(), err == nil, err
}

// SetEmptyFlags gives a new file or directory those of the flags that can be
// set only while it is empty. What fails shows when all of them are set.
func SetEmptyFlags(fd int, flags uint32) {
	if flags &= EmptyFlags; flags == 0 {
		return
	}
	if have, err := getFlags(fd); err == nil {
		_ = setFlags(fd, have|flags)
	}
}

// Unlock takes the flags away that forbid changes of an open file or directory,
// and reports whether there were any. After an error they are still there.
func Unlock(fd int) (bool, error) {
	have, err := getFlags(fd)
	if errors.Is(err, errNoFlags) || err == nil && have&LockingFlags == 0 {
		return false, nil
	}
	if err == nil {
		err = setFlags(fd, have&^LockingFlags)
	}
	if err != nil {
		return false, fmt.Errorf("it is protected by flags %s (chattr -%[1]s takes them away): %w", FlagLetters(have&LockingFlags), err)
	}
	return true, nil
}

// SetInodeFlags gives an open file or directory these flags, and of those that
// a user can set no others. When not all can be set, the others are, and the
// error names those that differ.
func SetInodeFlags(fd int, flags uint32) error {
	have, err := getFlags(fd)
	if errors.Is(err, errNoFlags) && flags&keptFlags() == 0 {
		return nil
	}
	if err != nil {
		return flagError(flags, err)
	}
	kept := keptFlags()
	if (have^flags)&kept == 0 {
		return nil
	}

	if have&LockingFlags != 0 && setFlags(fd, have&^LockingFlags) == nil {
		have &^= LockingFlags
	}
	differ := (have ^ flags) & kept
	err = setFlags(fd, have^differ)
	if err != nil {
		// One that is refused must not keep the others from being set.
		for _, f := range inodeFlags {
			if differ&f.bit != 0 && setFlags(fd, have^f.bit) == nil {
				have ^= f.bit
			}
		}
	}

	// Some file systems pass over what they do not know.
	now, gerr := getFlags(fd)
	if gerr != nil {
		return flagError(flags, gerr)
	}
	if differ = (now ^ flags) & kept; differ == 0 {
		return nil
	}
	if err == nil {
		err = unix.EOPNOTSUPP
	}
	return flagError(differ, err)
}

func flagError(flags uint32, err error) error {
	return fmt.Errorf("flags %s (see chattr): %w", FlagLetters(flags), err)
}

var errNoFlags = errors.New("the file system has no inode flags")

func getFlags(fd int) (flags uint32, err error) {
	flags, err = retried("get inode flags", func() (uint32, error) { return unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS) })
	if isErrno(err, unix.ENOTTY, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL) {
		err = errNoFlags
	}
	return flags, err
}

func setFlags(fd int, flags uint32) error {
	return retry("set inode flags", func() error { return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(int32(flags))) })
}
