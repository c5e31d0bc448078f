// Package pack is the codec of packs and manifest containers (docs/FORMAT.md
// sections 6 and 7): content compressed and sealed in frames, a table of
// contents that the host can read, and a trailer that opens from itself.
//
// It is pure: no I/O, no logging, no clock. It never panics on what it reads
// and allocates in proportion to it.
package pack

import (
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

// FirstOffset is where the first frame of an object starts.
const FirstOffset = wire.PreludeLen

const (
	footer     = "KNGE"
	footerLen  = 4 + 4 + 4
	trailerMin = 16 + 8 + 8 + 16 + 32
	endLen     = 2 + 4 + sha256.Size + seal.Overhead // method and length take a byte each
	frameMin   = 2 + seal.Overhead
)

// TailLen is how many bytes of an object's end hold the contents of most
// packs: what a reader asks for first.
const TailLen = 64 << 10

// Chunk is a piece of a frame's content.
type Chunk struct {
	ID  [32]byte
	Len uint32
}

// Frame is a line of the contents.
type Frame struct {
	Offset     uint32 // of the sealed frame, in the object
	SealedLen  uint32
	ContentLen uint32
	Chunks     []Chunk
}

// Contents is the table of an object: its frames and, where it holds a manifest
// table, the objects that the snapshot needs.
type Contents struct {
	Files    []Frame // with chunks of files
	Manifest []Frame // behind them: one segment each, or last the manifest table
	List     ObjectList
}

// frames are all frames, in order.
func (c *Contents) frames() []Frame { return slices.Concat(c.Files, c.Manifest) }

// Append appends the plaintext of the contents.
func (c *Contents) Append(b []byte) []byte {
	b = appendFrames(b, c.Files)
	b = appendFrames(b, c.Manifest)
	return c.List.Append(b)
}

func appendFrames(b []byte, frames []Frame) []byte {
	b = wire.AppendUvarint(b, uint64(len(frames)))
	for _, f := range frames {
		b = wire.AppendUvarint(b, uint64(f.SealedLen))
		b = wire.AppendUvarint(b, uint64(f.ContentLen))
		b = wire.AppendUvarint(b, uint64(len(f.Chunks)))
		for _, ch := range f.Chunks {
			b = append(b, ch.ID[:]...)
			b = wire.AppendUvarint(b, uint64(ch.Len))
		}
	}
	return b
}

// ParseContents reads the plaintext of the contents of an object of kind.
func ParseContents(kind wire.Kind, b []byte) (*Contents, error) {
	d := wire.NewDecoder(b)
	c := &Contents{}
	offset := uint64(FirstOffset)
	c.Files = parseFrames(d, &offset, MaxFrameContent)
	c.Manifest = parseFrames(d, &offset, maxContent(kind))
	if n := len(c.Files) + len(c.Manifest); n > MaxFrames {
		d.Fail("%d frames, at most %d fit", n, MaxFrames)
	}
	if kind == wire.KindManifest && len(c.Files) > 0 {
		d.Fail("chunks of files")
	}
	for i, f := range c.Manifest {
		if n := len(f.Chunks); n > 1 || n == 0 && i < len(c.Manifest)-1 {
			d.Fail("a frame of %d segments", n)
		}
	}
	c.List = ParseObjectList(d)
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("contents: %w", err)
	}
	return c, nil
}

// parseFrames reads frames that begin at offset, each of at most so much content.
func parseFrames(d *wire.Decoder, at *uint64, most uint64) []Frame {
	n := d.Count(3)
	if n > MaxFrames {
		d.Fail("%d frames, at most %d fit", n, MaxFrames)
		return nil
	}
	offset := *at
	frames := make([]Frame, 0, min(n, 1024))
	for range n {
		f := Frame{Offset: uint32(offset), SealedLen: uint32(d.UvarintMax(MaxObject)), ContentLen: uint32(d.UvarintMax(most))}
		if offset += uint64(f.SealedLen); offset > MaxObject {
			d.Fail("frames are longer than an object may be")
		}
		if f.SealedLen < frameMin {
			d.Fail("frame of %d bytes", f.SealedLen)
		}
		n := d.Count(33)
		f.Chunks = make([]Chunk, n)
		var sum uint64
		for i := range f.Chunks {
			d.Copy(f.Chunks[i].ID[:])
			f.Chunks[i].Len = uint32(d.UvarintMax(most))
			if f.Chunks[i].Len == 0 && d.Err() == nil {
				d.Fail("empty chunk")
			}
			sum += uint64(f.Chunks[i].Len)
		}
		if n > 0 && sum != uint64(f.ContentLen) {
			d.Fail("chunks of %d bytes in a frame of %d", sum, f.ContentLen)
		}
		if d.Err() != nil {
			break
		}
		frames = append(frames, f)
	}
	*at = offset
	return frames
}

