package check

import (
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage"
	"knowngood/storage/chunk"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/index"
	"knowngood/storage/layout"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// domainCheck checks what lies under one domain of a host.
type domainCheck struct {
	*checker
	host       string
	domain     *seal.Domain
	reader     *objects.Reader
	snapshots  []*history.Snapshot
	deletions  *deletion.Deletions
	sizes      map[[32]byte]uint64 // of packs, as the index has them
	packs      map[[32]byte]int64  // stored sizes
	containers map[[32]byte]int64
	put        map[deletion.ObjectID]time.Time // when the store took them
	strangers  *strangers                      // of the host
	actual     *index.Table                    // made of the packs' own contents
	bad        map[[32]byte]string             // chunks that do not verify, and the pack's key
	tables     map[tableKey]bool               // of manifests that were looked into
	tablesIn   map[[32]byte]bool               // containers that hold one
	segments   map[[32]byte]bool               // of ID, those that were looked into; true with hard links
	linked     map[[32]byte]bool               // sets of such segments that were looked into; see links
	remnants   map[[32]byte]remnant
	suspects   map[deletion.ObjectID]*suspect // objects that are missing or damaged
	listed     map[deletion.ObjectID]bool     // objects that a kept snapshot lists
	indexed    map[[32]byte]deletion.ObjectID // chunks that the index has in one of them alone
	hurt       bool                           // some file is
	locks      map[deletion.ObjectID]lockOf   // what roots say of the locks of objects
	claiming   lockClaim                      // of the snapshots that need is called for
}

// tableKey is all that a root claims of its manifest's table: where it lies, what
// opens it, and its digest. Snapshots between which nothing changed share it.
type tableKey [32]byte

func keyOfTable(b *statement.RootBody) tableKey {
	m := &b.Manifest
	h := sha256.New()
	fmt.Fprintf(h, "%x %d %d %d %x %x %x %x %x", m.Hash, m.Size, m.Offset, m.Length, m.Salt, m.Session.ID, m.Session.Epoch, m.Session.Sealed, b.Content)
	return tableKey(h.Sum(nil))
}

func (d *domainCheck) check(ctx context.Context) error {
	x, err := d.repo.ReadIndex(ctx, d.host, d.domain, true)
	if err != nil {
		return err
	}
	defer x.Close()
	defer d.reader.Close()
	d.actual = x.Scratch()
	defer d.actual.Close()
	if d.packs, err = d.list(ctx, layout.PrefixPacks(d.host, d.domain.ID)); err != nil {
		return err
	}
	if d.containers, err = d.list(ctx, layout.PrefixManifests(d.host, d.domain.ID)); err != nil {
		return err
	}
	if d.deletions, err = d.repo.Deletions(ctx, d.host, d.domain.ID); err != nil {
		return err
	}
	d.sizes = x.PackSizes()
	d.report.Packs += uint64(len(d.packs))
	d.report.Containers += uint64(len(d.containers))
	var different []*history.Snapshot
	claims := d.claims()
	for _, s := range d.snapshots {
		key := keyOfTable(s.Body)
		if d.tables[key] {
			continue
		}
		d.tables[key] = true
		different = append(different, s)
		d.claiming = claims[key]
		if err := d.needed(ctx, s); err != nil {
			return err
		}
	}
	d.indexSizes()
	if err := d.objects(ctx); err != nil {
		return err
	}
	d.index(x)
	d.runs(x)
	d.unneeded()
	if err := d.locked(ctx, claims); err != nil {
		return err
	}
	if d.Sealed {
		d.judge()
		return nil
	}
	for _, s := range different {
		if err := d.snapshot(ctx, s); err != nil {
			return err
		}
	}
	d.judge()
	if d.hurt || len(d.bad) > 0 {
		return d.name(ctx)
	}
	return nil
}

// list gives the stored sizes of the objects of a kind.
func (d *domainCheck) list(ctx context.Context, prefix string) (map[[32]byte]int64, error) {
	out := map[[32]byte]int64{}
	for o, err := range d.repo.Store().List(ctx, storage.ListOptions{Prefix: prefix}) {
		if err != nil {
			return nil, err
		}
		id, ok := deletion.ParseKey(o.Key)
		if !ok {
			d.strangers.add(o.Key)
			continue
		}
		out[id.Hash] = o.Size
		d.put[id] = o.Modified
	}
	return out, nil
}

// objects reads the contents of every pack, and of those drawn every byte.
func (d *domainCheck) objects(ctx context.Context) error {
	d.Progress.Packs.Add(uint64(len(d.packs)))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, 2*runtime.GOMAXPROCS(0)))
	whole := make(chan *scratch, runtime.GOMAXPROCS(0)+1) // bounds the packs in memory
	for range cap(whole) {
		whole <- &scratch{hasher: chunk.NewHasher(d.domain.ChunkKey()), dec: pack.NewDecompressor()}
	}
	for hash, size := range d.packs {
		g.Go(func() error {
			defer d.Progress.PacksDone.Add(1)
			key := layout.KeyPack(d.host, d.domain.ID, hash)
			var err error
			id := deletion.ObjectID{Kind: wire.KindPack, Hash: hash}
			read := drawn(hash, d.ReadData) || d.Read != nil && d.Read(id)
			switch {
			case read && d.Sealed:
				s := <-whole
				_, err = d.readWhole(gctx, s, wire.KindPack, hash, size)
				whole <- s
				if err == nil {
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
	for hash, size := range d.containers {
		id := deletion.ObjectID{Kind: wire.KindManifest, Hash: hash}
		if d.ReadData == 0 && (d.Read == nil || !d.Read(id)) {
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

// lostKey notes what is wrong with a wrapped key, and reports whether err is about
// one: what that opens is no less whole for it.
func (d *domainCheck) lostKey(err error) bool {
	object, ok := damagedObject(err)
	if !ok || !strings.HasPrefix(object, layout.PrefixKeys) {
		return false
	}
	d.damage(object, err)
	return true
}

// object notes damage and passes other errors on.
func (d *domainCheck) object(key string, err error) error {
	if err == nil || d.lostKey(err) {
		return nil
	}
	if _, ok := damagedObject(err); ok || errors.Is(err, seal.ErrWrongKey) || errors.Is(err, wire.ErrMalformed) || errors.Is(err, storage.ErrNotFound) {
		d.damage(key, err)
		return nil
	}
	return err
}

// drawn tells whether a pack is among the share to be read. The draw depends
// on the day, so that repeated checks see other packs.
func drawn(hash [32]byte, share float64) bool {
	if share >= 1 {
		return true
	}
	day := binary.LittleEndian.AppendUint64(hash[:], uint64(time.Now().Unix()/86400))
	sum := sha256.Sum256(day)
	return float64(binary.LittleEndian.Uint64(sum[:])>>11)/(1<<53) < share
}

func (d *domainCheck) packContents(ctx context.Context, key string, hash [32]byte, size int64) error {
	tail, err := d.reader.TailOf(ctx, wire.KindPack, hash, size)
	if err != nil {
		return err
	}
	contents, err := tail.Contents(wire.KindPack, d.domain)
	if err != nil {
		return err
	}
	if d.suspected(deletion.ObjectID{Kind: wire.KindPack, Hash: hash}) {
		d.doubt(hash, tail, contents)
		return nil
	}
	return d.known(hash, size, tail, contents)
}

// known takes the contents of a pack into the table of what there really is.
func (d *domainCheck) known(hash [32]byte, size int64, tail *pack.Tail, c *pack.Contents) error {
	return d.actual.Add(index.PackInfo{Ref: pack.Ref{Hash: hash, Session: tail.Session.ID, Salt: tail.Salt}, Size: uint64(size)}, c.Frames)
}

// remnant is a chunk of a pack whose bytes are not those of its name. Who
// opens it as that pack may still find the chunk there.
type remnant struct {
	pack pack.Ref
	len  uint32
}

// doubt takes the contents of a damaged pack, or of another object in its
// place.
func (d *domainCheck) doubt(hash [32]byte, tail *pack.Tail, c *pack.Contents) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range c.Frames {
		for _, ch := range f.Chunks {
			d.remnants[ch.ID] = remnant{pack.Ref{Hash: hash, Session: tail.Session.ID, Salt: tail.Salt}, ch.Len}
		}
	}
}

// there tells whether a chunk is where an entry says, or in a pack that is
// whole.
func (d *domainCheck) there(c *manifest.Chunk) bool {
	if loc, ok := d.actual.Lookup(c.ID); ok {
		return loc.Len == c.Len
	}
	r, ok := d.remnants[c.ID]
	return ok && r.pack == *c.Loc.Pack && r.len == c.Len
}

// scratch is the memory that reading a pack whole takes.
type scratch struct {
	object  []byte
	content []byte // of a frame
	hasher  *chunk.Hasher
	dec     *pack.Decompressor
}

// readWhole reads an object of about size bytes; it is valid until s is used
// again.
func (d *domainCheck) readWhole(ctx context.Context, s *scratch, kind wire.Kind, hash [32]byte, size int64) ([]byte, error) {
	if need := min(size, pack.MaxObject) + 512; int64(cap(s.object)) < need { // with room to see the end
		s.object = make([]byte, 0, max(need, 17<<20))
	}
	b, err := d.reader.Whole(ctx, s.object, kind, hash)
	d.Progress.Bytes.Add(uint64(len(b)))
	d.mu.Lock()
	d.report.BytesRead += uint64(len(b))
	d.mu.Unlock()
	return b, err
}

// wholePack verifies every byte of a pack: its name, every frame, every
// chunk, and that its contents are what its writer sealed.
func (d *domainCheck) wholePack(ctx context.Context, s *scratch, key string, hash [32]byte, size int64) error {
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
func (d *domainCheck) frames(ctx context.Context, s *scratch, key string, k cipher.AEAD, object []byte, contents *pack.Contents) error {
	var first error
	for _, f := range contents.Frames {
		if err := ctx.Err(); err != nil {
			return err
		}
		var content []byte
		plain, err := pack.OpenFrame(k, wire.KindPack, int(f.Offset), object[f.Offset:f.Offset+f.SealedLen])
		if err == nil {
			if content, err = s.dec.Content(s.content[:0], wire.KindPack, plain); err == nil {
				s.content = content
			}
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

// index compares the runs with what the packs hold.
func (d *domainCheck) index(x *objects.IndexReader) {
	for id, loc := range x.All() {
		d.report.Chunks++
		in := deletion.ObjectID{Kind: wire.KindPack, Hash: loc.Pack.Hash}
		_, there := d.packs[in.Hash]
		switch {
		case !there && x.Absent(in.Kind, in.Hash):
			continue // pruned, or about to be
		case !there:
			d.suspect(in, errors.New("the index names it, but it is not there"))
		}
		if d.suspects[in] != nil {
			if answer, ok := x.Lookup(id); ok && answer.Pack.Hash == loc.Pack.Hash && !d.elsewhere(id) {
				d.indexed[id] = in
			}
			continue
		}
		real, ok := d.actual.Lookup(id)
		if !ok || real.Pack.Hash == loc.Pack.Hash && (real.FrameOffset != loc.FrameOffset || real.Offset != loc.Offset || real.Len != loc.Len) {
			d.note(fmt.Sprintf("the index has chunk %x in pack %x, whose contents say otherwise: restores look into the pack", id[:8], loc.Pack.Hash[:8]))
		}
	}
}

// snapshot checks that all that a snapshot needs is there. Segments that
// several snapshots share are looked into once.
func (d *domainCheck) snapshot(ctx context.Context, s *history.Snapshot) error {
	tree, err := snapshot.OpenTree(ctx, d.repo, s)
	if err != nil {
		d.hurt = true
		return d.object(layout.KeyManifest(d.host, d.domain.ID, s.Body.Manifest.Hash), err)
	}
	for i := range tree.Table.Segments {
		seg := &tree.Table.Segments[i]
		if err := d.container(ctx, tree.ContainerHash(i), seg.ID); err != nil {
			return err
		}
		if _, seen := d.segments[seg.ID]; seen {
			continue
		}
		d.report.Segments++
		entries, err := tree.Segment(ctx, i)
		if err != nil {
			d.hurt = true
			if err := d.object(layout.KeyManifest(d.host, d.domain.ID, tree.ContainerHash(i)), err); err != nil {
				return err
			}
			continue
		}
		linked := false
		for j := range entries {
			linked = linked || entries[j].Link != 0
			for k := range entries[j].Chunks {
				c := &entries[j].Chunks[k]
				if s := d.suspects[deletion.ObjectID{Kind: wire.KindPack, Hash: c.Loc.Pack.Hash}]; s != nil && !d.elsewhere(c.ID) {
					s.needed = true
				}
				if d.there(c) {
					continue
				}
				d.hurt = true
				in := deletion.ObjectID{Kind: wire.KindPack, Hash: c.Loc.Pack.Hash}
				if at, ok := d.indexed[c.ID]; ok && d.suspects[in] == nil { // which took the place of the pack in the hint
					in = at
					d.suspects[in].needed = true
				}
				d.badChunk(c.ID, layout.KeyPack(d.host, d.domain.ID, in.Hash))
			}
		}
		d.segments[seg.ID] = linked
	}
	return d.links(ctx, s, tree)
}

// needed compares the objects that a snapshot needs with those there are.
func (d *domainCheck) needed(ctx context.Context, s *history.Snapshot) error {
	m := &s.Body.Manifest
	if err := d.need(ctx, s, pack.Object{Kind: wire.KindManifest, Hash: m.Hash, Size: m.Size}); err != nil {
		return err
	}
	d.tablesIn[m.Hash] = true
	tail, err := d.reader.TailOf(ctx, wire.KindManifest, m.Hash, int64(m.Size))
	var contents *pack.Contents
	if err == nil {
		contents, err = tail.Contents(wire.KindManifest, d.domain)
	}
	if err != nil {
		d.strangers.unread = true
		return d.object(layout.KeyManifest(d.host, d.domain.ID, m.Hash), err)
	}
	there := func(id deletion.ObjectID) bool {
		_, ok := d.packs[id.Hash]
		return ok
	}
	for _, o := range contents.Objects {
		id := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
		for _, in := range d.deletions.Resolve(m.Hash, id, there) {
			x := o
			if in != id {
				x = pack.Object{Kind: in.Kind, Hash: in.Hash, Size: d.sizes[in.Hash]}
				if x.Size == 0 { // no index run names it
					x.Size = uint64(max(d.packs[in.Hash], 0))
				}
			}
			if err := d.need(ctx, s, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// need looks for one object, beneath the current view too where no listing
// shows it with its size.
func (d *domainCheck) need(ctx context.Context, s *history.Snapshot, o pack.Object) error {
	have := d.packs
	if o.Kind == wire.KindManifest {
		have = d.containers
	}
	size, ok := have[o.Hash]
	id := deletion.ObjectID{Kind: o.Kind, Hash: o.Hash}
	d.listed[id] = true
	d.claim(d.claiming, id, o.Size)
	if ok && uint64(size) == o.Size || d.suspects[id] != nil {
		return nil
	}
	key := deletion.Key(d.host, d.domain.ID, id)
	_, err := d.reader.TailOf(ctx, o.Kind, o.Hash, int64(o.Size))
	switch {
	case err == nil:
		have[o.Hash] = int64(o.Size)
		if ok {
			return d.otherSize(ctx, id, size, s, o)
		}
		return nil
	case !ok && errors.Is(err, storage.ErrNotFound):
		err = fmt.Errorf("missing, needed by %s", s.Ref())
	case ok:
		err = errSize(size, s.Ref(), o.Size)
	default:
		return d.object(key, err)
	}
	d.suspect(id, err)
	return nil
}

func errSize(listed int64, who string, want uint64) error {
	return fmt.Errorf("%d bytes long, %s says %d", listed, who, want)
}

// otherSize notes an object that the store lists with a size which is not that of
// the object that snapshots need, though that can be read: it lies beneath the
// current view, or something was put behind its bytes.
func (d *domainCheck) otherSize(ctx context.Context, id deletion.ObjectID, listed int64, s *history.Snapshot, o pack.Object) error {
	key := deletion.Key(d.host, d.domain.ID, id)
	all, err := d.repo.Read.Versions(ctx, key)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(v storage.Version) bool { return !v.Marker && uint64(v.Size) == o.Size })
	switch {
	case at == 0: // it is in view by now
		return nil
	case at > 0:
		d.repo.Read.Overwritten(key, all)
		return nil
	}
	d.suspect(id, errSize(listed, s.Ref(), o.Size))
	return nil
}

// indexSizes compares the sizes of packs as the index has them with those that the
// store lists. Where snapshots need a pack their lists were compared before: then
// it is the index that is wrong.
func (d *domainCheck) indexSizes() {
	for hash, want := range d.sizes {
		id := deletion.ObjectID{Kind: wire.KindPack, Hash: hash}
		listed, there := d.packs[hash]
		switch {
		case !there || uint64(listed) == want || d.suspects[id] != nil:
		case d.listed[id]:
			d.note(fmt.Sprintf("%s is %d bytes long, as snapshots say, and the index says %d: the next snapshot may store again what lies in it", deletion.Key(d.host, d.domain.ID, id), listed, want))
		default:
			d.suspect(id, errSize(listed, "the index", want))
		}
	}
}
