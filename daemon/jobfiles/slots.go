package jobfiles

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
)

// slotHead is u64 number, u32 length, u32 CRC-32C of number, length and text.
const slotHead = 16

// Slots is a small file that neither a crash nor a full disk spoils. Its space
// is taken when it is made; states are written into its two slots in turn, each
// with a number and a checksum, so the previous one stays until the next is complete.
type Slots struct {
	dir    userdir.Dir
	name   string
	size   int      // of a slot, in bytes; a file has two
	file   *os.File // nil: not open
	number uint64
	Failed string // why the newest state is not in the file; "" when it is
}

// OpenSlots opens or makes the file of a name in dir, of slots of size bytes, and
// reads its newest state into v, which stays as it is when there is none. A file of which neither slot
// verifies is replaced, with an error that wraps ErrSpoiled. With
// another error the file is not open, and write tries again to open it; a state
// that it then finds there, and nobody has read, is not overwritten.
func OpenSlots(dir userdir.Dir, name string, size int, v any) (*Slots, error) {
	s := &Slots{dir: dir, name: name, size: size}
	return s, s.open(v)
}

func (s *Slots) open(v any) error {
	fail := func(err error) error { return fmt.Errorf("state file %s: %w", s.dir.Path(s.name), err) }
	if err := s.dir.Make(); err != nil {
		return fail(err)
	}
	f, err := s.dir.OpenFile(s.name, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = s.make()
	}
	if err != nil {
		return fail(err)
	}
	size := s.size
	b := make([]byte, 2*size)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		f.Close()
		return fail(err)
	}
	s.file = f
	var newest []byte
	written := false
	for i := range 2 {
		slot := b[i*size : (i+1)*size]
		if i*size+slotHead > n {
			break
		}
		number, text, ok := parseSlot(slot)
		written = written || binary.LittleEndian.Uint64(slot) != 0
		if ok && number > s.number {
			s.number, newest = number, text
		}
	}
	if newest == nil {
		if written {
			return fail(ErrSpoiled)
		}
		return nil
	}
	if err := json.Unmarshal(newest, v); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrSpoiled, err))
	}
	return nil
}

var (
	// ErrSpoiled means that a file held no state that verifies.
	ErrSpoiled = errors.New("it is damaged, and replaced by a new one")
	errUnread  = errors.New("it could not be read at first, and the state that it holds is not overwritten: restart the daemon, which then continues from that")
)

// PeekSlots reads the newest state of a file that another process may have open,
// and reports whether there is one.
func PeekSlots(dir userdir.Dir, name string, size int, v any) bool {
	b, err := dir.ReadFile(name)
	if err != nil || len(b) != 2*size {
		return false
	}
	first, text, _ := parseSlot(b[:size])
	if second, later, ok := parseSlot(b[size:]); ok && second > first {
		text = later
	}
	return text != nil && json.Unmarshal(text, v) == nil
}

// make makes the file with all its space.
func (s *Slots) make() (*os.File, error) {
	f, err := s.dir.OpenFile(s.name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, 2*int64(s.size))
	if errors.Is(err, unix.EOPNOTSUPP) { // then zeros take it
		_, err = f.Write(make([]byte, 2*s.size))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.dir.Sync()
	}
	if err != nil {
		f.Close()
		return nil, errors.Join(err, s.dir.Remove(s.name))
	}
	return f, nil
}

func parseSlot(b []byte) (number uint64, text []byte, ok bool) {
	number = binary.LittleEndian.Uint64(b)
	length := binary.LittleEndian.Uint32(b[8:])
	if number == 0 || int64(length) > int64(len(b)-slotHead) {
		return 0, nil, false
	}
	text = b[slotHead : slotHead+int(length)]
	return number, text, slotSum(b[:12], text) == binary.LittleEndian.Uint32(b[12:])
}

func slotSum(head, text []byte) uint32 {
	t := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(head, t), t, text)
}

// Write makes v the newest state; it is on disk when Write returns nil.
func (s *Slots) Write(v any) error {
	fail := func(err error) error { return fmt.Errorf("state file %s: %w", s.dir.Path(s.name), err) }
	text, err := json.Marshal(v)
	if err != nil {
		return fail(err)
	}
	if s.file == nil {
		known := s.number
		if err := s.open(new(json.RawMessage)); s.file == nil {
			return err
		}
		if s.number > known {
			s.Close()
			s.number = known
			return fail(errUnread)
		}
	}
	if len(text) > s.size-slotHead {
		return fail(errors.New("the state is larger than the file"))
	}
	number := s.number + 1
	b := make([]byte, slotHead, slotHead+len(text))
	binary.LittleEndian.PutUint64(b, number)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(text)))
	binary.LittleEndian.PutUint32(b[12:], slotSum(b[:12], text))
	if _, err := s.file.WriteAt(append(b, text...), int64(number%2)*int64(s.size)); err != nil {
		return fail(err)
	}
	if err := unix.Fdatasync(int(s.file.Fd())); err != nil {
		return fail(err)
	}
	s.number = number
	return nil
}

// fits reports whether there is room for v.
func (s *Slots) Fits(v any) bool {
	text, err := json.Marshal(v)
	return err == nil && len(text) <= s.size-slotHead
}

func (s *Slots) Close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

// Path of the file.
func (s *Slots) Path() string { return s.dir.Path(s.name) }
