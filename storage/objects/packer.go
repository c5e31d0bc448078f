package objects

import (
	"context"
	"sync"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

// maxPackChunks ends a pack of very small chunks early, so that what waits
// for it stays bounded.
const maxPackChunks = 32 << 10

// contentsRoom is what the table of most packs and the trailer take, in bytes.
const contentsRoom = 512 << 10

// Frame is a frame written in this run. Its place is final once its pack is.
type Frame struct {
	placed      chan struct{}
	pack        *openPack
	offset, len uint32
}

func newFrame() *Frame { return &Frame{placed: make(chan struct{})} }

// openPack is an object on its way into the store.
type openPack struct {
	builder *pack.Builder
	free    chan<- []byte // takes its memory
	info    pack.Ref      // the hash and the size are set by finish
	shared  chan struct{} // closed when the manifest is to follow in it
	durable chan struct{} // closed when the store has confirmed them
}

// Objects in memory, those being filled included: of packs few while uploads are
// fast, and more while they are slow.
const (
	fewPacks   = 3
	mostPacks  = 6
	containers = 2
)

// slowUpload is how long a packer waits for one of its uploads before it takes
// more memory to have more of them under way.
const slowUpload = 250 * time.Millisecond

// packer gathers the frames of files, or those of the manifest, into objects and
// uploads them.
type packer struct {
	kind   wire.Kind
	w      *Writer
	target int

	mu   sync.Mutex
	open *openPack

	few, most int         // objects in memory
	made      int         // buffers
	free      chan []byte // those of objects that are stored
}

func newPacker(w *Writer, kind wire.Kind, target, few, most int) *packer {
	return &packer{kind: kind, w: w, target: target, few: few, most: most, free: make(chan []byte, most)}
}

// buffer is the memory of an object. It waits while as many objects as there may be
// are on their way; p.mu is held.
func (p *packer) buffer(ctx context.Context) ([]byte, error) {
	select {
	case buf := <-p.free:
		return buf, nil
	default:
	}
	if p.made >= p.few {
		var slow <-chan time.Time
		if p.made < p.most {
			timer := time.NewTimer(slowUpload)
			defer timer.Stop()
			slow = timer.C
		}
		select {
		case buf := <-p.free:
			return buf, nil
		case <-slow:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	p.made++
	return make([]byte, 0, p.target+contentsRoom), nil
}

// add seals plaintext into the open object and places f. It blocks while all
// buffers are in flight.
func (p *packer) add(ctx context.Context, f *Frame, plaintext []byte, contentLen int, chunks []pack.Chunk) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != nil && p.open.info.Kind == p.kind && p.open.builder.Size()+len(plaintext)+seal.Overhead > p.target {
		p.finish(pack.ObjectList{})
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	p.place(f, plaintext, contentLen, chunks)
	if p.open.builder.Chunks() >= maxPackChunks {
		p.finish(pack.ObjectList{})
	}
	return nil
}

// begin sees to it that there is an open object; p.mu is held.
func (p *packer) begin(ctx context.Context) error {
	if p.open != nil {
		return nil
	}
	buf, err := p.buffer(ctx)
	if err != nil {
		return err
	}
	b := pack.NewBuilder(p.kind, p.w.repo.t.ID(), p.w.host.Domain, p.w.session, buf)
	p.open = &openPack{builder: b, free: p.free, info: b.Ref(), shared: make(chan struct{}), durable: make(chan struct{})}
	return nil
}

func (p *packer) place(f *Frame, plaintext []byte, contentLen int, chunks []pack.Chunk) {
	add := p.open.builder.Add
	if p.kind == wire.KindManifest {
		add = p.open.builder.AddManifest
	}
	placed := add(plaintext, contentLen, chunks)
	f.pack, f.offset, f.len = p.open, placed.Offset, placed.SealedLen
	close(f.placed)
}

// last is the open object, nil when there is none.
func (p *packer) last() *openPack {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// finishWith adds a last frame and the list of objects, and completes the
// object.
func (p *packer) finishWith(ctx context.Context, plaintext []byte, contentLen int, list pack.ObjectList) (*Frame, *openPack, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.begin(ctx); err != nil {
		return nil, nil, err
	}
	f := newFrame()
	p.place(f, plaintext, contentLen, nil)
	return f, p.finish(list), nil
}

// share goes on filling the open object of another packer, when that is small and this
// one has none.
func (p *packer) share(from *packer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != nil {
		return false
	}
	if p.open = from.take(); p.open == nil {
		return false
	}
	close(p.open.shared)
	return true
}

// take returns the open object, when it is small, and leaves it; nil when there is none
// such.
func (p *packer) take() *openPack {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.open
	if o == nil || o.builder.Size() > maxShared {
		return nil
	}
	p.open = nil
	return o
}

// flush sends o on its way, if it is still open.
func (p *packer) flush(o *openPack) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != nil && p.open == o {
		p.finish(pack.ObjectList{})
	}
}

// finish completes the open object and starts its upload; p.mu is held.
func (p *packer) finish(list pack.ObjectList) *openPack {
	o := p.open
	p.open = nil
	object, sum, contents := o.builder.Finish(list)
	o.builder = nil
	o.info.Hash, o.info.Size = sum, uint64(len(object))
	p.w.uploads.Go(func() error {
		err := p.upload(o, object, contents)
		if err != nil {
			p.w.fail(err)
		}
		return err
	})
	return o
}

func (p *packer) upload(o *openPack, object []byte, contents *pack.Contents) error {
	if err := p.w.put(o.info.Kind, o.info.Hash, object); err != nil {
		return err
	}
	p.w.stored.Add(uint64(len(object)))
	p.w.own.Store(o.info.Hash, true)
	p.w.index.inventory.put(ID{Kind: o.info.Kind, Hash: o.info.Hash}, o.info.Size)
	if len(contents.Files) > 0 {
		if err := p.w.packStored(o, contents); err != nil {
			return err
		}
	}
	close(o.durable)
	o.free <- object[:0]
	return nil
}

func (w *Writer) put(kind wire.Kind, sum [32]byte, object []byte) error {
	return w.repo.t.Store().Put(w.ctx, deletion.Key(w.host.Name, w.host.Domain.ID, ID{Kind: kind, Hash: sum}), object, storage.PutOptions{SHA256: sum, Retention: w.retention})
}
