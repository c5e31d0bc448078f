package pack

import (
	"math/rand/v2"
	"testing"

	"knowngood/internal/treetest"
)

func TestMemory(t *testing.T) {
	t.Run("that of a compressor is that of two encoders", func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 1))
		// Text goes to one of its encoders, dense content to the other.
		text, dense := make([]byte, 2*FrameTarget), make([]byte, 2*FrameTarget)
		for i := range text {
			text[i], dense[i] = 'a'+byte(r.IntN(20)), byte(r.IntN(200))
		}
		for _, level := range []Level{LevelDefault, LevelFastest, LevelBetter} {
			var out []byte
			before := treetest.Heap()
			c := NewCompressor(level)
			for range 3 {
				out = c.Frame(out[:0], text)
				out = c.Frame(out[:0], dense)
			}
			used := treetest.Heap() - before - int64(cap(out))
			t.Logf("level %d: %d bytes, frames of %d", level, used, cap(out))
			if used > 11<<20 {
				t.Errorf("level %d: %d bytes", level, used)
			}
			c.Frame(out[:0], text)
		}
	})
}
