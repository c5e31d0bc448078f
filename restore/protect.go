package restore

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
)

// protection is about the inode flags that forbid changes, immutable and
// append-only: they come when all else is done, and are taken away where they
// are in the way.
type protection struct {
	mu    sync.Mutex
	due   lockLog
	taken map[string]uint32 // flags that directories had, by path below root
}

// protectLater remembers a file or directory that is to be protected.
func (r *restorer) protectLater(e *manifest.Entry) {
	if e.InodeFlags&posix.LockingFlags == 0 || r.DryRun {
		return
	}
	r.protection.mu.Lock()
	defer r.protection.mu.Unlock()
	r.protection.due.add(e)
}

// unprotect takes flags away that forbid to change the node of a path, and the
// names in its directory. It reports whether there were any; undo gives the
// node its flags back, when it could not be changed all the same.
func (r *restorer) unprotect(path string) (undo func(), did bool) {
	if r.DryRun || r.root < 0 {
		return nil, false
	}
	h, name, err := r.within(path)
	if err != nil {
		return nil, false
	}
	defer h.Release()
	if h.Readable {
		did = r.unprotectDir(h.FD(), h.Path)
	}

	undo = func() {}
	switch st, err := posix.StatAt(h.FD(), name); {
	case err != nil || name == "":
	case st.Type == manifest.Dir:
		if fd, err := posix.OpenDir(h.FD(), name); err == nil {
			did = r.unprotectDir(fd, r.rel(path)) || did
			unix.Close(fd)
		}
	case st.Type == manifest.File:
		fd, _, err := posix.OpenFile(h.FD(), name)
		if err != nil {
			break
		}
		flags, _, _ := posix.InodeFlags(fd)
		if unlocked, _ := posix.Unlock(fd); !unlocked {
			unix.Close(fd)
			break
		}
		did = true
		unix.Close(fd)
		undo = func() {
			if err := r.setFlags(r.rel(path), manifest.File, flags); err != nil {
				r.problem(path, err)
			}
		}
	}
	return undo, did
}

// unprotectDir takes the flags away of an open directory, until its entry gives
// it others, or the restore ends.
func (r *restorer) unprotectDir(fd int, rel string) bool {
	flags, _, _ := posix.InodeFlags(fd)
	if did, _ := posix.Unlock(fd); !did {
		return false
	}
	p := &r.protection
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken == nil {
		p.taken = map[string]uint32{}
	}
	if _, ok := p.taken[rel]; !ok {
		p.taken[rel] = flags
	}
	return true
}

// settled says that a directory has the flags of its entry.
func (p *protection) settled(rel string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, rel)
}

// putBack gives directories the flags that were taken from them, unless they
// are gone, or an entry gave them others.
func (r *restorer) putBack() {
	p := &r.protection
	p.mu.Lock()
	defer p.mu.Unlock()
	for rel, flags := range p.taken {
		if err := r.setFlags(rel, manifest.Dir, flags); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			r.problem(r.path(rel), err)
		}
	}
	clear(p.taken)
}

// protect gives everything that was restored the flags that forbid changes: the
// target itself, from which a marker may have to be removed before, or all
// below it.
func (r *restorer) protect(target bool) {
	r.protection.due.each(func(path string, kind manifest.Type, flags uint32) {
		rel := r.rel(path)
		if target != (rel == "") {
			return
		}
		if err := r.setFlags(rel, kind, flags); err != nil {
			r.problem(path, err)
		}
	})
}

// setFlags adds those of the flags that forbid changes to the others of a file
// or directory, by its path below root.
func (r *restorer) setFlags(rel string, kind manifest.Type, flags uint32) error {
	if rel == "" {
		return addFlags(r.root, flags)
	}
	dir, name := split(rel)
	h, err := r.dirs.Get(dir)
	if err != nil {
		return err
	}
	defer h.Release()

	fd := -1
	if kind == manifest.Dir {
		fd, err = posix.OpenDir(h.FD(), name)
	} else {
		fd, _, err = posix.OpenFile(h.FD(), name)
	}
	if err != nil {
		return fmt.Errorf("inode flags: %w", err)
	}
	defer unix.Close(fd)
	return addFlags(fd, flags)
}

func addFlags(fd int, flags uint32) error {
	if p := posix.Protect(fd, flags); p != nil {
		return p
	}
	return nil
}

// lockLog remembers paths and flags, compressed: a whole tree may be immutable.
type lockLog struct {
	block  []byte
	blocks [][]byte
	zenc   *zstd.Encoder
}

const lockBlock = 64 << 10 // bytes

func (l *lockLog) add(e *manifest.Entry) {
	l.block = append(l.block, byte(e.Type))
	l.block = wire.AppendUvarint(l.block, uint64(e.InodeFlags))
	l.block = wire.AppendBytes(l.block, e.Path)
	if len(l.block) < lockBlock {
		return
	}
	if l.zenc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err) // the options are constants, and valid
		}
		l.zenc = enc
	}
	l.blocks = append(l.blocks, l.zenc.EncodeAll(l.block, nil))
	l.block = l.block[:0]
}

func (l *lockLog) each(do func(path string, kind manifest.Type, flags uint32)) {
	read := func(b []byte) {
		for d := wire.NewDecoder(b); d.Rest() > 0; {
			kind := manifest.Type(d.U8())
			flags := uint32(d.Uvarint())
			do(string(d.Bytes()), kind, flags)
		}
	}
	read(l.block)
	if len(l.blocks) == 0 {
		return
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err) // the options are constants, and valid
	}
	defer dec.Close()
	for _, b := range l.blocks {
		content, err := dec.DecodeAll(b, nil)
		if err != nil {
			panic(err) // made above, in memory
		}
		read(content)
	}
}
