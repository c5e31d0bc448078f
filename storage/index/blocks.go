package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrDamaged means that a file of the cache is not as it was written. Remove
// it and fetch the run again.
var ErrDamaged = errors.New("cached index run is damaged")

// A file of the cache is cut into blocks, each with a checksum. What follows
// them, integers little-endian:
//
//	CRC-32C of each block, u32 | length of all blocks, u64 | CRC-32C of the checksums and the length, u32
const (
	blockLen  = 16 << 10
	footerLen = 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blocks are the content of a mapped file. A block is verified when a byte of it
// is first used, so that opening a file reads little, however large it is. Files
// need no fsync for it: what a power cut left torn does not verify.
type blocks struct {
	data     []byte
	sums     []byte
	mapping  []byte
	verified []atomic.Uint64
	damaged  atomic.Bool // some block is not as it was written

	// file is set for one of another user, who could shorten or change it while it
	// is mapped: its blocks are read into memory of the process instead.
	file    *os.File
	reading sync.Mutex
}

// mapBlocks maps a file, which may be closed afterwards.
func mapBlocks(f *os.File) (*blocks, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := st.Size()
	if size < footerLen || size > math.MaxInt {
		return nil, fmt.Errorf("%s: %w: %d bytes long", f.Name(), ErrDamaged, size)
	}
	b := &blocks{}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		var fd int
		if fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		b.file = os.NewFile(uintptr(fd), f.Name())
		b.mapping, err = unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	} else {
		b.mapping, err = unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	if !b.parse() {
		b.Close()
		return nil, fmt.Errorf("%s: %w", f.Name(), ErrDamaged)
	}
	return b, nil
}

// fetch reports whether a part of the mapping is there: of another user's file it
// is read now.
func (b *blocks) fetch(from, to int) bool {
	if b.file == nil {
		return true
	}
	_, err := b.file.ReadAt(b.mapping[from:to], int64(from))
	return err == nil
}

func (b *blocks) parse() bool {
	size := len(b.mapping)
	if !b.fetch(size-footerLen, size) {
		return false
	}
	end := b.mapping[size-footerLen:]
	length := binary.LittleEndian.Uint64(end)
	count := (length + blockLen - 1) / blockLen
	if length > uint64(size) || length+4*count+footerLen != uint64(size) || !b.fetch(int(length), size-footerLen) {
		return false
	}
	b.data, b.sums = b.mapping[:length], b.mapping[length:size-footerLen]
	b.verified = make([]atomic.Uint64, (count+63)/64)
	return crc32.Checksum(b.mapping[length:size-4], castagnoli) == binary.LittleEndian.Uint32(end[8:])
}

// Close ends the mapping.
func (b *blocks) Close() error {
	if b.file != nil {
		b.file.Close()
	}
	if b.mapping == nil {
		return nil
	}
	return unix.Munmap(b.mapping)
}

// use reports whether n bytes from an offset are there and as they were written.
func (b *blocks) use(from, n int) bool {
	if from < 0 || n <= 0 || from+n > len(b.data) {
		b.damaged.Store(true)
		return false
	}
	for i := from / blockLen; i <= (from+n-1)/blockLen; i++ {
		if b.verified[i/64].Load()&(1<<(i%64)) == 0 && !b.verify(i) {
			return false
		}
	}
	return true
}

func (b *blocks) verify(i int) bool {
	if b.file != nil {
		b.reading.Lock()
		defer b.reading.Unlock()
		if b.verified[i/64].Load()&(1<<(i%64)) != 0 {
			return true
		}
	}
	from, to := i*blockLen, min((i+1)*blockLen, len(b.data))
	if !b.fetch(from, to) || crc32.Checksum(b.data[from:to], castagnoli) != binary.LittleEndian.Uint32(b.sums[4*i:]) {
		b.damaged.Store(true)
		return false
	}
	b.verified[i/64].Or(1 << (i % 64))
	return true
}

// Whole reports whether every byte is as it was written.
func (b *blocks) Whole() bool {
	return (len(b.data) == 0 || b.use(0, len(b.data))) && !b.damaged.Load()
}

// blockWriter writes a file of blocks. The first error is that of finish.
type blockWriter struct {
	to   *bufio.Writer
	at   uint64
	sum  uint32 // of the block so far
	sums []byte
}

func newBlockWriter(w io.Writer) *blockWriter {
	return &blockWriter{to: bufio.NewWriterSize(w, 256<<10)}
}

func (w *blockWriter) write(p []byte) {
	for len(p) > 0 {
		part := p[:min(len(p), blockLen-int(w.at%blockLen))]
		p = p[len(part):]
		w.to.Write(part)
		w.sum = crc32.Update(w.sum, castagnoli, part)
		if w.at += uint64(len(part)); w.at%blockLen == 0 {
			w.endBlock()
		}
	}
}

func (w *blockWriter) endBlock() {
	w.sums, w.sum = binary.LittleEndian.AppendUint32(w.sums, w.sum), 0
}

// finish writes what follows the blocks.
func (w *blockWriter) finish() error {
	if w.at%blockLen > 0 {
		w.endBlock()
	}
	end := binary.LittleEndian.AppendUint64(w.sums, w.at)
	w.to.Write(binary.LittleEndian.AppendUint32(end, crc32.Checksum(end, castagnoli)))
	return w.to.Flush()
}
