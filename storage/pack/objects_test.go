package pack

import (
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"knowngood/internal/wire"
)

func TestObjectList(t *testing.T) {
	t.Run("gives the whole list with that of the container it differs from", func(t *testing.T) {
		object := rapid.Custom(func(t *rapid.T) Object {
			return Object{Kind: rapid.SampledFrom([]wire.Kind{wire.KindPack, wire.KindManifest}).Draw(t, "kind"), Hash: [32]byte{byte(rapid.IntRange(0, 9).Draw(t, "hash"))},
				Size: uint64(rapid.IntRange(1, 2).Draw(t, "size")), Live: uint64(rapid.IntRange(0, 2).Draw(t, "live"))}
		})
		list := rapid.Custom(func(t *rapid.T) []Object {
			l := rapid.SliceOf(object).Draw(t, "objects")
			slices.SortFunc(l, CompareObjects)
			return slices.CompactFunc(l, func(a, b Object) bool { return CompareObjects(a, b) == 0 })
		})
		rapid.Check(t, func(t *rapid.T) {
			of, objects := list.Draw(t, "base"), list.Draw(t, "list")
			l := ListObjects(Object{Kind: wire.KindPack, Hash: [32]byte{1}}, of, objects)
			d := wire.NewDecoder(l.Append(nil))
			read := ParseObjectList(d)
			if err := d.Finish(); err != nil || len(read.Added) != len(l.Added) || !slices.Equal(read.Removed, l.Removed) {
				t.Fatalf("%+v reads back as %+v: %v", l, read, err)
			}
			got, err := read.Whole(of)
			if err != nil || len(got) != len(objects) || len(got) > 0 && !reflect.DeepEqual(got, objects) {
				t.Errorf("%v, %v; want %v", got, err, objects)
			}
			if ObjectsDigest(got) != ObjectsDigest(objects) {
				t.Error("another digest")
			}
		})
	})
	t.Run("refuses what cannot be a list", func(t *testing.T) {
		base := Object{Kind: wire.KindManifest, Hash: [32]byte{1}}
		a := Object{wire.KindPack, [32]byte{1}, 1, 1}
		for name, l := range map[string]ObjectList{"an object twice": {Base: base, Added: []Object{a}}, "a removed one that is not there": {Base: base, Removed: []uint32{1}}} {
			if got, err := l.Whole([]Object{a}); err == nil {
				t.Errorf("%s: %v", name, got)
			}
		}
		for name, b := range map[string][]byte{"an unknown form": {2, 0}, "a position beyond any list": (&ObjectList{Base: base, Removed: []uint32{maxListed}}).Append(nil), "a base of another kind": append([]byte{byte(wire.KindRoot)}, make([]byte, 34)...), "a position that overflows": append([]byte{byte(wire.KindManifest), 7}, append(make([]byte, 31), 2, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f, 0)...)} {
			d := wire.NewDecoder(b)
			if ParseObjectList(d); d.Finish() == nil {
				t.Errorf("%s is read", name)
			}
		}
	})
}
