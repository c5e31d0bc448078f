package snapshot

import (
	"context"
	"io"
	"runtime"
	"sync"

	"knowngood/snapshot/manifest"
	"knowngood/snapshot/signs"
	"knowngood/storage/chunk"
	"knowngood/storage/objects"
)

// contentReader reads the content of files, one at a time, and stores the chunks
// that are new.
type contentReader struct {
	writer            *objects.Writer
	chunker           *chunk.Chunker
	key               [32]byte // of chunk IDs
	shortest, longest uint32   // chunks, in bytes
	progress          *Progress
	healing           *healing

	framer  *objects.Framer // nil until content is read, as are the others
	hashers chan *chunk.Hasher
	buf     []byte
	sampler signs.Sampler // of the file
	pieces  []piece       // all that fit into buf: they are pointed to, and must not move
}

func (c *capture) newContentReader() *contentReader {
	d := c.repo.Descriptor()
	return &contentReader{writer: c.writer, chunker: c.chunker, key: c.host.Domain.ChunkKey(), shortest: d.ChunkMin, longest: d.ChunkMax,
		progress: c.Progress, healing: &c.healing}
}

// piece is a chunk in the buffer.
type piece struct {
	from, to int
	id       [32]byte
}

// prepare makes what content is read with, when the first is: an unchanged tree
// needs none of it.
func (r *contentReader) prepare() {
	if r.buf != nil {
		return
	}
	r.framer, r.hashers = r.writer.NewFramer(), make(chan *chunk.Hasher, runtime.GOMAXPROCS(0))
	for range cap(r.hashers) {
		r.hashers <- chunk.NewHasher(r.key)
	}

	// One chunk of the greatest length, and room to read on.
	r.buf = make([]byte, r.longest+readAhead)
	r.pieces = make([]piece, 0, len(r.buf)/int(r.shortest)+2)
}

// read chunks what src yields and stores it as the content of a file. When reading
// fails, what was read before is stored, too.
func (r *contentReader) read(ctx context.Context, src io.Reader, f *file) error {
	r.prepare()
	r.sampler, f.stored = signs.Sampler{}, false

	have, final := 0, false
	var failed error
	for {
		for !final && have < len(r.buf) {
			n, err := src.Read(r.buf[have:])
			have += n
			r.progress.BytesRead.Add(uint64(n))
			if final = err != nil; final && err != io.EOF {
				failed = err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		at := r.cut(r.buf[:have], final)
		for i := range r.pieces {
			if err := r.chunk(f, &r.pieces[i]); err != nil {
				return err
			}
		}
		have = copy(r.buf, r.buf[at:have])
		if final && have == 0 {
			f.entry.Stat.Mark = uint64(r.sampler.Mark())
			return failed
		}
	}
}

const (
	// readAhead is how much more than a chunk the buffer of a reader takes, in
	// bytes.
	readAhead = 2 << 20
	// hashAside is the length of a chunk, in bytes, from which others look for
	// the next cut point while it is hashed. A large file is read by one
	// reader, which is not to be what the rest waits for.
	hashAside = 128 << 10
)

// cut finds the chunks in b and their IDs. It returns how many bytes they have.
func (r *contentReader) cut(b []byte, final bool) (at int) {
	r.pieces = r.pieces[:0]
	var aside sync.WaitGroup
	for at < len(b) {
		n := r.chunker.Cut(b[at:], final)
		if n == 0 {
			break
		}
		r.pieces = append(r.pieces, piece{from: at, to: at + n})
		p, content := &r.pieces[len(r.pieces)-1], b[at:at+n]
		at += n
		if n < hashAside {
			h := <-r.hashers
			p.id = h.ID(content)
			r.hashers <- h
			continue
		}
		aside.Go(func() {
			h := <-r.hashers
			p.id = h.ID(content)
			r.hashers <- h
		})
	}
	aside.Wait()
	return at
}

func (r *contentReader) chunk(f *file, p *piece) error {
	b := r.buf[p.from:p.to]
	ref, stored, err := r.framer.Add(p.id, b)
	if err != nil {
		return err
	}
	r.sampler.Add(b)
	if stored {
		f.stored = true
		r.healing.chunk(f, p.id, len(b))
	}
	f.refs = append(f.refs, ref)
	f.entry.Chunks = append(f.entry.Chunks, manifest.Chunk{ID: p.id, Len: uint32(len(b))})
	r.progress.Bytes.Add(uint64(len(b)))
	return nil
}

func chunked(e *manifest.Entry) (n uint64) {
	for i := range e.Chunks {
		n += uint64(e.Chunks[i].Len)
	}
	return n
}
