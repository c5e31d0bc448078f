// Package signs finds signs that files were encrypted since the last snapshot.
//
// A capture makes a Mark of each file that it reads: what its first bytes look
// like, and how much of it looks random. The next capture compares marks, Counts
// holds what differs, and State decides over the counts of this run and of those
// before. All of it is pure: bytes, marks and counts, no files and no clock.
//
// It promises few false alarms, and not that an encryptor is seen: who knows the
// rules stays below them. It claims nothing of a file whose earlier mark is unknown.
package signs

import "bytes"

// Mark is what is remembered of the content of a file, in 36 bits; 0 when nothing
// is known. Its layout is that of local files only:
//
//	hash of the first bytes, 24 bits | part that looks random, of 255 | class, 4 bits
type Mark uint64

// class of the first bytes of a file.
type class uint8

const (
	unknown class = iota
	plain         // bytes repeat, as in text, programs, tables
	vague         // neither plain nor random
	packed        // the magic bytes of a compressed format
	random        // as encrypted content is
)

func (m Mark) class() class { return class(m & 15) }
func (m Mark) part() int    { return int(m >> 4 & 255) }
func (m Mark) head() uint32 { return uint32(m >> 12) }

// sure reports whether it is clear what the first bytes are.
func (m Mark) sure() bool { return m.class() != unknown && m.class() != vague }

const (
	headBytes = 256 // of a file, that give its class
	leastHead = 128 // of a shorter one nothing is known
	keyBytes  = 8   // the first bytes, which are hashed

	pieces     = 8 // samples of a chunk
	pieceBytes = 32
)

// Sampler makes the mark of a file from its chunks. The zero value is ready.
type Sampler struct {
	mark         Mark
	chunks       int
	bytes, noisy uint64 // of all chunks, and of those that look random
}

// Add adds the next chunk of the file. It reads at most 512 bytes of it.
func (s *Sampler) Add(chunk []byte) {
	if s.chunks++; s.chunks == 1 {
		s.mark = markOf(chunk)
	}
	n := uint64(len(chunk))
	s.bytes += n

	var sample [pieces * pieceBytes]byte
	if len(chunk) > len(sample) {
		step := (len(chunk) - pieceBytes) / (pieces - 1)
		for i := range pieces {
			copy(sample[i*pieceBytes:], chunk[i*step:i*step+pieceBytes])
		}
		chunk = sample[:]
	}
	if looks(chunk) == random {
		s.noisy += n
	}
}

// Mark is that of the file whose chunks were added.
func (s *Sampler) Mark() Mark {
	if s.mark == 0 || s.bytes == 0 {
		return 0
	}
	return s.mark | Mark(s.noisy*255/s.bytes)<<4
}

// markOf is the mark of a file by its first chunk, without what looks random.
func markOf(chunk []byte) Mark {
	if len(chunk) < leastHead {
		return 0
	}
	h := uint32(2166136261) // FNV-1a
	for _, b := range chunk[:keyBytes] {
		h = (h ^ uint32(b)) * 16777619
	}
	c := looks(chunk[:min(len(chunk), headBytes)])
	if c != plain && hasMagic(chunk) {
		c = packed
	}
	return Mark(h>>8)<<12 | Mark(c)
}

// looks is the class of bytes by how many pairs of them are equal, which is one in
// 256 of random ones: five standard deviations above that they still are random,
// and with twice as many plain. Of fewer than leastHead it knows nothing.
func looks(b []byte) class {
	n := uint64(len(b))
	if n < leastHead {
		return unknown
	}
	var before [256]uint16 // b has at most headBytes
	pairs, expected := uint64(0), n*(n-1)/512
	for _, x := range b {
		pairs += uint64(before[x])
		before[x]++
	}

	excess := uint64(0)
	if pairs > expected {
		excess = pairs - expected
	}
	switch {
	case excess >= expected:
		return plain
	case excess*excess > 25*expected:
		return vague
	}
	return random
}

// magics are the first bytes of formats whose content looks random.
var magics = []struct {
	at    int
	bytes string
}{
	{0, "\x1f\x8b"}, {0, "\x1f\x9d"}, {0, "BZh"}, {0, "\xfd7zXZ\x00"}, {0, "\x28\xb5\x2f\xfd"}, {0, "\x04\x22\x4d\x18"}, {0, "\x02\x21\x4c\x18"},
	{0, "\x5d\x00\x00"}, {0, "\x89LZO"}, {0, "LZIP"}, {0, "\xff\x06\x00\x00sNaPpY"}, {0, "7z\xbc\xaf\x27\x1c"}, {0, "Rar!"}, {0, "MSCF"}, {0, "xar!"},
	{0, "PK\x03\x04"}, {0, "PK\x05\x06"}, {0, "\x78\x01"}, {0, "\x78\x5e"}, {0, "\x78\x9c"}, {0, "\x78\xda"}, {0, "hsqs"}, {0, "sqsh"},
	{0, "PACK"}, {0, "!<arch>"}, {0, "\xed\xab\xee\xdb"}, {0, "wOF2"}, {0, "wOFF"}, {0, "\x93NUMPY"}, {0, "PAR1"}, {0, "PGDMP"},
	{0, "\xff\xd8\xff"}, {0, "\x89PNG"}, {0, "GIF8"}, {0, "RIFF"}, {0, "II*\x00"}, {0, "MM\x00*"}, {4, "ftyp"}, {4, "moov"}, {4, "mdat"}, {4, "jP  "},
	{0, "\xff\x0a"}, {0, "ID3"}, {0, "\xff\xfb"}, {0, "\xff\xf3"}, {0, "\xff\xf1"}, {0, "fLaC"}, {0, "OggS"}, {0, "\x1a\x45\xdf\xa3"}, {0, "FLV\x01"},
	{0, "%PDF"}, {0, "SQLite format 3"}, {0, "\x7fELF"},
}

func hasMagic(b []byte) bool {
	for i := range magics {
		m := &magics[i]
		if len(b) > m.at && bytes.HasPrefix(b[m.at:], []byte(m.bytes)) {
			return true
		}
	}
	return false
}
