package index

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

func TestPassover(t *testing.T) {
	t.Run("packs that are passed over count as absent", packsThatArePassedOverCountAsAbsent)
	t.Run("packs that are lost are neither found nor saved nor known", packsThatAreLostAreNeitherFoundNorSavedNorKnown)
}

func packsThatArePassedOverCountAsAbsent(t *testing.T) {
	for name, save := range map[string]bool{"in memory": false, "in runs": true} {
		t.Run(name, func(t *testing.T) {
			m := &tableModel{t: t, cache: openCache(t), chunks: map[[32]byte]Location{}}
			m.open()
			defer func() { m.table.Close() }()
			chunk := func(n uint64) [32]byte { return sha256.Sum256(binary.LittleEndian.AppendUint64(nil, n)) }
			in := func(n uint64) uint64 {
				loc, ok := m.table.Lookup(chunk(n))
				for p := uint64(1); ok && p <= m.packs; p++ {
					if loc.Pack.Hash == idOf(p) {
						return p
					}
				}
				return 0
			}
			for _, numbers := range [][]uint64{{1, 2}, {1, 3}, {4}} { // packs 1, 2 and 3
				m.add([][]uint64{numbers})
				if save {
					m.save()
				} else {
					m.table.mu.Lock()
					m.table.freeze()
					m.table.mu.Unlock()
				}
			}
			m.table.PassOver(map[[32]byte]bool{idOf(2): true, idOf(3): true}, map[[32]byte]bool{idOf(2): true})
			for n, want := range []uint64{1: 1, 2: 1, 3: 0, 4: 0} {
				if got := in(uint64(n)); n > 0 && got != want {
					t.Errorf("chunk %d is found in pack %d, want %d", n, got, want)
				}
			}
			m.add([][]uint64{{3}}) // stored again, in pack 4
			if got := in(3); got != 4 {
				t.Errorf("a chunk that was stored again is found in pack %d, want 4", got)
			}
			m.save()
			m.merge(9)
			m.table.PassOver(nil, nil)
			sizes := m.table.PackSizes()
			for p, want := range []bool{1: true, 2: false, 3: true, 4: true} {
				if _, ok := sizes[idOf(uint64(p))]; p > 0 && ok != want {
					t.Errorf("after a merge pack %d is named: %v, want %v", p, ok, want)
				}
			}
			if got := in(1); got != 1 {
				t.Errorf("after a merge chunk 1 is found in pack %d, want the one that stayed", got)
			}
		})
	}
}

func packsThatAreLostAreNeitherFoundNorSavedNorKnown(t *testing.T) {
	m := &tableModel{t: t, cache: openCache(t), chunks: map[[32]byte]Location{}}
	m.open()
	defer func() { m.table.Close() }()
	m.add([][]uint64{{1}})
	m.add([][]uint64{{2}})
	m.save()
	m.add([][]uint64{{3}})
	m.add([][]uint64{{4}})
	lost := map[[32]byte]bool{idOf(2): true, idOf(4): true}
	m.table.Lost(lost)
	m.table.PassOver(map[[32]byte]bool{}, nil) // which does not bring them back
	wants := func(when string) {
		t.Helper()
		sizes := m.table.PackSizes()
		for p := uint64(1); p <= 4; p++ {
			_, found := m.table.Lookup(sha256.Sum256(binary.LittleEndian.AppendUint64(nil, p)))
			_, known := sizes[idOf(p)]
			if want := !lost[idOf(p)]; found != want || known != want {
				t.Errorf("%s pack %d is found %v and known %v, want %v", when, p, found, known, want)
			}
		}
	}
	wants("added,")
	m.save()
	wants("saved,")
	for _, run := range m.table.runs[:1] {
		for i := range run.len() {
			if h := run.pack(int(run.frame(int(run.entry(i).Frame)).Pack)).Hash; lost[h] {
				t.Errorf("the run that was saved last names %x", h[:4])
			}
		}
	}
	m.add([][]uint64{{5}})
	m.table.Lost(map[[32]byte]bool{idOf(5): true})
	unsaved, err := m.table.Unsaved()
	if err != nil {
		t.Fatal(err)
	}
	for x := range unsaved.Bodies() {
		t.Errorf("a run of %d chunks would be saved, where all are lost", x.Len)
	}
}
