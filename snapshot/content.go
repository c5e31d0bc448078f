package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/storage/authentic"
	"knowngood/storage/chunk"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/trust"
)

const (
	// chunksAhead is how many chunks are fetched ahead of the one being written.
	chunksAhead = 4
	// framesKept is how many opened frames, of 2 to 4 MiB, a tree keeps: those
	// of neighbouring small files, which the cores of the capture took turns in
	// filling.
	framesKept = 8
)

// Content writes the content of a file, holes as zeros, each chunk verified
// before it is written.
func (t *Tree) Content(ctx context.Context, e *manifest.Entry, w io.Writer) error {
	if e.Type != manifest.File {
		return fmt.Errorf("%q is no file but a %v", "/"+e.Path, e.Type)
	}
	return WriteContent(ctx, e, w, func(ctx context.Context, i int, _ uint64) ([]byte, error) { return t.chunk(ctx, &e.Chunks[i]) })
}

// WriteContent writes the content of a file, holes as zeros. Its chunks come
// from read, which is called for several at once, with the position of a chunk
// and where it begins in the content without holes.
func WriteContent(ctx context.Context, e *manifest.Entry, w io.Writer, read func(ctx context.Context, i int, at uint64) ([]byte, error)) error {
	type fetched struct {
		b   []byte
		err error
	}
	queue := make(chan chan fetched, chunksAhead)
	ctx, cancel := context.WithCancel(ctx)
	defer func() { // nothing is read any more on return
		cancel()
		for c := range queue {
			<-c
		}
	}()
	go func() {
		defer close(queue)
		at := uint64(0)
		for i := range e.Chunks {
			c := make(chan fetched, 1)
			select {
			case queue <- c:
			case <-ctx.Done():
				return
			}
			begin := at
			at += uint64(e.Chunks[i].Len)
			go func() {
				b, err := read(ctx, i, begin)
				c <- fetched{b, err}
			}()
		}
	}()
	at, holes := uint64(0), e.Holes
	skip := func() error {
		for len(holes) > 0 && holes[0].Offset == at {
			if _, err := io.CopyN(w, zeroReader{}, int64(holes[0].Length)); err != nil {
				return err
			}
			at += holes[0].Length
			holes = holes[1:]
		}
		return nil
	}
	for c := range queue {
		f := <-c
		if f.err != nil {
			return fmt.Errorf("%q: %w", "/"+e.Path, f.err)
		}
		for len(f.b) > 0 {
			if err := skip(); err != nil {
				return err
			}
			n := uint64(len(f.b))
			if len(holes) > 0 {
				n = min(n, holes[0].Offset-at)
			}
			if _, err := w.Write(f.b[:n]); err != nil {
				return err
			}
			f.b, at = f.b[n:], at+n
		}
	}
	if err := skip(); err != nil {
		return err
	}
	return ctx.Err()
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// chunk reads and verifies one chunk, from elsewhere when its hint fails.
func (t *Tree) chunk(ctx context.Context, c *manifest.Chunk) ([]byte, error) {
	r := t.Reader
	content, err := t.dataFrame(ctx, c.Loc.Pack, c.Loc.FrameOffset, c.Loc.FrameLen)
	if err == nil {
		if b := t.cut(content, c, c.Loc.Offset); b != nil {
			return b, nil
		}
		key := layout.KeyPack(r.Host(), r.Domain().ID, c.Loc.Pack.Hash)
		err = &authentic.DamageError{Key: key, What: "pack", Err: fmt.Errorf("what lies at the place of chunk %x is something else: %w", c.ID[:8], wire.ErrMalformed)}
	} else if !authentic.Damaged(err) {
		return nil, err
	}

	failed := objects.Place{Pack: *c.Loc.Pack, FrameOffset: c.Loc.FrameOffset, FrameLen: c.Loc.FrameLen, Offset: c.Loc.Offset}
	for at, perr := range r.Places(ctx, c.ID, failed) {
		if perr == nil {
			content, perr = t.dataFrame(ctx, &at.Pack, at.FrameOffset, at.FrameLen)
		}
		if perr != nil && !authentic.Damaged(perr) && !errors.Is(perr, trust.ErrNoUsableIdentity) {
			return nil, perr
		}
		if perr != nil {
			continue
		}
		if b := t.cut(content, c, at.Offset); b != nil {
			return b, nil
		}
	}
	return nil, err
}

// cut is the chunk at an offset of a frame's content; nil when another lies
// there.
func (t *Tree) cut(content []byte, c *manifest.Chunk, offset uint32) []byte {
	end := uint64(offset) + uint64(c.Len)
	if end > uint64(len(content)) {
		return nil
	}
	b := content[offset:end]
	if chunk.NewHasher(t.Reader.Domain().ChunkKey()).ID(b) != c.ID {
		return nil
	}
	return b
}

// openedFrames are the frames that were opened last.
type openedFrames struct {
	mu     sync.Mutex
	frames []*openedFrame // the one used last is the last
}

type openedFrame struct {
	pack    [32]byte
	offset  uint32
	once    sync.Once
	content []byte
	err     error
}

// get finds a frame, or takes it up in the place of the one that was not used
// for longest.
func (o *openedFrames) get(pack [32]byte, offset uint32) *openedFrame {
	o.mu.Lock()
	defer o.mu.Unlock()

	i := slices.IndexFunc(o.frames, func(f *openedFrame) bool { return f.pack == pack && f.offset == offset })
	f := &openedFrame{pack: pack, offset: offset}
	switch {
	case i >= 0:
		f = o.frames[i]
		o.frames = slices.Delete(o.frames, i, i+1)
	case len(o.frames) == framesKept:
		o.frames = slices.Delete(o.frames, 0, 1)
	}
	o.frames = append(o.frames, f)
	return f
}

func (o *openedFrames) drop(f *openedFrame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frames = slices.DeleteFunc(o.frames, func(x *openedFrame) bool { return x == f })
}

// dataFrame is the content of a frame of a pack, which is not to be changed.
func (t *Tree) dataFrame(ctx context.Context, in *pack.Ref, offset, length uint32) ([]byte, error) {
	f := t.opened.get(in.Hash, offset)
	f.once.Do(func() { f.content, f.err = t.Reader.Frame(ctx, in, offset, length) })
	if f.err != nil {
		t.opened.drop(f)
	}
	return f.content, f.err
}
