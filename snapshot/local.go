package snapshot

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// The host's own copy of an environment's last manifest. It lies in the state
// directory, holds no secret, and may be lost: then the next run reads every
// file again. Its layout is private to this file:
//
//	"KNLM" u8 version | u64 start of the run, ns | domain ID, 8 | blocks | trailer block | u64 offset of the trailer block | "KNLE"
//	block: u32 length of the payload | u32 CRC-32C | payload
//
// A file without a trailer is what a run left that did not come to its end:
// its entries are good, its segments are not yet in the store. Provisional
// blocks hold entries of the segment being filled, so that large files need
// not be read again; the segment that follows them holds the same entries, and
// they count only where none does.
const (
	localMagic   = "KNLM\x08"
	localHead    = int64(len(localMagic)) + 8 + int64(len(seal.DomainID{}))
	localEnd     = "KNLE"
	localFile    = "manifest"
	partialFile  = "partial-"
	maxLocalSize = 256 << 20 // a block's payload
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segmentPlace is where a segment lies in the store.
type segmentPlace struct {
	container         int // position in the trailer's containers; -1: not known yet
	offset, sealedLen uint32
}

// localSegment is a block: a segment with what the host saw of its entries.
type localSegment struct {
	contentLen uint32
	id         [32]byte
	count      int // of entries
	first      string
	statsLen   int
	packed     []byte // zstd of content and stats

	provisional bool

	entries []manifest.Entry // nil until decoded
	owner   *localManifest
	ordinal int
}

// place is where the segment lies in the store; ok is false for a segment of
// a run that did not come to its end.
func (s *localSegment) place() (c pack.Ref, p segmentPlace, ok bool) {
	if s.owner.trailer == nil {
		return c, p, false
	}
	p = s.owner.trailer.places[s.ordinal]
	return s.owner.trailer.containers[p.container], p, true
}

// locates reports whether the segment has of the chunks of entries, which have its
// ID, that they lie where entries have them. If not, the segment in the store is not
// the one that the host's copy would hold, and may have another length.
func (s *localSegment) locates(entries []*manifest.Entry) bool {
	for i, e := range entries {
		for j := range e.Chunks {
			was, is := s.entries[i].Chunks[j].Loc, e.Chunks[j].Loc
			if was.Pack.Hash != is.Pack.Hash || was.FrameOffset != is.FrameOffset || was.Offset != is.Offset {
				return false
			}
		}
	}
	return true
}

func (s *localSegment) append(b []byte) []byte {
	if s.provisional {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = wire.AppendUvarint(b, uint64(s.contentLen))
	b = append(b, s.id[:]...)
	b = wire.AppendUvarint(b, uint64(s.count))
	b = wire.AppendBytes(b, s.first)
	b = wire.AppendUvarint(b, uint64(s.statsLen))
	return append(b, s.packed...)
}

func parseLocalSegment(b []byte) (*localSegment, error) {
	d := wire.NewDecoder(b)
	s := &localSegment{provisional: d.U8() == 1, contentLen: uint32(d.UvarintMax(pack.MaxSegmentContent))}
	d.Copy(s.id[:])
	s.count = int(d.UvarintMax(manifest.MaxEntries))
	s.first = string(d.Bytes())
	s.statsLen = int(d.UvarintMax(pack.MaxSegmentContent))
	s.packed = d.Take(d.Rest())
	return s, d.Err()
}

// decode unpacks the entries.
func (s *localSegment) decode(dec *zstd.Decoder) error {
	content, err := dec.DecodeAll(s.packed, make([]byte, 0, int(s.contentLen)+s.statsLen))
	if err != nil {
		return err
	}
	if len(content) != int(s.contentLen)+s.statsLen {
		return fmt.Errorf("segment of %d bytes: %w", len(content), wire.ErrMalformed)
	}
	var in *pack.Ref
	if s.owner.trailer != nil {
		in = &s.owner.trailer.containers[s.owner.trailer.places[s.ordinal].container]
	}
	if s.entries, err = manifest.ParseSegment(content[:s.contentLen], in); err != nil {
		return err
	}
	return manifest.ParseStats(content[s.contentLen:], s.entries)
}

// localTrailer is what the end of a complete file holds.
type localTrailer struct {
	root       [32]byte // of the snapshot
	number     uint64
	table      *manifest.Table // without its segments
	manifest   statement.ManifestRef
	containers []pack.Ref
	places     []segmentPlace // of the blocks, in order
	objects    []pack.Object
	base       pack.Object // with the list from which that of the snapshot differs, or its own
	baseList   []pack.Object
	locks      []time.Time // when those of needed end in store, as far as known; to the second
	store      string      // see repository.StoreHash
	totals     Totals
	content    [32]byte // see manifest.Table.Digest
}

func (t *localTrailer) append(b []byte) []byte {
	var r wire.Record
	r.Bytes(1, t.root[:])
	r.Uint(2, t.number)
	r.Bytes(4, t.table.Append(nil))
	m := &t.manifest
	r.Bytes(5, m.Hash[:])
	r.Uint(7, uint64(m.Kind))
	r.Uint(8, m.Size)
	r.Uint(9, m.Offset)
	r.Uint(10, m.Length)
	c := wire.AppendUvarint(nil, uint64(len(t.containers)))
	for i := range t.containers {
		c = t.containers[i].Append(c)
	}
	r.Bytes(13, c)
	l := wire.AppendUvarint(nil, uint64(len(t.places)))
	for _, p := range t.places {
		l = wire.AppendUvarint(l, uint64(p.container))
		l = wire.AppendUvarint(l, uint64(p.offset))
		l = wire.AppendUvarint(l, uint64(p.sealedLen))
	}
	r.Bytes(17, l)
	r.Bytes(14, pack.AppendObjects(nil, t.objects))
	if t.base.Kind != 0 {
		r.Bytes(20, pack.AppendObjects(nil, []pack.Object{t.base}))
		r.Bytes(21, pack.AppendObjects(nil, t.baseList))
	}
	k := wire.AppendUvarint(nil, uint64(len(t.locks)))
	for _, end := range t.locks {
		k = wire.AppendUvarint(k, uint64(max(0, end.Unix())))
	}
	r.Bytes(18, k)
	r.Text(19, t.store)
	r.Bytes(15, t.totals.append(nil))
	r.Bytes(16, t.content[:])
	return r.Append(b)
}

func parseLocalTrailer(b []byte) (*localTrailer, error) {
	f, err := wire.ParseRecord(b)
	if err != nil {
		return nil, err
	}
	t := &localTrailer{}
	m := &t.manifest
	f.Fixed(1, t.root[:])
	t.number = f.Uint(2)
	if t.table, err = manifest.ParseTable(f.Bytes(4)); err != nil {
		return nil, err
	}
	f.Fixed(5, m.Hash[:])
	m.Kind = wire.Kind(f.Uint(7))
	m.Size, m.Offset, m.Length = f.Uint(8), f.Uint(9), f.Uint(10)
	d := wire.NewDecoder(f.Bytes(13))
	t.containers = make([]pack.Ref, d.Count(pack.RefMin))
	for i := range t.containers {
		t.containers[i] = pack.ParseRef(d)
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	d = wire.NewDecoder(f.Bytes(17))
	t.places = make([]segmentPlace, d.Count(3))
	for i := range t.places {
		t.places[i] = segmentPlace{int(d.UvarintMax(uint64(len(t.containers)) - 1)), uint32(d.UvarintMax(pack.MaxObject)), uint32(d.UvarintMax(pack.MaxObject))}
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	t.store = f.Text(19)
	d = wire.NewDecoder(f.Bytes(18))
	t.locks = make([]time.Time, d.Count(1))
	for i := range t.locks {
		if v := d.UvarintMax(math.MaxInt64); v > 0 {
			t.locks[i] = time.Unix(int64(v), 0)
		}
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	d = wire.NewDecoder(f.Bytes(14))
	t.objects = pack.ParseObjects(d)
	if err := d.Finish(); err != nil {
		return nil, err
	}
	d = wire.NewDecoder(f.Bytes(20))
	if base := pack.ParseObjects(d); len(base) == 1 {
		t.base = base[0]
		d = wire.NewDecoder(f.Bytes(21))
		t.baseList = pack.ParseObjects(d)
		if err := d.Finish(); err != nil {
			return nil, err
		}
	}
	if len(t.locks) != len(t.objects)+1 {
		return nil, wire.ErrMalformed
	}
	if err := t.totals.parse(f.Bytes(15)); err != nil {
		return nil, err
	}
	f.Fixed(16, t.content[:])
	_, err = f.Finish()
	return t, err
}

// localManifest reads a file, block by block.
type localManifest struct {
	file    *os.File
	r       *bufio.Reader
	left    int64           // bytes of blocks not yet read
	started int64           // nanoseconds since 1970
	domain  seal.DomainID   // that the IDs of chunks belong to
	trailer *localTrailer   // nil when the file has none
	read    int             // segments read
	held    []*localSegment // provisional ones, until a segment follows
}

// openLocal opens the last manifest; an error means that there is none to be
// used.
func openLocal(dir userdir.Dir) (*localManifest, error) {
	f, err := dir.Open(localFile)
	if err != nil {
		return nil, err
	}
	m := &localManifest{file: f}
	if err := m.open(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return m, nil
}

func (m *localManifest) open() error {
	st, err := m.file.Stat()
	if err != nil {
		return err
	}
	var head [localHead]byte
	if _, err := io.ReadFull(m.file, head[:]); err != nil || string(head[:len(localMagic)]) != localMagic {
		return errors.New("not a local manifest")
	}
	m.started = int64(binary.LittleEndian.Uint64(head[len(localMagic):]))
	m.domain = seal.DomainID(head[len(localMagic)+8:])
	m.left = st.Size() - localHead
	var end [12]byte
	if m.left >= int64(len(end)) {
		if _, err := m.file.ReadAt(end[:], st.Size()-int64(len(end))); err != nil {
			return err
		}
	}
	if string(end[8:]) == localEnd {
		at := int64(binary.LittleEndian.Uint64(end[:]))
		if at < localHead || at > st.Size() {
			return wire.ErrMalformed
		}
		b, err := readBlock(io.NewSectionReader(m.file, at, st.Size()-at))
		if err != nil {
			return err
		}
		if m.trailer, err = parseLocalTrailer(b); err != nil {
			return err
		}
		m.left = at - localHead
	}
	m.r = bufio.NewReaderSize(io.LimitReader(m.file, m.left), 256<<10)
	return nil
}

func readBlock(r io.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxLocalSize {
		return nil, wire.ErrMalformed
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, fmt.Errorf("checksum: %w", wire.ErrMalformed)
	}
	return b, nil
}

// next reads the next segment, not yet decoded; io.EOF ends them. In a file
// without a trailer a torn block counts as the end.
func (m *localManifest) next() (*localSegment, error) {
	var s *localSegment
	for s == nil || s.provisional {
		b, err := readBlock(m.r)
		if err == io.EOF || err != nil && m.trailer == nil {
			return m.leftover()
		}
		if err != nil {
			return nil, err
		}
		if s, err = parseLocalSegment(b); err != nil {
			return nil, err
		}
		if s.provisional {
			m.held = append(m.held, s)
		}
	}
	m.held = nil
	if m.trailer != nil && m.read >= len(m.trailer.places) {
		return nil, wire.ErrMalformed
	}
	s.owner, s.ordinal = m, m.read
	m.read++
	return s, nil
}

// leftover yields what a run that died had of the segment being filled.
func (m *localManifest) leftover() (*localSegment, error) {
	if m.trailer != nil || len(m.held) == 0 {
		return nil, io.EOF
	}
	s := m.held[0]
	m.held = m.held[1:]
	s.owner = m
	return s, nil
}

func (m *localManifest) close() { m.file.Close() }

// leftovers opens the partial files that dead runs left in dir, the largest
// first, and locks them; the caller removes them when its run is complete.
// Those that are of no use, to this domain, are removed here.
func leftovers(dir userdir.Dir, domain seal.DomainID) []*localManifest {
	names, err := dir.Names()
	if err != nil {
		return nil
	}
	var out []*localManifest
	for _, n := range names {
		if !strings.HasPrefix(n, partialFile) {
			continue
		}
		f, err := dir.Open(n)
		if err != nil {
			continue
		}
		m := &localManifest{file: f}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			m.close() // its run is alive
			continue
		}
		if m.open() != nil || m.domain != domain {
			_ = dir.Remove(n)
			m.close()
			continue
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *localManifest) int { return int(b.left - a.left) })
	return out
}
