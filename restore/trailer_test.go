package restore_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
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
	"knowngood/storage/deletion"
	"knowngood/storage/storagetest"
)

// The end of an object opens it. Whoever may put objects puts another one over each,
// with that end changed: what lies beneath is found.
func TestForgedTrailers(t *testing.T) {
	t.Parallel()
	const repository, domain, epoch, session, salt, sealed = 0, 16, 24, 32, 48, 80 // offsets in a trailer
	flip := func(at int) func(*enginetest.World, string, []byte, []byte) {
		return func(_ *enginetest.World, _ string, _, trailer []byte) { trailer[at] ^= 1 }
	}
	for name, forge := range map[string]func(w *enginetest.World, key string, object, trailer []byte){
		"another repository": flip(repository), "another domain": flip(domain), "another epoch": flip(epoch), "another session": flip(session),
		"another salt": flip(salt), "a damaged secret": flip(sealed),
		"another secret of the session, under which other frames are sealed": func(w *enginetest.World, key string, object, trailer []byte) {
			r := w.Open(w.State)
			current, err := r.CurrentEpoch(w.Ctx)
			w.Check(err)
			to, err := hpke.MLKEM768X25519().NewPublicKey(current.Public())
			w.Check(err)
			id, secret := r.ID(), make([]byte, 32)
			info := slices.Concat([]byte("knowngood v1 session"), id[:], current.ID[:], trailer[session:salt])
			forged, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), info, secret)
			w.Check(err)
			copy(trailer[sealed:], forged)

			host, err := r.Host(w.Ctx)
			w.Check(err)
			of, _ := deletion.ParseKey(key)
			_, contents, err := r.NewReader(enginetest.Host, host.Domain).Contents(w.Ctx, of.Kind, of.Hash, int64(len(object)))
			w.Check(err)
			raw, err := hkdf.Key(sha256.New, secret, trailer[salt:sealed], string(slices.Concat([]byte("knowngood v1 frames"), []byte{byte(of.Kind)}, id[:], host.Domain.ID[:])), 32)
			w.Check(err)
			block, err := aes.NewCipher(raw)
			w.Check(err)
			aead, err := cipher.NewGCM(block)
			w.Check(err)
			for _, f := range slices.Concat(contents.Files, contents.Manifest) {
				plain := make([]byte, f.SealedLen-16) // stored, and of as many zeros as there is room for
				n := uint64(len(plain) - 2)
				for ; len(binary.AppendUvarint(nil, n))+int(n)+1 != len(plain); n-- {
				}
				binary.PutUvarint(plain[1:], n)
				nonce := binary.BigEndian.AppendUint64(make([]byte, 4), uint64(f.Offset))
				aead.Seal(object[f.Offset:f.Offset], nonce, plain, []byte{byte(of.Kind), 0})
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
				object, err := storage.Append(t.Context(), nil, store, key, 0, -1)
				w.Check(err)
				from := len(object) - 12 - int(binary.LittleEndian.Uint32(object[len(object)-8:]))
				forge(w, key, object, object[from:len(object)-12])
				store.Overwrite(key, object)
			}
			w.Restores("e@3", src, want)
		})
	}
}
