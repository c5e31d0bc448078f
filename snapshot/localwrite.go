package snapshot

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
	"knowngood/storage/seal"
)

// localWriter writes the file of a run.
type localWriter struct {
	dir  userdir.Dir
	file *os.File
	w    *bufio.Writer
	at   int64
	enc  *zstd.Encoder
	buf  []byte
}

// newLocalWriter starts a partial file in dir and holds a lock on it as long
// as the process lives, so that others know it from what a dead run left.
func newLocalWriter(dir userdir.Dir, domain seal.DomainID, started time.Time) (*localWriter, error) {
	f, err := createPartial(dir)
	if err != nil {
		return nil, dir.Failed(err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // the options are constants, and valid
	}
	w := &localWriter{dir: dir, file: f, w: bufio.NewWriterSize(f, 256<<10), enc: enc}
	return w, w.write(append(binary.LittleEndian.AppendUint64([]byte(localMagic), uint64(started.UnixNano())), domain[:]...))
}

func createPartial(dir userdir.Dir) (*os.File, error) {
	if err := dir.Make(); err != nil {
		return nil, err
	}
	for {
		f, err := dir.CreateTemp(partialFile)
		if err != nil {
			return nil, err
		}
		// Until it is locked, another run may take it for what a dead run left.
		var st unix.Stat_t
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err == nil && st.Nlink > 0 {
			return f, nil
		}
		f.Close()
		if err != nil && err != unix.EWOULDBLOCK {
			return nil, err
		}
	}
}

func (w *localWriter) write(b []byte) error {
	w.at += int64(len(b))
	if _, err := w.w.Write(b); err != nil {
		return w.dir.Failed(err)
	}
	return nil
}

func (w *localWriter) block(payload []byte) error {
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(head[4:], crc32.Checksum(payload, castagnoli))
	if err := w.write(head[:]); err != nil {
		return err
	}
	return w.write(payload)
}

// segment writes the next segment.
func (w *localWriter) segment(s *localSegment) error {
	w.buf = s.append(w.buf[:0])
	return w.block(w.buf)
}

// flush hands what was written to the kernel, so that it outlives the process.
func (w *localWriter) flush() error {
	if err := w.w.Flush(); err != nil {
		return w.dir.Failed(err)
	}
	return nil
}

// commit writes the trailer and makes the file the environment's manifest.
func (w *localWriter) commit(t *localTrailer) error {
	at := w.at
	if err := w.block(t.append(nil)); err != nil {
		return err
	}
	if err := w.write(append(binary.LittleEndian.AppendUint64(nil, uint64(at)), localEnd...)); err != nil {
		return err
	}
	err := w.w.Flush()
	if err == nil {
		err = w.file.Sync()
	}
	if err == nil {
		err = w.dir.Rename(filepath.Base(w.file.Name()), localFile)
	}
	w.file.Close()
	if err != nil {
		return w.dir.Failed(err)
	}
	return nil
}

// keep leaves the partial file for the next run.
func (w *localWriter) keep() { w.w.Flush(); w.file.Close() }
