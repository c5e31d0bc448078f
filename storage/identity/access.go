package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// source is a file as it was read, before it is known to be an identity file.
type source struct {
	data    []byte
	mode    os.FileMode
	exposed error  // why it must not be used when it is an identity
	warning string // what the user must know when it is one
}

// read reads a file and finds out who else may read it.
func read(path string) (*source, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: file %s does not exist", ErrNoIdentity, path)
		}
		return nil, fmt.Errorf("identity file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identity file: %w", err)
	}
	if st.IsDir() {
		return nil, fmt.Errorf("%w: %s is a directory", ErrNoIdentity, path)
	}

	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("identity file: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: %s is longer than any identity file (%d bytes)", ErrNoIdentity, path, maxFile)
	}

	src := &source{data: b, mode: st.Mode().Perm()}
	if !st.Mode().IsRegular() || src.mode&0o077 == 0 {
		return src, nil
	}
	if kind := withoutModes(f); kind != "" {
		src.warning = fmt.Sprintf("identity file %s lies on a file system without modes (%s): other users of this machine can read it while it is mounted (mode %04o); mount it with umask=077, and unmount it afterwards", path, kind, src.mode)
		return src, nil
	}
	src.exposed = fmt.Errorf("identity file %s can be read or written by others (mode %04o): run `chmod 600 %s`, and make a new identity if others may have read it", path, src.mode, path)
	return src, nil
}

// withoutModes names the file system of a file when it keeps no modes of its
// own, so that nobody can restrict the file; "" otherwise. The numbers are those
// of statfs(2).
func withoutModes(f *os.File) string {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil {
		return ""
	}
	switch uint32(st.Type) {
	case unix.MSDOS_SUPER_MAGIC:
		return "vfat"
	case unix.EXFAT_SUPER_MAGIC:
		return "exfat"
	case 0x5346544E, 0x7366746E: // the old driver, and ntfs3
		return "ntfs"
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return "cifs"
	case unix.ISOFS_SUPER_MAGIC, unix.UDF_SUPER_MAGIC:
		return "a disc"
	case unix.FUSE_SUPER_MAGIC:
		return blockFuse(f)
	}
	return ""
}

// blockFuse recognises a disk that a program reads, as ntfs-3g and exfat-fuse do,
// from other FUSE file systems, which may have modes.
func blockFuse(f *os.File) string {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return ""
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	device := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
	for line := range strings.Lines(string(mounts)) {
		mount, kind, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); len(fields) > 2 && fields[2] == device && strings.HasPrefix(kind, "fuseblk ") {
			return "fuseblk"
		}
	}
	return ""
}
