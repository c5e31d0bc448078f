package generation

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"path/filepath"

	"knowngood/internal/durable"
	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/internal/wire"
)

// A record lists the paths of a generation, in the order of manifest.Compare:
//
//	"KNGR" u8 version | entries, each with its length before it
//	entry: begin that its path shares with the one before, in bytes | rest of the path | type u8 | mode | uid | gid | size | mtime | rdev | link target | SHA-256 of extended attributes | hash of content (see sum) | inode | ctime
//
// The root digest is the SHA-256 over all entries without inode and ctime. That paths are shared
// keeps a record as small as its tree: whoever makes a directory in a deep one makes a long path.
const (
	recordMagic = "KNGR\x03"
	maxEntry    = 4 << 20 // of a path, too
)

// entry is a path of a generation.
type entry struct {
	path   string
	st     posix.Stat
	target string
	attrs  [32]byte
	sum    [32]byte // of content
}

// same reports whether nothing was changed, as far as a stat shows it.
func (e *entry) same(st *posix.Stat) bool {
	return e.st.Type == st.Type && e.st.Ino == st.Ino && e.st.Ctime == st.Ctime && e.st.Mtime == st.Mtime && (e.st.Size == st.Size || st.Type == inode.Dir) && e.st.Mode == st.Mode && e.st.UID == st.UID && e.st.GID == st.GID
}

// fixed is what the digest covers, besides the path.
func (e *entry) fixed(b []byte) []byte {
	size := e.st.Size
	if e.st.Type == inode.Dir {
		size = 0
	}
	b = append(b, byte(e.st.Type))
	for _, v := range []uint64{uint64(e.st.Mode), uint64(e.st.UID), uint64(e.st.GID), size} {
		b = wire.AppendUvarint(b, v)
	}
	b = wire.AppendUvarint(wire.AppendSvarint(b, e.st.Mtime.Sec), uint64(e.st.Mtime.Nsec))
	b = wire.AppendBytes(wire.AppendUvarint(b, e.st.Rdev), e.target)
	return append(append(b, e.attrs[:]...), e.sum[:]...)
}

// append appends what an entry has besides its fixed part.
func (e *entry) append(b []byte) []byte {
	b = wire.AppendUvarint(b, e.st.Ino)
	return wire.AppendUvarint(wire.AppendSvarint(b, e.st.Ctime.Sec), uint64(e.st.Ctime.Nsec))
}

// parseEntry parses an entry that comes after the one with the path before.
func parseEntry(b []byte, before string) (*entry, error) {
	d := wire.NewDecoder(b)
	e := &entry{path: before[:d.UvarintMax(uint64(len(before)))] + string(d.Bytes())}
	if len(e.path) > maxEntry {
		return nil, wire.ErrMalformed
	}
	e.st.Type = inode.Type(d.U8())
	e.st.Mode, e.st.UID, e.st.GID, e.st.Size = uint32(d.UvarintMax(1<<32-1)), uint32(d.UvarintMax(1<<32-1)), uint32(d.UvarintMax(1<<32-1)), d.Uvarint()
	e.st.Mtime = inode.Time{Sec: d.Svarint(), Nsec: uint32(d.UvarintMax(1e9 - 1))}
	e.st.Rdev, e.target = d.Uvarint(), string(d.Bytes())
	d.Copy(e.attrs[:])
	d.Copy(e.sum[:])
	e.st.Ino = d.Uvarint()
	e.st.Ctime = inode.Time{Sec: d.Svarint(), Nsec: uint32(d.UvarintMax(1e9 - 1))}
	return e, d.Finish()
}

// unreadableError is about a record that is damaged, or of another version of the program.
type unreadableError struct {
	path string
	err  error
}

func (e *unreadableError) Error() string {
	return fmt.Sprintf("the record %s cannot be read by this version of knowngood: %v", e.path, e.err)
}

func (e *unreadableError) Unwrap() error { return e.err }

// recordIn yields the entries of the record in a file. The error is an unreadableError.
func recordIn(f *os.File) iter.Seq2[*entry, error] {
	return func(yield func(*entry, error) bool) {
		for e, err := range readRecord(f) {
			if err != nil {
				err = &unreadableError{f.Name(), err}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// readRecord yields the entries of a record. What cannot be parsed is an error.
func readRecord(r io.Reader) iter.Seq2[*entry, error] {
	return func(yield func(*entry, error) bool) {
		in := bufio.NewReaderSize(r, 256<<10)
		magic := make([]byte, len(recordMagic))
		if _, err := io.ReadFull(in, magic); err != nil || string(magic) != recordMagic {
			yield(nil, errors.New("it is no record of a generation"))
			return
		}
		for before := ""; ; {
			n, err := binary.ReadUvarint(in)
			if err == io.EOF {
				return
			}
			if err == nil && n > maxEntry {
				err = wire.ErrMalformed
			}
			var e *entry
			if err == nil {
				b := make([]byte, n)
				if _, err = io.ReadFull(in, b); err == nil {
					e, err = parseEntry(b, before)
				}
			}
			if !yield(e, err) || err != nil {
				return
			}
			before = e.path
		}
	}
}

// recordWriter writes a record, and its digest.
type recordWriter struct {
	file   *os.File // nil for only the digest
	out    *bufio.Writer
	digest hash.Hash
	before string // path of the last entry
	buf    []byte
}

func (w *recordWriter) add(e *entry) error {
	shared := 0
	for shared < min(len(e.path), len(w.before)) && e.path[shared] == w.before[shared] {
		shared++
	}
	w.buf = e.fixed(wire.AppendBytes(wire.AppendUvarint(w.buf[:0], uint64(shared)), e.path[shared:]))
	w.before = e.path
	w.digest.Write(binary.AppendUvarint(nil, uint64(len(w.buf))))
	w.digest.Write(w.buf)
	if w.file == nil {
		return nil
	}
	w.buf = e.append(w.buf)
	if len(w.buf) > maxEntry || len(e.path) > maxEntry {
		return errors.New("its path or link is too long for a record")
	}
	w.out.Write(binary.AppendUvarint(nil, uint64(len(w.buf))))
	_, err := w.out.Write(w.buf)
	return err
}

// finish makes the record durable under its name.
func (w *recordWriter) finish(path string) error {
	if w.file == nil {
		return nil
	}
	if err := errors.Join(w.out.Flush(), w.file.Sync()); err != nil {
		return err
	}
	if err := os.Rename(w.file.Name(), path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// recordDigest is the root digest of what a record lists.
func recordDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	w := &recordWriter{digest: sha256.New()}
	for e, err := range recordIn(f) {
		if err == nil {
			err = w.add(e)
		}
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(w.digest.Sum(nil)), nil
}
