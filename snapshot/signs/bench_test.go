package signs

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// What a mark costs, beside the hashing of the same chunk.
func BenchmarkMark(b *testing.B) {
	for _, n := range []int{1 << 10, 16 << 10, 1 << 20} {
		chunk := make([]byte, n)
		rand.NewChaCha8([32]byte{1}).Read(chunk)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				var s Sampler
				s.Add(chunk)
				if s.Mark() == 0 {
					b.Fatal("no mark")
				}
			}
		})
	}
}
