package chunk

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"lukechampine.com/blake3"
)

func TestHasher(t *testing.T) {
	t.Run("IDs are keyed BLAKE3 as specified", testIDsAreKeyedBLAKE3AsSpecified)
	t.Run("IDs of any length equal the library's hash", testIDsOfAnyLengthEqualTheLibrarysHash)
	t.Run("a hasher is shared by goroutines", aHasherIsSharedByGoroutines)
}

// From the test vectors of the BLAKE3 specification, whose input repeats the
// bytes 0 ... 250.
func testIDsAreKeyedBLAKE3AsSpecified(t *testing.T) {
	h := NewHasher([32]byte([]byte("whats the Elvish word for friend")))
	for n, want := range map[int]string{
		0:     "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
		1:     "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
		1023:  "c951ecdf03288d0fcc96ee3413563d8a6d3589547f2c2fb36d9786470f1b9d6e",
		1024:  "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4",
		1025:  "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69",
		2049:  "9f29700902f7c86e514ddc4df1e3049f258b2472b6dd5267f61bf13983b78dd5",
		8193:  "954a2a75420c8d6547e3ba5b98d963e6fa6491addc8c023189cc519821b4a1f5",
		16384: "9e9fc4eb7cf081ea7c47d1807790ed211bfec56aa25bb7037784c13c4b707b0d",
		31744: "efa53b389ab67c593dba624d898d0f7353ab99e4ac9d42302ee64cbf9939a419",
	} {
		input := make([]byte, n)
		for i := range input {
			input[i] = byte(i % 251)
		}
		if id := h.ID(input); hex.EncodeToString(id[:]) != want {
			t.Errorf("%d bytes: %x, want %s", n, id, want)
		}
	}
}

func testIDsOfAnyLengthEqualTheLibrarysHash(t *testing.T) {
	key := [32]byte{1, 2, 3}
	h := NewHasher(key)
	data := random(1, 8<<20)
	library := blake3.New(32, key[:])
	check := func(n int) {
		library.Reset()
		library.Write(data[:n])
		if got, want := h.ID(data[:n]), [32]byte(library.Sum(nil)); got != want {
			t.Fatalf("%d bytes: %x, want %x", n, got, want)
		}
	}
	for n := range 3000 {
		check(n)
	}
	for groups := 1; groups <= 70; groups++ {
		for _, d := range []int{-1025, -1024, -1, 0, 1, 63, 64, 65, 1024, 1025} {
			check(groups*group + d)
		}
	}
	check(3 << 20)
	check(MaxSize)
	for range 20 {
		check(rand.IntN(MaxSize))
	}
}

func aHasherIsSharedByGoroutines(t *testing.T) {
	h := NewHasher([32]byte{9})
	data := random(1, 100_000)
	want := h.ID(data)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if h.ID(data) != want {
					t.Error("an ID differs when several are computed at once")
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkID(b *testing.B) {
	h := NewHasher([32]byte{1})
	data := random(1, 1<<20)
	for _, n := range []int{200, 1 << 10, 3000, 4 << 10, 6000, 16 << 10, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				h.ID(data[:n])
			}
		})
	}
}
