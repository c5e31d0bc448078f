package deletion

import (
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/ledger"
	"knowngood/storage/statement"
)

// Pending deletions may name every pack that was ever stored.
func TestMemory(t *testing.T) {
	t.Run("that of pending deletions is bounded", func(t *testing.T) {
		const statements, objects = 10, statement.MaxDeletionObjects
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		d := newDeletions()
		for serial := range uint64(statements) {
			s := &statement.Deletion{Serial: serial}
			for i := range uint64(objects) {
				hash := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, serial*objects+i))
				s.Announced = append(s.Announced, statement.Object{Kind: wire.KindPack, Hash: hash, Size: 16 << 20})
			}
			d.add(ledger.Entry[*statement.Deletion]{Number: statements - serial, Value: s, Stored: time.Now()}, true)
		}
		each := (heap() - before) / (statements * objects)
		runtime.KeepAlive(d)
		t.Logf("%d bytes an object", each)
		if most := uint64(130); each > most { // a statement has about 40
			t.Errorf("%d bytes an object, more than %d", each, most)
		}
	})
}
