package densemap

import (
	"runtime"
	"testing"

	"pgregory.net/rapid"
)

func TestMap(t *testing.T) {
	t.Run("holds what a built-in map holds", testAgainstBuiltIn)
	t.Run("takes 12 bytes more than each value", testSize)
}

func testAgainstBuiltIn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var m Map[uint16, int]
		want := map[uint16]int{}
		keys := rapid.Uint16Range(0, rapid.SampledFrom([]uint16{3, 50, 5000}).Draw(t, "keys"))
		for i, op := range rapid.SliceOfN(rapid.IntRange(0, 2), 0, 2000).Draw(t, "operations") {
			key := keys.Draw(t, "key")
			got := m.Get(key)
			if value, ok := want[key]; ok != (got != nil) || ok && *got != value {
				t.Fatalf("key %d has %v, want %d, %v", key, got, value, ok)
			}
			switch {
			case op == 0:
				m.Delete(key)
				delete(want, key)
			case got == nil:
				if got = m.Add(key); *got != 0 {
					t.Fatalf("a new value is %d", *got)
				}
				fallthrough
			default:
				*got, want[key] = i, i
			}
		}
		if m.Len() != len(want) {
			t.Fatalf("%d values, want %d", m.Len(), len(want))
		}
		for key, value := range want {
			if got := m.Get(key); got == nil || *got != value {
				t.Fatalf("key %d has %v, want %d", key, got, value)
			}
		}
	})
}

func testSize(t *testing.T) {
	const values = 400_000
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	var m Map[uint64, [4]uint64]
	before := heap()
	for i := range uint64(values) {
		m.Add(i)[0] = i
	}
	if each := float64(heap()-before) / values; each > 5*8+12 {
		t.Errorf("%.1f bytes for each value of 40", each)
	}
	// What is deleted makes room.
	for i := range uint64(20 * values) {
		m.Delete(i)
		m.Add(i + values)
	}
	if each := float64(heap()-before) / values; each > 5*8+24 || m.Len() != values {
		t.Errorf("%.1f bytes for each of %d values of 40 after deletions", each, m.Len())
	}
	runtime.KeepAlive(&m)
}
