package restore_test

import (
	"crypto/hpke"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
	"knowngood/storage/storagetest"
)

// The end of an object opens it. Whoever may put objects puts another one over each,
// with that end changed: what lies beneath is found.
func TestForgedTrailers(t *testing.T) {
	t.Parallel()
	const repository, domain, epoch, session, salt, sealed = 0, 16, 24, 32, 48, 80 // offsets in a trailer
	flip := func(at int) func(*testing.T, *enginetest.World, []byte) {
		return func(_ *testing.T, _ *enginetest.World, trailer []byte) { trailer[at] ^= 1 }
	}
	for name, forge := range map[string]func(t *testing.T, w *enginetest.World, trailer []byte){
		"another repository": flip(repository), "another domain": flip(domain), "another epoch": flip(epoch), "another session": flip(session),
		"another salt": flip(salt), "a damaged secret": flip(sealed),
		"another secret of the session": func(t *testing.T, w *enginetest.World, trailer []byte) {
			r := w.Bare()
			current, err := r.CurrentEpoch(t.Context())
			w.Check(err)
			to, err := hpke.MLKEM768X25519().NewPublicKey(current.Public())
			w.Check(err)
			id := r.ID()
			info := slices.Concat([]byte("knowngood v1 session"), id[:], current.ID[:], trailer[session:salt])
			forged, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), info, make([]byte, 32))
			w.Check(err)
			if copy(trailer[sealed:], forged) != len(forged) || len(trailer) != sealed+len(forged) {
				t.Fatalf("sealed %d bytes in the place of %d", len(forged), len(trailer)-sealed)
			}
		},
	} {
		t.Run("with "+name+" hide nothing that lies beneath", func(t *testing.T) {
			t.Parallel()
			store := storagetest.NewMemory()
			w := enginetest.New(t, store)
			src := treetest.TempDir(t)
			random := rand.NewChaCha8([32]byte{1})
			for i, size := range []int{100, 300 << 10, 2 << 20} { // read whole, and in ranges, and of several packs
				content := make([]byte, size)
				_, _ = random.Read(content)
				w.Check(os.WriteFile(filepath.Join(src, fmt.Sprintf("file-%d", i)), content, 0o644))
				w.MustCapture("e", src)
			}
			want := treetest.Snapshot(t, src)
			for _, key := range store.Keys() {
				if !strings.Contains(key, "/packs/") && !strings.Contains(key, "/manifests/") {
					continue
				}
				object, err := storage.ReadAll(t.Context(), store, key, 0, -1)
				w.Check(err)
				from := len(object) - 12 - int(binary.LittleEndian.Uint32(object[len(object)-8:]))
				forge(t, w, object[from:len(object)-12])
				store.Overwrite(key, object)
			}
			w.Restores("e@3", src, want)
		})
	}
}
