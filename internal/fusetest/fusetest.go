// Package fusetest mounts directories through FUSE, for tests of what network
// file systems do: they take their time, and allow the kernel to remember what is no
// longer so.
package fusetest

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options of a mount.
type Options struct {
	// Delay before each answer about the attributes of a node, or what a
	// directory holds.
	Delay time.Duration
	// Remembered is how long the kernel may go on with names and attributes
	// that it got.
	Remembered time.Duration
	// HideSizes reports every file as empty. What it holds can be read
	// all the same, as in /proc.
	HideSizes bool
	// Endless makes the content of files never end.
	Endless bool
	// NoFlags has no inode flags.
	NoFlags bool
	// Silent makes reads of files wait for ever.
	Silent bool
}

// FS is a directory that is mounted a second time.
type FS struct {
	Dir string // where it is mounted

	fuse.RawFileSystem
	options  Options
	stopped  chan struct{}
	inFlight atomic.Int64
	most     atomic.Int64
	attrs    atomic.Int64
}

// Mount mounts the directory back until the test ends. It skips the test where
// that takes rights, or a kernel, that there are not.
func Mount(t testing.TB, back string, o Options) *FS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil {
		t.Skipf("/dev/fuse: %v", err)
	}
	root, err := fs.NewLoopbackRoot(back)
	if err != nil {
		t.Fatal(err)
	}
	f := &FS{Dir: t.TempDir(), options: o, stopped: make(chan struct{})}
	f.RawFileSystem = fs.NewNodeFS(root, &fs.Options{EntryTimeout: &o.Remembered, AttrTimeout: &o.Remembered, NullPermissions: true})
	server, err := fuse.NewServer(f, f.Dir, &fuse.MountOptions{DirectMountStrict: true, DisableReadDirPlus: true, Name: "knowngood-test", FsName: back, Options: []string{"default_permissions"}})
	if err != nil {
		t.Fatalf("mount: %v", err)
	}
	served := make(chan struct{})
	go func() { server.Serve(); close(served) }()
	t.Cleanup(func() {
		close(f.stopped)
		if err := server.Unmount(); err != nil {
			unix.Unmount(f.Dir, unix.MNT_DETACH)
		}
		<-served
	})
	if err := server.WaitMount(); err != nil {
		t.Fatalf("mount: %v", err)
	}
	return f
}

// Most is how many requests about attributes were under way at once, at most.
func (f *FS) Most() int64 { return f.most.Load() }

// Attributes is how many requests there were for the attributes of a node.
func (f *FS) Attributes() int64 { return f.attrs.Load() }

// Reset sets the counts to zero.
func (f *FS) Reset() { f.most.Store(0); f.attrs.Store(0) }

func (f *FS) wait() {
	n := f.inFlight.Add(1)
	for m := f.most.Load(); n > m && !f.most.CompareAndSwap(m, n); m = f.most.Load() {
	}
	if f.options.Delay > 0 {
		time.Sleep(f.options.Delay)
	}
	f.inFlight.Add(-1)
}

func (f *FS) hide(a *fuse.Attr) {
	if f.options.HideSizes && a.IsRegular() {
		a.Size = 0
	}
}

// Lookup and the others are those of fuse.RawFileSystem.
func (f *FS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.wait()
	s := f.RawFileSystem.Lookup(cancel, h, name, out)
	f.hide(&out.Attr)
	return s
}

// GetAttr counts, and waits.
func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.attrs.Add(1)
	f.wait()
	s := f.RawFileSystem.GetAttr(cancel, in, out)
	f.hide(&out.Attr)
	return s
}

// Ioctl is how inode flags are read and set.
func (f *FS) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	if f.options.NoFlags {
		return fuse.Status(unix.ENOTTY)
	}
	return f.RawFileSystem.Ioctl(cancel, in, inbuf, out, outbuf)
}

// OpenDir waits.
func (f *FS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.wait()
	return f.RawFileSystem.OpenDir(cancel, in, out)
}

// Open allows the kernel to read past a size that is hidden.
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s := f.RawFileSystem.Open(cancel, in, out)
	if f.options.HideSizes {
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
	return s
}

// Read returns what the options define.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	switch {
	case f.options.Silent:
		select {
		case <-f.stopped:
		case <-cancel:
		}
		return nil, fuse.EINTR
	case f.options.Endless:
		return fuse.ReadResultData(buf[:in.Size]), fuse.OK
	}
	return f.RawFileSystem.Read(cancel, in, buf)
}
