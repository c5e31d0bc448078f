package target

import (
	"iter"
	"slices"

	"github.com/klauspost/compress/zstd"

	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
)

// Blocks keeps blocks of bytes compressed in memory: what has to be remembered of
// each directory of a tree until the end, for example.
type Blocks struct {
	enc    *zstd.Encoder
	blocks [][]byte
}

// Add adds a block, which the caller may use again.
func (b *Blocks) Add(block []byte) {
	if b.enc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err) // the options are constants, and valid
		}
		b.enc = enc
	}
	b.blocks = append(b.blocks, b.enc.EncodeAll(block, nil))
}

// Backward returns the blocks, the last one first.
func (b *Blocks) Backward() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if len(b.blocks) == 0 {
			return
		}
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			panic(err) // the options are constants, and valid
		}
		defer dec.Close()
		for _, x := range slices.Backward(b.blocks) {
			block, err := dec.DecodeAll(x, nil)
			if err != nil {
				panic(err) // made above, in memory
			}
			if !yield(block) {
				return
			}
		}
	}
}

// flagLog remembers entries and their inode flags: all of a tree may be immutable.
type flagLog struct {
	block []byte // the last one
	full  Blocks
}

const flagBlock = 64 << 10 // bytes

func (l *flagLog) add(e *manifest.Entry) {
	l.block = append(l.block, byte(e.Type))
	l.block = wire.AppendUvarint(l.block, uint64(e.InodeFlags))
	l.block = wire.AppendBytes(l.block, e.Path)
	if len(l.block) >= flagBlock {
		l.full.Add(l.block)
		l.block = l.block[:0]
	}
}

func (l *flagLog) each(do func(entry string, kind manifest.Type, flags uint32)) {
	read := func(b []byte) {
		for d := wire.NewDecoder(b); d.Rest() > 0; {
			kind := manifest.Type(d.U8())
			flags := uint32(d.Uvarint())
			do(string(d.Bytes()), kind, flags)
		}
	}
	read(l.block)
	for b := range l.full.Backward() {
		read(b)
	}
}
