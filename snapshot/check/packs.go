package check

import (
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"knowngood/internal/wire"
	"knowngood/storage/chunk"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// packCheck reads the packs and containers of a domain.
type packCheck struct {
	*domainOf
	*evidence
	noted map[deletion.ObjectID]bool // to be damaged
}

// reads reports whether every byte of an object is read. That is so of those noted to
// be damaged, which are damaged until they were read again and verify.
func (d *packCheck) reads(id deletion.ObjectID, drawn bool) bool {
	return drawn || d.noted[id] || d.Read != nil && d.Read(id)
}

// run reads the contents of every pack, and of those drawn every byte.
func (d *packCheck) run(ctx context.Context, l *listing) error {
	d.Progress.Packs.Add(uint64(len(l.packs)))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(inFlight, 2*runtime.GOMAXPROCS(0)))
	whole := make(chan *scratch, runtime.GOMAXPROCS(0)+1) // bounds the packs in memory
	for range cap(whole) {
		whole <- &scratch{hasher: chunk.NewHasher(d.domain.ChunkKey()), dec: pack.NewDecompressor()}
	}
	for hash, size := range l.packs {
		g.Go(func() error {
			defer d.Progress.PacksDone.Add(1)
			key := layout.KeyPack(d.host, d.domain.ID, hash)
			var err error
			id := deletion.ObjectID{Kind: wire.KindPack, Hash: hash}
			read := d.reads(id, drawn(hash, d.ReadData))
			switch {
			case read && d.Sealed:
				s := <-whole
				_, err = d.readWhole(gctx, s, wire.KindPack, hash, size)
				whole <- s
				if err = d.doubtful(id, err); err == nil {
					err = d.packContents(gctx, key, hash, size)
				}
			case read:
				s := <-whole
				err = d.wholePack(gctx, s, key, hash, size)
				whole <- s
			default:
				err = d.packContents(gctx, key, hash, size)
			}
			return d.doubtful(id, err)
		})
	}
	for hash, size := range l.containers {
		id := deletion.ObjectID{Kind: wire.KindManifest, Hash: hash}
		if !d.reads(id, d.ReadData > 0) {
			continue
		}
		g.Go(func() error {
			s := <-whole
			_, err := d.readWhole(gctx, s, wire.KindManifest, hash, size)
			whole <- s
			return d.doubtful(id, err)
		})
	}
	return g.Wait()
}

// drawn reports whether a pack is among the share to be read. The draw depends
// on the day, so that repeated checks see other packs.
func drawn(hash [32]byte, share float64) bool {
	if share >= 1 {
		return true
	}
	day := binary.LittleEndian.AppendUint64(hash[:], uint64(time.Now().Unix()/86400))
	sum := sha256.Sum256(day)
	return float64(binary.LittleEndian.Uint64(sum[:])>>11)/(1<<53) < share
}

func (d *packCheck) packContents(ctx context.Context, key string, hash [32]byte, size int64) error {
	tail, contents, err := d.reader.Contents(ctx, wire.KindPack, hash, size)
	if err != nil {
		return err
	}
	if d.suspected(deletion.ObjectID{Kind: wire.KindPack, Hash: hash}) {
		d.doubt(hash, tail, contents)
		return nil
	}
	return d.known(hash, tail.Size, tail, contents)
}

// scratch is the memory that reading a pack whole takes.
type scratch struct {
	object  []byte
	content []byte // room for that of a frame
	hasher  *chunk.Hasher
	dec     *pack.Decompressor
}

// readWhole reads an object of about size bytes; it is valid until s is used
// again.
func (d *packCheck) readWhole(ctx context.Context, s *scratch, kind wire.Kind, hash [32]byte, size int64) ([]byte, error) {
	if need := min(size, pack.MaxObject) + 512; int64(cap(s.object)) < need { // with room to see the end
		room := int64(1 << 20) // enough where there is little
		if need > room {
			room = max(need, 17<<20)
		}
		s.object = make([]byte, 0, room)
	}
	b, err := d.reader.Whole(ctx, s.object, kind, hash, size)
	d.Progress.Bytes.Add(uint64(len(b)))
	d.checker.mu.Lock()
	d.report.BytesRead += uint64(len(b))
	d.checker.mu.Unlock()
	return b, err
}

// wholePack verifies every byte of a pack: its name, every frame, every
// chunk, and that its contents are what its writer sealed.
func (d *packCheck) wholePack(ctx context.Context, s *scratch, key string, hash [32]byte, size int64) error {
	object, damage := d.readWhole(ctx, s, wire.KindPack, hash, size)
	if object == nil {
		return damage
	}
	tail, err := pack.ParseTail(wire.KindPack, object, int64(len(object)))
	if err != nil {
		return errors.Join(damage, err)
	}
	contents, err := tail.Contents(wire.KindPack, d.domain)
	if err != nil {
		return errors.Join(damage, err)
	}
	session, err := d.repo.OpenSession(ctx, tail.Session)
	if d.lostKey(err) {
		d.doubt(hash, tail, contents)
	}
	if err != nil {
		return errors.Join(damage, err)
	}
	k := session.FrameKey(wire.KindPack, d.repo.ID(), d.domain.ID, tail.Salt)
	if err := tail.VerifyEnd(k, wire.KindPack, object, contents); err != nil {
		damage = errors.Join(damage, err)
	}
	if err := pack.CheckPrelude(wire.KindPack, object); err != nil {
		damage = errors.Join(damage, err)
	}
	if err := d.frames(ctx, s, key, k, object, contents); err != nil {
		damage = errors.Join(damage, err)
	}

	// Only what was read is a copy that others may rely on.
	if damage != nil {
		d.doubt(hash, tail, contents)
		return damage
	}
	return d.known(hash, int64(len(object)), tail, contents)
}

// frames opens every frame of a pack and verifies every chunk in it.
func (d *packCheck) frames(ctx context.Context, s *scratch, key string, k cipher.AEAD, object []byte, contents *pack.Contents) error {
	if s.content == nil {
		s.content = make([]byte, 0, pack.LargeFrame)
	}
	var first error
	for _, f := range contents.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		var content []byte
		plain, err := pack.OpenFrame(k, wire.KindPack, int(f.Offset), object[f.Offset:f.Offset+f.SealedLen])
		if err == nil {
			content, err = s.dec.Content(s.content, wire.KindPack, plain)
		}
		if err == nil && len(content) != int(f.ContentLen) {
			err = fmt.Errorf("frame at %d holds %d bytes, its table says %d: %w", f.Offset, len(content), f.ContentLen, wire.ErrMalformed)
		}
		at := 0
		for _, ch := range f.Chunks {
			end := at + int(ch.Len)
			if err != nil || s.hasher.ID(content[at:end]) != ch.ID {
				d.badChunk(ch.ID, key)
				if first == nil {
					first = errors.Join(err, fmt.Errorf("chunk %x does not verify: %w", ch.ID[:8], wire.ErrMalformed))
				}
			}
			at = end
		}
	}
	return first
}

// doubtful notes damage to an object that was read, and returns other errors.
func (d *packCheck) doubtful(id deletion.ObjectID, err error) error {
	return d.passOn(err, func(err error) { d.suspect(id, err) })
}
