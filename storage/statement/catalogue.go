package statement

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"

	"knowngood/internal/wire"
)

// Limits of a catalogue, in bytes.
const (
	MaxCatalogue        = 1 << 20 // as it is stored
	maxCatalogueContent = 8 << 20
	minCatalogued       = 64 // of its objects, on average: no root is shorter
)

// EncodeCatalogue makes an object that repeats others byte for byte, so that one
// request reads many of them. Nothing in it is signed: it proves nothing, and who
// reads it must know from elsewhere that these are the bytes of an object.
func EncodeCatalogue(objects [][]byte) ([]byte, error) {
	content := wire.AppendUvarint(nil, uint64(len(objects)))
	var before [32]byte // the hash of the object before, which chained objects name
	for i, object := range objects {
		at := 0
		if i > 0 {
			at = max(0, bytes.Index(object, before[:]))
		}
		rest := object
		if at > 0 {
			rest = slices.Concat(object[:at], object[at+len(before):])
		}
		before = sha256.Sum256(object)
		content = wire.AppendBytes(wire.AppendUvarint(content, uint64(at)), rest)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	defer enc.Close()
	object := enc.EncodeAll(content, wire.AppendPrelude(nil, wire.KindCatalogue))
	if _, err := ParseCatalogue(object); err != nil {
		return nil, fmt.Errorf("refused to write: %w", err)
	}
	return object, nil
}

// ParseCatalogue reads what EncodeCatalogue made.
func ParseCatalogue(object []byte) ([][]byte, error) {
	p := wire.NewDecoder(object)
	if p.Prelude(wire.KindCatalogue); len(object) > MaxCatalogue {
		p.Fail("%d bytes, the limit is %d", len(object), MaxCatalogue)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}

	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxCatalogueContent))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	content, err := dec.DecodeAll(object[wire.PreludeLen:], nil)
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w: %w", wire.ErrMalformed, err)
	}
	d := wire.NewDecoder(content)
	objects := make([][]byte, d.Count(minCatalogued))
	var before [32]byte
	for i := range objects {
		at, object := d.Uvarint(), d.Bytes()
		switch {
		case at > uint64(len(object)) || i == 0 && at > 0:
			d.Fail("%d bytes before a hash, of %d", at, len(object))
		case at > 0:
			object = slices.Concat(object[:at], before[:], object[at:])
		}
		objects[i], before = object, sha256.Sum256(object)
	}
	if len(objects) == 0 {
		d.Fail("no objects")
	}
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	return objects, nil
}
