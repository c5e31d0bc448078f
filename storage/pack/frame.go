package pack

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

// Limits that readers hold (docs/FORMAT.md section 12), in bytes.
const (
	MaxObject         = 256 << 20
	MaxContents       = 64 << 20
	MaxFrameContent   = 16 << 20
	MaxSegmentContent = 64 << 20
	MaxChunk          = 8 << 20
)

func maxContent(k wire.Kind) uint64 {
	if k == wire.KindManifest {
		return MaxSegmentContent
	}
	return MaxFrameContent
}

const (
	methodStored = 0
	methodZstd   = 1
)

// Level says how hard to compress.
type Level int

// Levels of compression.
const (
	LevelDefault Level = iota
	LevelFastest
	LevelBetter
)

// Compressor turns content into the plaintext of frames. It is owned by one
// goroutine at a time.
type Compressor struct{ enc *zstd.Encoder }

// NewCompressor makes a Compressor; it needs no closing.
func NewCompressor(l Level) *Compressor {
	zl := map[Level]zstd.EncoderLevel{LevelDefault: zstd.SpeedDefault, LevelFastest: zstd.SpeedFastest, LevelBetter: zstd.SpeedBetterCompression}[l]
	// One megabyte is the size of a frame: a larger window would only cost memory.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zl), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants, and valid
	}
	return &Compressor{enc}
}

// Frame appends the plaintext of a frame that holds content to dst: compressed
// when that saves anything worth having, stored otherwise.
func (c *Compressor) Frame(dst, content []byte) []byte {
	start := len(dst)
	dst = append(dst, methodZstd)
	dst = binary.AppendUvarint(dst, uint64(len(content)))
	body := len(dst)
	if worthTrying(content) {
		dst = c.enc.EncodeAll(content, dst)
		if len(dst)-body < len(content)-len(content)/64 {
			return dst
		}
	}
	dst[start] = methodStored
	return append(dst[:body], content...)
}

// worthTrying probes long content for compressibility: the byte histogram of
// a few samples. Content whose samples are all but uniform is encrypted or
// compressed already; a repetition that a histogram cannot see is rare enough
// there to be given up for the speed.
func worthTrying(content []byte) bool {
	const probe, samples = 1024, 8
	if len(content) < 4*probe*samples {
		return true
	}
	var hist [256]uint32
	step := (len(content) - probe) / (samples - 1)
	for i := range samples {
		for _, b := range content[i*step : i*step+probe] {
			hist[b]++
		}
	}
	// The sum of squares is about n²/256 + n for uniform bytes, with little
	// spread; anything that compresses by more than 1 % lies well above.
	var squares uint64
	for _, h := range hist {
		squares += uint64(h) * uint64(h)
	}
	const n = probe * samples
	return squares > n*n/256+n+n/2
}

// StoredFrame appends the plaintext of a frame that holds content as it is.
func StoredFrame(dst, content []byte) []byte {
	dst = append(dst, methodStored)
	dst = binary.AppendUvarint(dst, uint64(len(content)))
	return append(dst, content...)
}

// Decompressor opens frames. It may be shared by goroutines.
type Decompressor struct{ pool sync.Pool }

// NewDecompressor makes a Decompressor.
func NewDecompressor() *Decompressor { return &Decompressor{} }

func (d *Decompressor) decoder() *zstd.Decoder {
	if dec, ok := d.pool.Get().(*zstd.Decoder); ok {
		return dec
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxSegmentContent),
		zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true), zstd.IgnoreChecksum(true))
	if err != nil {
		panic(err) // the options are constants, and valid
	}
	return dec
}

// Content appends the content of a frame's plaintext to dst.
func (d *Decompressor) Content(dst []byte, kind wire.Kind, plaintext []byte) ([]byte, error) {
	r := wire.NewDecoder(plaintext)
	method := r.U8()
	n := int(r.UvarintMax(maxContent(kind)))
	if r.Err() != nil {
		return nil, fmt.Errorf("frame: %w", r.Err())
	}
	body := r.Take(r.Rest())
	switch method {
	case methodStored:
		if len(body) != n {
			return nil, fmt.Errorf("frame of %d bytes holds %d: %w", n, len(body), wire.ErrMalformed)
		}
		return append(dst, body...), nil
	case methodZstd:
		if cap(dst)-len(dst) < n {
			grown := make([]byte, len(dst), len(dst)+n)
			copy(grown, dst)
			dst = grown
		}
		start := len(dst)
		dec := d.decoder()
		out, err := dec.DecodeAll(body, dst[:start:start+n])
		d.pool.Put(dec)
		if err != nil {
			return nil, fmt.Errorf("frame: %w: %w", wire.ErrMalformed, err)
		}
		if len(out)-start != n {
			return nil, fmt.Errorf("frame of %d bytes unpacks to %d: %w", n, len(out)-start, wire.ErrMalformed)
		}
		return out, nil
	}
	return nil, fmt.Errorf("frame with method %d: %w", method, wire.ErrNewer)
}

func frameNonce(offset int) (n [12]byte) {
	binary.BigEndian.PutUint64(n[4:], uint64(offset))
	return n
}

func frameAdditional(k wire.Kind, last bool) [2]byte {
	a := [2]byte{byte(k), 0}
	if last {
		a[1] = 1
	}
	return a
}

// OpenFrame unseals the frame at offset of an object, reusing sealed's
// memory, and returns its plaintext.
func OpenFrame(key cipher.AEAD, kind wire.Kind, offset int, sealed []byte) ([]byte, error) {
	nonce, ad := frameNonce(offset), frameAdditional(kind, false)
	b, err := key.Open(sealed[:0], nonce[:], sealed, ad[:])
	if err != nil {
		return nil, fmt.Errorf("frame at %d: %w", offset, seal.ErrWrongKey)
	}
	return b, nil
}
