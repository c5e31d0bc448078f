package objects_test

import (
	"crypto/sha256"
	"encoding/binary"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/objects"
	"knowngood/storage/pack"
	"knowngood/storage/storagetest"
)

func TestMain(m *testing.M) {
	if err := enginetest.InMemory(); err != nil {
		log.Fatal(err)
	}
	m.Run()
}

// overwritten is a reader of a pack that rubbish was put over, in a store that keeps
// versions.
type overwritten struct {
	*objects.Reader
	store *storagetest.Faulty
	key   string
	id    objects.ID
	size  int64
	in    pack.Ref
	frame pack.Frame // of the pack
}

func overwrite(t *testing.T, with func(object []byte) []byte) *overwritten {
	t.Helper()
	memory := storagetest.NewMemory()
	store := storagetest.NewFaulty(memory)
	w := enginetest.New(t, store)
	src := treetest.TempDir(t)
	content := make([]byte, 300<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	w.Check(os.WriteFile(filepath.Join(src, "file"), content, 0o644))
	w.MustCapture("e", src)

	o := &overwritten{store: store}
	for listed, err := range store.List(t.Context(), storage.ListOptions{Prefix: "hosts/h/packs/"}) {
		w.Check(err)
		o.key, o.size = listed.Key, listed.Size
	}
	o.id, _ = deletion.ParseKey(o.key)
	reader := func() *objects.Reader {
		r, s, err := w.Snapshot("h/e@1")
		w.Check(err)
		return r.NewReader(enginetest.Host, s.Domain)
	}
	tail, contents, err := reader().Contents(t.Context(), wire.KindPack, o.id.Hash, o.size)
	w.Check(err)
	o.in, o.frame = tail.Ref(o.id.Hash), contents.Files[0]

	object, err := storage.Append(t.Context(), nil, store, o.key, 0, -1)
	w.Check(err)
	memory.Overwrite(o.key, with(object))
	o.Reader = reader()
	return o
}

func (o *overwritten) read(t *testing.T) {
	t.Helper()
	if _, err := o.Frame(t.Context(), &o.in, o.frame.Offset, o.frame.SealedLen); err != nil {
		t.Errorf("frame: %v", err)
	}
}

func (o *overwritten) open(t *testing.T) {
	t.Helper()
	tail, _, err := o.Contents(t.Context(), wire.KindPack, o.id.Hash, o.size)
	if err != nil || tail.Size != o.size {
		t.Errorf("contents: %+v, %v", tail, err)
	}
}

func (o *overwritten) fetch(t *testing.T) {
	t.Helper()
	if b, err := o.Whole(t.Context(), nil, wire.KindPack, o.id.Hash, o.size); err != nil || sha256.Sum256(b) != o.id.Hash {
		t.Errorf("whole: %d bytes, %v", len(b), err)
	}
}

func TestOverwrittenPack(t *testing.T) {
	t.Parallel()
	rubbish := func(object []byte) []byte {
		b := make([]byte, len(object))
		_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
		return b
	}
	reads := map[string]func(*overwritten, *testing.T){
		"a frame": (*overwritten).read, "the contents": (*overwritten).open, "the whole pack": (*overwritten).fetch,
	}
	for name, read := range reads {
		for other, before := range reads {
			t.Run(name+" is read again after rubbish when meanwhile the pack was found beneath for "+other, func(t *testing.T) {
				t.Parallel()
				o := overwrite(t, rubbish)
				o.store.Add(storagetest.Rule{Op: storagetest.Get, Prefix: o.key, Nth: 1, Fault: storagetest.Meanwhile(func() { before(o, t) })})
				read(o, t)
			})
		}
		for over, with := range map[string]func([]byte) []byte{
			"as many random bytes": rubbish,
			"three bytes":          func([]byte) []byte { return []byte("xxx") },
			"more bytes":           func(object []byte) []byte { return append(rubbish(object), rubbish(object)...) },
			"a pack with other contents": func(object []byte) []byte {
				b := append([]byte(nil), object...)
				b[len(b)-pack.TailLen/8] ^= 1
				return b
			},
			"a pack whose trailer names an epoch that nobody has": func(object []byte) []byte {
				b := slices.Clone(object)
				trailer := len(b) - 12 - int(binary.LittleEndian.Uint32(b[len(b)-8:]))
				b[trailer+16+8] ^= 1
				return b
			},
			"nothing": func([]byte) []byte { return nil },
		} {
			t.Run(name+" is read from beneath "+over, func(t *testing.T) {
				t.Parallel()
				o := overwrite(t, with)
				read(o, t)
			})
		}
	}
	t.Run("is as long as it was, whatever a listing shows", func(t *testing.T) {
		t.Parallel()
		o := overwrite(t, func([]byte) []byte { return []byte("xxx") })
		tail, _, err := o.Contents(t.Context(), wire.KindPack, o.id.Hash, 3)
		if err != nil || tail.Size != o.size {
			t.Errorf("%+v, %v", tail, err)
		}
	})
}