// Trailer is what opens an object, in clear at its end.
type Trailer struct {
	Repository seal.RepositoryID
	Domain     seal.DomainID
	Session    seal.SealedSession
	Salt       seal.Salt
}

func (t *Trailer) append(b []byte) []byte {
	b = append(b, t.Repository[:]...)
	b = append(b, t.Domain[:]...)
	b = append(b, t.Session.Epoch[:]...)
	b = append(b, t.Session.ID[:]...)
	b = append(b, t.Salt[:]...)
	return append(b, t.Session.Sealed...)
}

// Ref names the object of a hash.
func (t *Tail) Ref(hash [32]byte) Ref {
	return Ref{Kind: t.kind, Hash: hash, Size: uint64(t.Size), Session: t.Session.ID, Salt: t.Salt}
}

// Tail is the end of an object, split.
type Tail struct {
	Trailer
	kind       wire.Kind
	Size       int64  // stored bytes of the object
	sealed     []byte // contents
	additional []byte
	end        int64 // offset of the sealed contents in the object
}

// ErrShortTail means that the tail given was too short; Need is how many
// bytes it takes.
type ErrShortTail struct{ Need int64 }

func (e *ErrShortTail) Error() string {
	return fmt.Sprintf("the end of the object takes %d bytes", e.Need)
}

// ParseTail splits tail, the last bytes of an object that is size bytes long.
// The error is *ErrShortTail when tail has fewer bytes than it takes.
func ParseTail(kind wire.Kind, tail []byte, size int64) (*Tail, error) {
	bad := func(what string) (*Tail, error) { return nil, fmt.Errorf("%v: %w: %s", kind, wire.ErrMalformed, what) }
	if size > MaxObject || len(tail) < footerLen || int64(len(tail)) > size {
		return bad("its size cannot be")
	}
	foot := tail[len(tail)-footerLen:]
	if string(foot[8:]) != footer {
		return bad("its end is missing")
	}
	contents, trailer := int64(binary.LittleEndian.Uint32(foot)), int64(binary.LittleEndian.Uint32(foot[4:]))
	need := contents + trailer + footerLen
	if contents > MaxContents || contents < seal.Overhead+2 || trailer < trailerMin || trailer > trailerMin+seal.MaxSealed || need+FirstOffset+endLen > size {
		return bad("its table's length cannot be")
	}
	if int64(len(tail)) < need {
		return nil, &ErrShortTail{need}
	}
	tail = tail[int64(len(tail))-need:]
	d := wire.NewDecoder(tail[contents : contents+trailer])
	t := &Tail{kind: kind, Size: size, sealed: tail[:contents], end: size - need}
	d.Copy(t.Repository[:])
	d.Copy(t.Domain[:])
	d.Copy(t.Session.Epoch[:])
	d.Copy(t.Session.ID[:])
	d.Copy(t.Salt[:])
	t.Session.Sealed = slices.Clone(d.Take(d.Rest()))
	t.additional = append(wire.AppendPrelude(nil, kind), tail[contents:contents+trailer]...)
	return t, nil
}

// Contents opens the table with the host's own keys.
func (t *Tail) Contents(kind wire.Kind, domain *seal.Domain) (*Contents, error) {
	b, err := seal.OpenOnce(domain.ContentsKey(kind, t.Salt), t.sealed, t.additional)
	if err != nil {
		return nil, fmt.Errorf("contents: %w", err)
	}
	c, err := ParseContents(kind, b)
	if err != nil {
		return nil, err
	}
	end := int64(FirstOffset)
	frames := c.frames()
	if n := len(frames); n > 0 {
		end = int64(frames[n-1].Offset) + int64(frames[n-1].SealedLen)
	}
	if end+endLen != t.end {
		return nil, fmt.Errorf("contents: %w: the frames end at %d, the table starts at %d", wire.ErrMalformed, end, t.end)
	}
	return c, nil
}

// VerifyEnd checks with the frame key that the contents are those that the
// writer of the frames sealed. object is the whole object.
func (t *Tail) VerifyEnd(key cipher.AEAD, kind wire.Kind, object []byte, c *Contents) error {
	at := int(t.end) - endLen
	nonce, ad := frameNonce(at), frameAdditional(kind, true)
	b, err := key.Open(nil, nonce[:], object[at:t.end], ad[:])
	if err != nil {
		return fmt.Errorf("end frame: %w", seal.ErrWrongKey)
	}
	if want := endFrame(c.Append(nil), len(c.Files)+len(c.Manifest)); !slices.Equal(b, want) {
		return fmt.Errorf("contents differ from what their writer sealed: %w", wire.ErrMalformed)
	}
	return nil
}

