package snapshot_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
	"knowngood/storage/storagetest"
)

// lock is a sealed frame of one session, and what leads to its key.
type lock struct {
	key    string // of the object
	kind   wire.Kind
	repo   seal.RepositoryID
	domain seal.DomainID
	salt   seal.Salt
	offset int
	sealed []byte
	length uint32 // of the content

	session seal.SealedSession
}

// opens tries 32 bytes as the session's secret and as the frame's key.
func (l *lock) opens(b []byte) bool {
	info := append([]byte("knowngood v1 frames"), byte(l.kind))
	info = append(append(info, l.repo[:]...), l.domain[:]...)
	derived, err := hkdf.Key(sha256.New, b, l.salt[:], string(info), 32)
	return err == nil && (l.keyOpens(derived) || l.keyOpens(b))
}

func (l *lock) keyOpens(key []byte) bool {
	block, err := aes.NewCipher(key)
	if err != nil {
		return false
	}
	// GCM is a counter mode, so that the first block can be had by itself: it
	// must begin with a method and the content's length.
	var counter, first [16]byte
	binary.BigEndian.PutUint64(counter[4:], uint64(l.offset))
	counter[15] = 2
	cipher.NewCTR(block, counter[:]).XORKeyStream(first[:], l.sealed[:16])
	if n, _ := binary.Uvarint(first[1:]); first[0] > 1 || n != uint64(l.length) {
		return false
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		return false
	}
	_, err = pack.OpenFrame(a, l.kind, l.offset, bytes.Clone(l.sealed))
	return err == nil
}

// locks of one object of each kind for every session in the store.
func locks(w *enginetest.World, m *storagetest.Memory) []*lock {
	w.T.Helper()
	r := w.Open(w.State)
	host, err := r.Host(w.Ctx)
	w.Check(err)
	reader := r.NewReader(enginetest.Host, host.Domain)
	type of struct {
		session seal.SessionID
		kind    wire.Kind
	}
	seen := map[of]bool{}
	var out []*lock
	for _, key := range m.Keys() {
		kind := wire.KindPack
		_, _, hash, ok := layout.ParsePackKey(key)
		if !ok {
			kind = wire.KindManifest
			if _, _, hash, ok = layout.ParseManifestKey(key); !ok {
				continue
			}
		}
		tail, contents, err := reader.Contents(w.Ctx, kind, hash, -1)
		w.Check(err)
		if seen[of{tail.Session.ID, kind}] {
			continue
		}
		seen[of{tail.Session.ID, kind}] = true
		// The shortest frame takes the least time to try.
		f := slices.MinFunc(slices.Concat(contents.Files, contents.Manifest), func(a, b pack.Frame) int { return int(a.SealedLen) - int(b.SealedLen) })
		sealed, err := storage.Append(w.Ctx, nil, m, key, int64(f.Offset), int64(f.SealedLen))
		w.Check(err)
		out = append(out, &lock{key, kind, r.ID(), host.Domain.ID, tail.Salt, int(f.Offset), sealed, f.ContentLen, tail.Session})
	}
	return out
}

// search tries every 32 bytes of every file below a directory, as they stand,
// unpacked, and decoded from hexadecimal and base64.
type search struct {
	locks  []*lock
	epochs map[seal.EpochID]bool

	mu    sync.Mutex
	tried map[[32]byte]bool
	found []string
	files int
}

func (s *search) run(dir string) error {
	windows := make(chan [32]byte, 1024)
	var g sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() {
			for w := range windows {
				s.try(w)
			}
		})
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s.files++
		if strings.Contains(string(b), "AGE-SECRET") || strings.Contains(string(b), "AGE-PLUGIN") {
			s.found = append(s.found, path+" holds an identity")
		}
		for _, form := range forms(b) {
			for i := 0; i+32 <= len(form); i++ {
				if w := [32]byte(form[i:]); random32(w) && !s.tried[w] {
					s.tried[w] = true
					windows <- w
				}
			}
		}
		return nil
	})
	close(windows)
	g.Wait()
	return err
}

// random32 is a cheap filter: 32 random bytes have some 30 different ones,
// and fewer than 20 in less than one of 10^9 cases.
func random32(w [32]byte) bool {
	var seen [4]uint64
	n := 0
	for _, b := range w {
		if bit := uint64(1) << (b & 63); seen[b>>6]&bit == 0 {
			seen[b>>6] |= bit
			n++
		}
	}
	return n >= 20
}

