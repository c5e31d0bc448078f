package restore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/chunk"
	"knowngood/storage/repository"
)

// catAhead is how many chunks are fetched ahead of the one being written.
const catAhead = 4

// Cat writes the content of a file, holes as zeros, each chunk verified before
// it is written.
func Cat(ctx context.Context, t *snapshot.Tree, e *manifest.Entry, w io.Writer) error {
	if e.Type != manifest.File {
		return fmt.Errorf("%q is no file but a %v", "/"+e.Path, e.Type)
	}
	if e.Flags&manifest.ContentUnread != 0 {
		return fmt.Errorf("%q: nothing is written: %w", "/"+e.Path, incompleteError(t, e))
	}
	return writeContent(ctx, e, w, func(ctx context.Context, i int, _ uint64) ([]byte, error) { return readChunk(ctx, t, &e.Chunks[i]) })
}

// writeContent writes the content of a file, holes as zeros. Its chunks come
// from read, which is called for several at once, with the position of a chunk
// and where it begins in the content without holes.
func writeContent(ctx context.Context, e *manifest.Entry, w io.Writer, read func(ctx context.Context, i int, at uint64) ([]byte, error)) error {
	type fetched struct {
		b   []byte
		err error
	}
	queue := make(chan chan fetched, catAhead)
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

// ErrNotAsCaptured says that a file on the disk is not the one of the snapshot.
var ErrNotAsCaptured = errors.New("it is not as the snapshot has it")

// CatRestored writes the content of a restored file, each chunk verified before
// it is written: whatever lies at path by now, w gets what the snapshot has, or
// an error comes. A file that the capture could not read whole is an error.
func CatRestored(ctx context.Context, t *snapshot.Tree, e *manifest.Entry, path string, w io.Writer) error {
	if e.Type != manifest.File {
		return fmt.Errorf("%q is no file but a %v", "/"+e.Path, e.Type)
	}
	if e.Flags&manifest.ContentUnread != 0 {
		return incompleteError(t, e)
	}
	fd, st, err := posix.OpenFile(unix.AT_FDCWD, path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st.Size != e.Size {
		return ErrNotAsCaptured
	}

	key := t.Reader.Domain().ChunkKey()
	return writeContent(ctx, e, w, func(_ context.Context, i int, at uint64) ([]byte, error) {
		b := make([]byte, e.Chunks[i].Len)
		err := readContent(fd, e, at, b)
		if err == io.ErrUnexpectedEOF || err == nil && chunk.NewHasher(key).ID(b) != e.Chunks[i].ID {
			err = ErrNotAsCaptured
		}
		return b, err
	})
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// readChunk reads and verifies one chunk, from elsewhere when its hint fails.
func readChunk(ctx context.Context, t *snapshot.Tree, c *manifest.Chunk) ([]byte, error) {
	h := chunk.NewHasher(t.Reader.Domain().ChunkKey())
	cut := func(content []byte, offset uint32) []byte {
		end := uint64(offset) + uint64(c.Len)
		if end > uint64(len(content)) || h.ID(content[offset:end]) != c.ID {
			return nil
		}
		return content[offset:end]
	}
	content, err := t.Reader.Frame(ctx, wire.KindPack, c.Loc.Pack, c.Loc.FrameOffset, c.Loc.FrameLen)
	if err == nil {
		if b := cut(content, c.Loc.Offset); b != nil {
			return b, nil
		}
		err = wrongContent(t.Reader, c.Loc.Pack.Hash)
	} else if !repository.Damaged(err) {
		return nil, err
	}
	loc, ok, lerr := t.Reader.Locate(ctx, c.ID, c.Loc.Pack.Hash)
	if lerr != nil || !ok {
		return nil, err
	}
	content, ferr := t.Reader.Frame(ctx, wire.KindPack, &loc.Pack.Ref, loc.FrameOffset, loc.FrameLen)
	if ferr == nil {
		if b := cut(content, loc.Offset); b != nil {
			return b, nil
		}
	}
	return nil, err
}