func endFrame(contents []byte, frames int) []byte {
	sum := sha256.Sum256(contents)
	return StoredFrame(nil, append(binary.LittleEndian.AppendUint32(nil, uint32(frames)), sum[:]...))
}

// CheckPrelude checks the first bytes of an object.
func CheckPrelude(kind wire.Kind, object []byte) error {
	d := wire.NewDecoder(object)
	d.Prelude(kind)
	return d.Err()
}

// Builder makes one object in memory. It is owned by one goroutine.
type Builder struct {
	kind     wire.Kind
	repo     seal.RepositoryID
	domain   *seal.Domain
	session  *seal.Session
	salt     seal.Salt
	key      cipher.AEAD
	buf      []byte
	hash     hash.Hash
	hashed   int
	contents Contents
	chunks   int
}

// NewBuilder starts an object in buf's memory, which it keeps until Finish.
func NewBuilder(kind wire.Kind, repo seal.RepositoryID, domain *seal.Domain, session *seal.Session, buf []byte) *Builder {
	salt := seal.NewSalt()
	return &Builder{
		kind: kind, repo: repo, domain: domain, session: session, salt: salt,
		key:  session.FrameKey(kind, repo, domain.ID, salt),
		buf:  wire.AppendPrelude(buf[:0], kind),
		hash: sha256.New(),
	}
}

// Ref is what will open the object's frames; its hash and size are not known yet.
func (b *Builder) Ref() Ref { return Ref{Kind: b.kind, Session: b.session.ID, Salt: b.salt} }

// Size is the number of bytes so far.
func (b *Builder) Size() int { return len(b.buf) }

// Chunks is the number of chunks so far.
func (b *Builder) Chunks() int { return b.chunks }

// Add seals plaintext, the plaintext of a frame whose content is contentLen
// bytes long and consists of chunks of files, which the Builder keeps.
func (b *Builder) Add(plaintext []byte, contentLen int, chunks []Chunk) Frame {
	f := b.add(plaintext, contentLen, chunks)
	b.contents.Files = append(b.contents.Files, f)
	return f
}

// AddManifest is Add of a segment, as the only chunk, or of the manifest table,
// without one. No frame of files may follow.
func (b *Builder) AddManifest(plaintext []byte, contentLen int, chunks []Chunk) Frame {
	f := b.add(plaintext, contentLen, chunks)
	b.contents.Manifest = append(b.contents.Manifest, f)
	return f
}

func (b *Builder) add(plaintext []byte, contentLen int, chunks []Chunk) Frame {
	f := Frame{Offset: uint32(len(b.buf)), ContentLen: uint32(contentLen), Chunks: chunks}
	b.sealFrame(plaintext, false)
	f.SealedLen = uint32(len(b.buf)) - f.Offset
	b.chunks += len(chunks)
	b.hash.Write(b.buf[b.hashed:])
	b.hashed = len(b.buf)
	return f
}

func (b *Builder) sealFrame(plaintext []byte, last bool) {
	nonce, ad := frameNonce(len(b.buf)), frameAdditional(b.kind, last)
	b.buf = b.key.Seal(b.buf, nonce[:], plaintext, ad[:])
}

// Finish ends the object and returns its bytes, its SHA-256 and its contents.
// The Builder must not be used after it; the bytes are the caller's.
func (b *Builder) Finish(list ObjectList) (object []byte, sum [32]byte, contents *Contents) {
	b.contents.List = list
	table := b.contents.Append(nil)
	b.sealFrame(endFrame(table, len(b.contents.Files)+len(b.contents.Manifest)), true)
	t := Trailer{Repository: b.repo, Domain: b.domain.ID, Session: b.session.SealedSession, Salt: b.salt}
	additional := t.append(wire.AppendPrelude(nil, b.kind))
	sealed := seal.Once(b.domain.ContentsKey(b.kind, b.salt), table, additional)
	b.buf = append(b.buf, sealed...)
	b.buf = append(b.buf, additional[wire.PreludeLen:]...)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(sealed)))
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(additional)-wire.PreludeLen))
	b.buf = append(b.buf, footer...)
	b.hash.Write(b.buf[b.hashed:])
	return b.buf, [32]byte(b.hash.Sum(nil)), &b.contents
}
