package posix

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FileSystem is a kind of file system, as far as it decides how nodes are read.
type FileSystem uint8

const (
	// Local file systems: the kernel knows every attribute of their files.
	Local FileSystem = iota
	// Network file systems: others change files there, and the kernel learns
	// of it only when it asks.
	Network
	// Fuse is a program that answers the kernel: a network file system as
	// often as not.
	Fuse
	// ProcOrSys makes content up when it is read, and states no size, or a
	// wrong one.
	ProcOrSys
	// Kernel file systems are other interfaces of the kernel. What is in them
	// is no data that could be restored.
	Kernel
)

// CachesAttributes reports whether the kernel may have cached attributes that are out
// of date.
func (f FileSystem) CachesAttributes() bool { return f == Network || f == Fuse }

// OfKernel reports whether the file system is an interface of the kernel.
func (f FileSystem) OfKernel() bool { return f == ProcOrSys || f == Kernel }

// SizeUnknown reports whether a regular file of this size may have any content.
func (f FileSystem) SizeUnknown(size uint64) bool { return f == ProcOrSys || f == Fuse && size == 0 }

// Volume is one file system in use. A nil one is local.
type Volume struct {
	kind    FileSystem
	noFlags atomic.Bool // it was asked for inode flags, and has none
	sealed  bool
}

// Sealed is the volume as it is for a tree that something made immutable for as long as it lies
// there: what is immutable in it does not show as that.
func (v *Volume) Sealed() *Volume { return &Volume{kind: v.Kind(), sealed: true} }

// Kind of the file system.
func (v *Volume) Kind() FileSystem {
	if v == nil {
		return Local
	}
	return v.kind
}

// InodeFlags are those of an open file or directory; see InodeFlags. A file
// system that has to be sent requests and has no flags is asked once.
func (v *Volume) InodeFlags(fd int) (uint32, error) {
	if v != nil && v.noFlags.Load() {
		return 0, nil
	}
	flags, ok, err := InodeFlags(fd)
	if v != nil && !ok && err == nil && v.kind.CachesAttributes() {
		v.noFlags.Store(true)
	}
	if v != nil && v.sealed {
		flags &^= flagImmutable
	}
	return flags, err
}

// Volumes finds out what lies on which device, once for each. The zero value
// is ready; it is safe for concurrent use.
type Volumes struct{ known sync.Map } // uint64 to *Volume

// Known returns the volume of a device, or nil when Of was not asked for it.
func (vs *Volumes) Known(dev uint64) *Volume {
	v, _ := vs.known.Load(dev)
	known, _ := v.(*Volume)
	return known
}

// Of returns the volume on which an open node of a device lies; O_PATH will do.
func (vs *Volumes) Of(fd int, dev uint64) *Volume {
	if v := vs.Known(dev); v != nil {
		return v
	}
	kind, err := kindOf(fd)
	if err != nil {
		return nil // every read there fails by itself
	}
	v, _ := vs.known.LoadOrStore(dev, &Volume{kind: kind})
	return v.(*Volume)
}

func kindOf(fd int) (FileSystem, error) {
	var st unix.Statfs_t
	err := retry("fstatfs", func() error { return unix.Fstatfs(fd, &st) })
	return fileSystem(uint32(st.Type)), err
}

// fileSystem knows the numbers of statfs(2), and of stat(1) for what the
// kernel itself does not hold.
func fileSystem(magic uint32) FileSystem {
	switch magic {
	case unix.FUSE_SUPER_MAGIC: // virtiofs has the same
		return Fuse
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC:
		return ProcOrSys
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.V9FS_MAGIC,
		unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.OCFS2_SUPER_MAGIC, unix.CODA_SUPER_MAGIC, unix.NCP_SUPER_MAGIC, unix.HOSTFS_SUPER_MAGIC,
		0x01161970, // gfs, gfs2
		0x0BD00BD0, // lustre
		0x61636673, // acfs
		0x19830326, // beegfs
		0x47504653, // gpfs
		0x013111A8, // ibrix
		0xAAD7AAEA, // panfs
		0x7C7C6673, // prl_fs
		0x20030528, // orangefs
		0xBEEFDEAD, // snfs
		0x786F4256, // vboxsf
		0xBACBACBC, // vmhgfs
		0xA501FCF5: // vxfs
		return Network
	case unix.DEVPTS_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.SECURITYFS_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC, unix.BINFMTFS_MAGIC, unix.HUGETLBFS_MAGIC,
		unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.NSFS_MAGIC, unix.RDTGROUP_SUPER_MAGIC, unix.OPENPROM_SUPER_MAGIC,
		unix.XENFS_SUPER_MAGIC, unix.BINDERFS_SUPER_MAGIC, unix.PID_FS_MAGIC, unix.AAFS_MAGIC, unix.USBDEVICE_SUPER_MAGIC,
		0x19800202, // mqueue
		0x62656570, // configfs
		0x65735543, // fusectl
		0x67596969, // rpc_pipefs
		0x6E667364, // nfsd
		0x76A9F425, // dlmfs
		0xD0D0D0D0: // functionfs, gadgetfs
		return Kernel
	}
	return Local
}
