package pack

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

// FrameTarget is the content of a data frame, in bytes: enough for solid
// compression, little enough to read only one file.
const FrameTarget = 2 << 20

// LargeFrame is the content of a frame that holds nothing but chunks of large
// files, in bytes: it compresses better, and no small file is read with it.
const LargeFrame = 4 << 20

// Limits that readers hold (docs/FORMAT.md section 12), in bytes.
const (
	MaxObject         = 256 << 20
	MaxContents       = 64 << 20
	MaxFrameContent   = 16 << 20
	MaxSegmentContent = 64 << 20
	MaxChunk          = 8 << 20
)

// MaxFrames is how many frames an object holds at most.
const MaxFrames = 65_536

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

// Level is how hard to compress.
type Level int

// Levels of compression.
const (
	LevelDefault Level = iota
	LevelFastest
	LevelBetter
)

// Compressor turns content into the plaintext of frames. It is owned by one
// goroutine at a time.
type Compressor struct {
	enc  *zstd.Encoder
	fast *zstd.Encoder // for content that gains little from more effort; may be nil
}

// NewCompressor makes a Compressor; it needs no closing.
func NewCompressor(l Level) *Compressor {
	switch l {
	case LevelFastest:
		return &Compressor{enc: newEncoder(zstd.SpeedFastest, window)}
	case LevelBetter:
		return &Compressor{enc: newEncoder(zstd.SpeedBetterCompression, window)}
	}
	return &Compressor{enc: newEncoder(zstd.SpeedDefault, window), fast: newEncoder(zstd.SpeedFastest, window)}
}

// window is how far back repetitions are looked for, in bytes: each encoder
// takes as much memory. What is longer than that is moved again and again.
const window = LargeFrame

func newEncoder(l zstd.EncoderLevel, window int) *zstd.Encoder {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(l > zstd.SpeedFastest), zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants, and valid
	}
	return enc
}

// Frame appends the plaintext of a frame that holds content to dst: compressed
// when that saves anything worth having, stored otherwise.
func (c *Compressor) Frame(dst, content []byte) []byte {
	start := len(dst)
	dst = append(dst, methodZstd)
	dst = binary.AppendUvarint(dst, uint64(len(content)))
	body := len(dst)
	entropy := sampleEntropy(content)
	if entropy < randomEntropy {
		enc := c.enc
		if entropy >= denseEntropy && c.fast != nil {
			enc = c.fast
		}
		dst = enc.EncodeAll(content, dst)
		if len(dst)-body < len(content)-len(content)/64 {
			return dst
		}
	}
	dst[start] = methodStored
	return append(dst[:body], content...)
}

const (
	// randomEntropy is that of content which is encrypted or compressed
	// already. A repetition that a histogram cannot see is rare enough there
	// to be given up for the speed.
	randomEntropy = 7.98
	// denseEntropy is from where on the default level takes much longer than
	// the fastest and saves little: programs, databases, media. Text, source
	// and tables lie below.
	denseEntropy = 6.3
)

// sampleEntropy is the Shannon entropy of the bytes of a few samples of long
// content, in bits a byte; 0 of short content.
func sampleEntropy(content []byte) float64 {
	const probe, samples = 1024, 16
	if len(content) < 2*probe*samples {
		return 0
	}
	var hist [256]uint32
	step := (len(content) - probe) / (samples - 1)
	for i := range samples {
		for _, b := range content[i*step : i*step+probe] {
			hist[b]++
		}
	}
	const n = probe * samples
	sum := 0.0
	for _, h := range hist {
		if h > 0 {
			sum += float64(h) * math.Log2(float64(h))
		}
	}
	return math.Log2(n) - sum/n
}

// StoredFrame appends the plaintext of a frame that holds content as it is.
func StoredFrame(dst, content []byte) []byte {
	dst = append(dst, methodStored)
	dst = binary.AppendUvarint(dst, uint64(len(content)))
	return append(dst, content...)
}

// Decompressor opens frames. It may be shared by goroutines.
type Decompressor struct {
	// A sync.Pool would be emptied at each garbage collection, of which large
	// buffers cause many.
	free chan *zstd.Decoder
}

// NewDecompressor makes a Decompressor.
func NewDecompressor() *Decompressor { return &Decompressor{make(chan *zstd.Decoder, 16)} }

func (d *Decompressor) decoder() *zstd.Decoder {
	select {
	case dec := <-d.free:
		return dec
	default:
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxSegmentContent),
		zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true), zstd.IgnoreChecksum(true))
	if err != nil {
		panic(err) // the options are constants, and valid
	}
	return dec
}

// Content appends the content of a frame's plaintext to dst. Where dst is empty, what
// was not compressed is returned as it lies in plaintext, without a copy.
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
		if len(dst) == 0 {
			return body, nil
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
		select {
		case d.free <- dec:
		default:
		}
		if err != nil {
			return nil, fmt.Errorf("frame: %w: %w", wire.ErrMalformed, err)
		}
		if len(out)-start != n {
			return nil, fmt.Errorf("frame of %d bytes unpacks to %d: %w", n, len(out)-start, wire.ErrMalformed)
		}
		return out, nil
	}
	return nil, fmt.Errorf("frame with method %d: %w", method, wire.ErrVersion)
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
