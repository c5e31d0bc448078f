package restore

import (
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// dirLog remembers the directories of a restore, compressed: their metadata
// comes last, those below before those above.
type dirLog struct {
	entries []*manifest.Entry
	weight  int // of entries
	blocks  [][]byte
	enc     manifest.Encoder
	zenc    *zstd.Encoder
	buf     []byte
}

// Where a block ends: well within what a segment may hold.
const (
	dirBlock       = 1024    // entries
	dirBlockWeight = 1 << 20 // bytes
)

func (l *dirLog) add(e *manifest.Entry) {
	c := *e
	c.Path, c.Xattrs = strings.Clone(e.Path), slices.Clone(e.Xattrs)
	l.entries, l.weight = append(l.entries, &c), l.weight+manifest.Weight(&c)
	if len(l.entries) < dirBlock && l.weight < dirBlockWeight {
		return
	}
	if l.zenc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err) // the options are constants, and valid
		}
		l.zenc = enc
	}
	l.buf = l.enc.Append(l.buf[:0], l.entries)
	l.blocks = append(l.blocks, l.zenc.EncodeAll(l.buf, nil))
	l.entries, l.weight = l.entries[:0], 0
}

// apply gives all directories their metadata.
func (l *dirLog) apply(r *restorer) {
	for _, e := range slices.Backward(l.entries) {
		r.finishDir(e)
	}
	if len(l.blocks) == 0 {
		return
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err) // the options are constants, and valid
	}
	defer dec.Close()
	for _, b := range slices.Backward(l.blocks) {
		content, err := dec.DecodeAll(b, nil)
		if err != nil {
			panic(err) // made above, in memory
		}
		entries, err := manifest.ParseSegment(content)
		if err != nil {
			panic(err) // likewise
		}
		for i := range slices.Backward(entries) {
			r.finishDir(&entries[i])
		}
	}
}

func (r *restorer) finishDir(e *manifest.Entry) {
	rel := r.rel(e.Path)
	problems, err := r.applyDir(rel, e)
	if err != nil {
		r.problem(e.Path, err)
		return
	}
	r.attributes(e.Path, problems)
	if !slices.ContainsFunc(problems, func(p *posix.Problem) bool { return p.Attr == "mode" }) {
		r.rights.settled(rel)
	}
	if e.Flags&manifest.MetadataIncomplete == 0 {
		r.protection.settled(rel)
	}
	r.protectLater(e)
}

// applyDir applies the metadata of a directory, which this process may not be
// allowed to open.
func (r *restorer) applyDir(rel string, e *manifest.Entry) ([]*posix.Problem, error) {
	h, err := r.dirs.Get(rel)
	if err != nil {
		return nil, err
	}
	defer h.Release()
	if h.Readable {
		return r.applier.Apply(h.FD(), e.Metadata()), nil
	}

	above, name := split(rel)
	in, err := r.dirs.Get(above)
	if err != nil {
		return nil, err
	}
	defer in.Release()
	return r.applier.ApplyAt(in.FD(), name, e.Metadata()), nil
}