var (
	hexRun    = regexp.MustCompile(`[0-9a-fA-F]{64,}`)
	base64Run = regexp.MustCompile(`[A-Za-z0-9+/_-]{43,}`)
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

func forms(b []byte) [][]byte {
	out := [][]byte{b}
	for _, run := range hexRun.FindAll(b, -1) {
		if d, err := hex.DecodeString(string(run[:len(run)&^1])); err == nil {
			out = append(out, d)
		}
	}
	for _, run := range base64Run.FindAll(b, -1) {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			if d, err := enc.DecodeString(string(run)); err == nil {
				out = append(out, d)
			}
		}
	}
	for rest := b; ; {
		i := bytes.Index(rest, zstdMagic)
		if i < 0 {
			return out
		}
		if dec, err := zstd.NewReader(bytes.NewReader(rest[i:]), zstd.WithDecoderConcurrency(1)); err == nil {
			d, _ := io.ReadAll(dec) // what there is before the frame ends or breaks off
			out = append(out, d)
			dec.Close()
		}
		rest = rest[i+1:]
	}
}

func (s *search) try(w [32]byte) {
	hit := func(what string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.found = append(s.found, what)
	}
	for _, l := range s.locks {
		if l.opens(w[:]) {
			hit("the state opens " + l.key)
		}
	}
	if secret, err := seal.ParseEpochSecret(w[:]); err == nil && s.epochs[secret.ID] {
		hit("the state holds the secret of an epoch")
	}
}

func TestSecrets(t *testing.T) {
	t.Run("nothing that a write-only host keeps after captures opens them", func(t *testing.T) {
		if testing.Short() {
			t.Skip("-short leaves it out")
		}
		t.Parallel()
		src := treetest.TempDir(t)
		treetest.Generate(t, src, treetest.Seed(21), treetest.Shape{Nodes: 12, MaxFile: 50 << 10, LargeDir: 20, Without: []treetest.Part{treetest.DeepPaths}})
		write(t, filepath.Join(src, "big"), random(5, 3<<20))
		memory := storagetest.NewMemory()
		w := enginetest.New(t, memory)
		settle()
		w.MustCapture("e", src)
		write(t, filepath.Join(src, "more"), random(6, 100_000))
		settle()
		w.MustCapture("e", src)
		w.MustCapture("other", filepath.Join(src, "more"))
		// A run that is stopped leaves what it noted.
		write(t, filepath.Join(src, "again"), random(7, 3<<20))
		w.Store = storagetest.NewFaulty(memory, storagetest.Rule{Op: storagetest.Put, Prefix: "hosts/h/roots/", Fault: storagetest.FailBefore(nil)})
		if _, err := w.Capture("e", nil, src); !errors.Is(err, storagetest.ErrInjected) {
			t.Fatalf("a run that cannot commit: %v", err)
		}
		w.Store = memory

		s := &search{locks: locks(w, memory), epochs: map[seal.EpochID]bool{}, tried: map[[32]byte]bool{}}
		epoch, err := w.Open(w.State).CurrentEpoch(w.Ctx)
		w.Check(err)
		s.epochs[epoch.ID] = true
		if len(s.locks) < 7 {
			t.Fatalf("%d sessions and kinds", len(s.locks))
		}
		w.Check(s.run(w.State))
		if len(s.found) > 0 {
			t.Errorf("%q", s.found)
		}
		if s.files < 8 || len(s.tried) < 10_000 {
			t.Errorf("only %d files, %d windows", s.files, len(s.tried))
		}
		t.Logf("%d files, %d windows, %d locks", s.files, len(s.tried), len(s.locks))

		// The search finds what there is to find, packed and in text too.
		secret, err := w.Bare().EpochSecret(w.Ctx, epoch.ID)
		w.Check(err)
		plain, err := secret.Bytes()
		w.Check(err)
		enc, err := zstd.NewWriter(nil)
		w.Check(err)
		defer enc.Close()
		for name, form := range map[string][]byte{
			"raw":    append([]byte("x"), plain...),
			"hex":    []byte("k: " + hex.EncodeToString(plain)),
			"base64": []byte(base64.RawURLEncoding.EncodeToString(plain)),
			"zstd":   append([]byte("prefix"), enc.EncodeAll(append(bytes.Repeat([]byte("text "), 100), plain...), nil)...),
		} {
			dir := treetest.TempDir(t)
			w.Check(os.WriteFile(filepath.Join(dir, "planted"), form, 0o600))
			planted := &search{epochs: s.epochs, tried: map[[32]byte]bool{}}
			w.Check(planted.run(dir))
			if len(planted.found) == 0 {
				t.Errorf("the epoch secret, planted as %s, is not found", name)
			}
		}
		for _, l := range s.locks {
			if len(l.sealed) < 16 {
				t.Fatalf("a frame of %d bytes", len(l.sealed))
			}
			key, err := hpke.MLKEM768X25519().NewPrivateKey(plain)
			w.Check(err)
			info := append(append(append([]byte("knowngood v1 session"), l.repo[:]...), epoch.ID[:]...), l.session.ID[:]...)
			session, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, l.session.Sealed)
			w.Check(err)
			if !l.opens(session) {
				t.Errorf("what should open %s does not", l.key)
			}
		}
	})
}
