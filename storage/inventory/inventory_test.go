package inventory

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"knowngood/internal/wire"
)

var start = time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)

func pack(n byte) ID { return ID{wire.KindPack, [32]byte{n}} }

func at(d time.Duration) Moment { return Moment{Wall: start.Add(d)} }

func TestInventory(t *testing.T) {
	t.Parallel()

	t.Run("how long ago a moment was", func(t *testing.T) {
		t.Parallel()
		boot, other := [16]byte{1}, [16]byte{2}
		for name, c := range map[string]struct {
			earlier, now Moment
			want         time.Duration
		}{
			"by both clocks":                      {Moment{start, time.Hour, boot}, Moment{start.Add(time.Hour), 2 * time.Hour, boot}, time.Hour},
			"the wall clock was set forward":      {Moment{start, time.Hour, boot}, Moment{start.Add(48 * time.Hour), 2 * time.Hour, boot}, 48 * time.Hour},
			"the wall clock was set back":         {Moment{start, time.Hour, boot}, Moment{start.Add(-48 * time.Hour), 2 * time.Hour, boot}, time.Hour},
			"the machine was started again":       {Moment{start, 9 * time.Hour, boot}, Moment{start.Add(time.Hour), time.Minute, other}, time.Hour},
			"started again with a clock set back": {Moment{start, 9 * time.Hour, boot}, Moment{start.Add(-time.Hour), time.Minute, other}, math.MaxInt64},
			"nothing tells the start":             {Moment{Wall: start}, Moment{Wall: start.Add(-time.Second)}, math.MaxInt64},
		} {
			t.Run(name, func(t *testing.T) {
				if got := c.now.Since(c.earlier); got != c.want {
					t.Errorf("%v ago, want %v", got, c.want)
				}
			})
		}
	})

	t.Run("what an object lacks", func(t *testing.T) {
		t.Parallel()
		v := New(at(0), []Object{{pack(2), 20}, {pack(1), 10}, {ID{wire.KindManifest, [32]byte{1}}, 5}}, nil)
		v.Put(pack(3), 30, start.Add(time.Minute))
		v.Lose(pack(2), Damaged, start)
		for _, c := range []struct {
			o    Object
			want Loss
		}{
			{Object{pack(1), 10}, 0}, {Object{pack(1), 11}, WrongSize}, {Object{pack(2), 20}, Damaged}, {Object{pack(3), 30}, 0},
			{Object{pack(4), 40}, Missing}, {Object{ID{wire.KindManifest, [32]byte{1}}, 5}, 0}, {Object{ID{wire.KindManifest, [32]byte{3}}, 30}, Missing},
		} {
			if got := v.Lacks(c.o); got != c.want {
				t.Errorf("%v %x of %d bytes is %q, want %q", c.o.Kind, c.o.Hash[:1], c.o.Size, got, c.want)
			}
		}
		if _, ok := v.Size(pack(2)); ok || !v.Lost(pack(2)) || v.Lost(pack(1)) {
			t.Error("what is lost counts as there, or the other way")
		}
		if v.Lose(pack(2), Missing, start) || !v.Lose(pack(9), Missing, start) {
			t.Error("it tells what is news wrongly")
		}
		if v.Listed(wire.KindPack) != 2 || v.Listed(wire.KindManifest) != 1 || v.Listed(wire.KindRoot) != 0 {
			t.Errorf("%d packs and %d manifests were listed", v.Listed(wire.KindPack), v.Listed(wire.KindManifest))
		}
		var there []byte
		for o := range v.Objects(wire.KindPack) {
			there = append(there, o.Hash[0])
		}
		slices.Sort(there)
		if !bytes.Equal(there, []byte{1, 3}) {
			t.Errorf("packs that are there: %v", there)
		}
	})

	t.Run("a new listing takes over what it does not show", func(t *testing.T) {
		t.Parallel()
		old := New(at(0), []Object{{pack(1), 10}, {pack(2), 20}, {pack(3), 30}, {pack(4), 40}}, nil)
		old.Put(pack(5), 50, start.Add(time.Hour))   // before the new listing
		old.Put(pack(6), 60, start.Add(2*time.Hour)) // while it is made
		old.Lose(pack(1), Damaged, start)            // and still shown
		old.Lose(pack(2), WrongSize, start)          // and unchanged
		old.Lose(pack(3), WrongSize, start)          // and of another size by now
		old.Lose(pack(7), Missing, start)            // and still missing
		old.Lose(pack(8), Missing, start)            // and found again
		old.Reports[[32]byte{9}] = true
		v := New(at(2*time.Hour), []Object{{pack(1), 10}, {pack(2), 20}, {pack(3), 33}, {pack(8), 80}}, old)
		for n, want := range map[byte]Loss{1: Damaged, 2: WrongSize, 3: 0, 4: Missing, 5: Missing, 6: 0, 7: Missing, 8: 0} {
			size := uint64(n) * 10
			if n == 3 {
				size = 33
			}
			if got := v.Lacks(Object{pack(n), size}); got != want {
				t.Errorf("pack %d is %q, want %q", n, got, want)
			}
		}
		for n, want := range map[byte]bool{1: true, 2: true, 3: false, 4: false, 5: false, 7: true, 8: false} {
			if v.Lost(pack(n)) != want {
				t.Errorf("pack %d is known to be lost: %v", n, !want)
			}
		}
		if !v.Reports[[32]byte{9}] {
			t.Error("a report that was dealt with is forgotten")
		}
	})

	t.Run("two processes know together what either knows", func(t *testing.T) {
		t.Parallel()
		make := func() (older, newer *Inventory) {
			older = New(at(0), []Object{{pack(1), 10}}, nil)
			older.Put(pack(2), 20, start.Add(time.Minute)) // the newer listing would show it
			older.Put(pack(3), 30, start.Add(2*time.Hour))
			newer = New(at(time.Hour), []Object{{pack(4), 40}}, nil)
			newer.Put(pack(5), 50, start.Add(2*time.Hour))
			return older, newer
		}
		check := func(v *Inventory) {
			t.Helper()
			for n, want := range map[byte]Loss{1: Missing, 2: Missing, 3: 0, 4: 0, 5: 0} {
				if got := v.Lacks(Object{pack(n), uint64(n) * 10}); got != want {
					t.Errorf("pack %d is %q, want %q", n, got, want)
				}
			}
		}
		older, newer := make()
		check(Merge(older, newer))
		older, newer = make()
		check(Merge(newer, older))
	})

	t.Run("whole again", func(t *testing.T) {
		t.Parallel()
		make := func() (older, newer *Inventory) {
			older = New(at(0), []Object{{pack(1), 10}, {pack(2), 20}, {pack(3), 30}}, nil)
			newer = New(at(time.Hour), []Object{{pack(1), 10}, {pack(2), 20}, {pack(3), 33}}, nil)
			for _, v := range []*Inventory{older, newer} {
				v.Lose(pack(1), Damaged, start.Add(time.Hour))
				v.Lose(pack(2), Damaged, start.Add(time.Hour))
				v.Lose(pack(3), WrongSize, start.Add(time.Hour))
			}
			return older, newer
		}
		for name, merge := range map[string]func(a, b *Inventory) *Inventory{
			"is what the process knows that looked last":                  Merge,
			"is what the process knows that looked last, the other first": func(a, b *Inventory) *Inventory { return Merge(b, a) },
			"is so after a new listing": func(a, b *Inventory) *Inventory {
				return New(at(5*time.Hour), []Object{{pack(1), 10}, {pack(2), 20}, {pack(3), 30}}, Merge(a, b))
			},
			"is so when the file is read again": func(a, b *Inventory) *Inventory {
				v, err := Parse(Merge(a, b).Append(nil))
				if err != nil {
					t.Fatal(err)
				}
				return v
			},
		} {
			t.Run(name, func(t *testing.T) {
				for _, first := range []bool{true, false} {
					older, newer := make()
					who, other := older, newer
					if first {
						who, other = newer, older
					}
					who.Put(pack(1), 10, start.Add(2*time.Hour))
					who.Put(pack(2), 20, start.Add(2*time.Hour))
					who.Put(pack(3), 30, start.Add(2*time.Hour))
					other.Lose(pack(2), Damaged, start.Add(3*time.Hour))
					v := merge(older, newer)
					for n, want := range map[byte]Loss{1: 0, 2: Damaged, 3: 0} {
						if got := v.Lacks(Object{pack(n), uint64(n) * 10}); got != want {
							t.Errorf("pack %d is %q, want %q", n, got, want)
						}
					}
					if spoiled := slices.Collect(v.Spoiled()); len(spoiled) != 1 {
						t.Errorf("%d objects are spoiled", len(spoiled))
					}
				}
			})
		}
	})

	t.Run("reads back", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) {
			v := drawn(t)
			got, err := Parse(v.Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			same := got.Taken.Wall.Equal(v.Taken.Wall) && got.Taken.Boot == v.Taken.Boot && got.Taken.BootID == v.Taken.BootID &&
				slices.Equal(got.listed, v.listed) && maps.EqualFunc(got.lost, v.lost, func(a, b mark) bool { return a.loss == b.loss && a.at.Equal(b.at) }) && maps.Equal(got.Reports, v.Reports) &&
				maps.EqualFunc(got.put, v.put, func(a, b put) bool { return a.size == b.size && a.at.Equal(b.at) })
			if !same {
				t.Fatalf("%+v reads back as %+v", v, got)
			}
		})
	})
}

// drawn is an inventory with some of everything.
func drawn(t *rapid.T) *Inventory {
	id := rapid.Custom(func(t *rapid.T) ID {
		return ID{rapid.SampledFrom([]wire.Kind{wire.KindPack, wire.KindManifest}).Draw(t, "kind"), [32]byte{rapid.Byte().Draw(t, "hash"), 31: 7}}
	})
	var listing []Object
	for id, size := range rapid.MapOf(id, rapid.Uint64()).Draw(t, "listed") {
		listing = append(listing, Object{id, size})
	}
	v := New(Moment{time.Unix(0, rapid.Int64().Draw(t, "wall")), time.Duration(rapid.Int64().Draw(t, "boot")), [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))}, listing, nil)
	for id, size := range rapid.MapOf(id, rapid.Uint64()).Draw(t, "put") {
		v.Put(id, size, time.Unix(0, rapid.Int64().Draw(t, "at")))
	}
	for id, loss := range rapid.MapOf(id, rapid.SampledFrom([]Loss{Missing, WrongSize, Damaged})).Draw(t, "lost") {
		v.Lose(id, loss, time.Unix(0, rapid.Int64().Draw(t, "found")))
	}
	for h := range rapid.MapOf(rapid.Byte(), rapid.Bool()).Draw(t, "reports") {
		v.Reports[[32]byte{h}] = true
	}
	return v
}

func FuzzParse(f *testing.F) {
	v := New(at(0), []Object{{pack(1), 10}}, nil)
	v.Put(pack(2), 20, start)
	v.Lose(pack(3), Missing, start)
	v.Reports[[32]byte{4}] = true
	b := v.Append(nil)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("error %v", err)
			}
			return
		}
		if _, err := Parse(v.Append(nil)); err != nil {
			t.Errorf("what was read does not read back: %v", err)
		}
	})
}
