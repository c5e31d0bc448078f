package repository_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"

	"knowngood/internal/wire"
	"knowngood/storage/identity"
	"knowngood/storage/pack"
	"knowngood/storage/seal"
)

// lock is something sealed that a taken host must not open.
type lock struct {
	repo   seal.RepositoryID
	domain seal.DomainID
	salt   seal.Salt
	object []byte
	frame  pack.Frame
	epoch  *seal.Epoch
	sealed seal.SealedSession
}

// opens tries 32 bytes as every secret that leads to the frame.
func (l *lock) opens(b []byte) bool {
	if s, err := seal.ParseEpochSecret(b); err == nil && s.ID == l.epoch.ID {
		return true
	}
	info := append([]byte("knowngood v1 frames"), byte(wire.KindPack))
	info = append(append(info, l.repo[:]...), l.domain[:]...)
	derived, err := hkdf.Key(sha256.New, b, l.salt[:], string(info), 32)
	if err != nil {
		return false
	}
	return l.frameOpens(derived) || l.frameOpens(b)
}

func (l *lock) frameOpens(key []byte) bool {
	block, err := aes.NewCipher(key)
	if err != nil {
		return false
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		return false
	}
	sealed := bytes.Clone(l.object[l.frame.Offset : l.frame.Offset+l.frame.SealedLen])
	_, err = pack.OpenFrame(a, wire.KindPack, int(l.frame.Offset), sealed)
	return err == nil
}

// search tries every 32 bytes of every file, as they stand and decoded from
// hexadecimal and base64, and every age identity.
func (l *lock) search(t *testing.T, dir string) (found string, files int) {
	t.Helper()
	tried := map[[32]byte]bool{}
	try := func(path string, b []byte) {
		for i := 0; i+32 <= len(b); i++ {
			if w := [32]byte(b[i:]); !tried[w] {
				if tried[w] = true; l.opens(w[:]) {
					found = path
				}
			}
		}
	}
	hexRun, b64Run := regexp.MustCompile(`[0-9a-fA-F]{64,}`), regexp.MustCompile(`[A-Za-z0-9+/_-]{43,}`)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		try(path, b)
		for _, run := range hexRun.FindAll(b, -1) {
			if d, err := hex.DecodeString(string(run[:len(run)&^1])); err == nil {
				try(path, d)
			}
		}
		for _, run := range b64Run.FindAll(b, -1) {
			for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				if d, err := enc.DecodeString(string(run)); err == nil {
					try(path, d)
				}
			}
		}
		if _, err := age.ParseIdentities(bytes.NewReader(b)); err == nil || strings.Contains(string(b), "AGE-") {
			found = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, files
}

func TestSecrets(t *testing.T) {
	t.Run("nothing that a write-only host keeps opens what it captured", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		r := w.m.open(t, w.store)
		epoch, err := r.CurrentEpoch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		session, err := seal.NewSession(r.ID(), epoch)
		if err != nil {
			t.Fatal(err)
		}
		b := pack.NewBuilder(wire.KindPack, r.ID(), h.Domain, session, nil)
		frame := b.Add(pack.StoredFrame(nil, []byte("what was captured")), 17, []pack.Chunk{{Len: 17}})
		object, _, _ := b.Finish(pack.ObjectList{})
		l := &lock{r.ID(), h.Domain.ID, b.Ref().Salt, object, frame, epoch, session.SealedSession}

		for _, env := range []string{"web", "db"} {
			commit(t, h, env)
			commit(t, h, env)
		}
		if _, err := w.operator(t).AddRecipient(t.Context(), newIdentity(t, identity.X25519).Recipients[0], now); err != nil {
			t.Fatal(err)
		}
		commit(t, w.m.host(t, w.store), "web")
		found, files := l.search(t, w.m.state)
		if found != "" || files < 6 {
			t.Errorf("searched %d files, opened by %s", files, found)
		}

		// The search finds what there is to find.
		secret, err := w.operator(t).EpochSecret(t.Context(), epoch.ID)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := secret.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"raw": append([]byte("x"), plain...), "hex": []byte("k: " + hex.EncodeToString(plain)), "base64": []byte(base64.RawStdEncoding.EncodeToString(plain))} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "planted"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			if found, _ := l.search(t, dir); found == "" {
				t.Errorf("the epoch secret, planted %s, is not found", name)
			}
		}
		// The session, opened by the identity and by nothing less, opens the frame.
		op := w.operator(t)
		opened, err := op.OpenSession(t.Context(), l.sealed)
		if err != nil {
			t.Fatal(err)
		}
		key := opened.FrameKey(wire.KindPack, r.ID(), h.Domain.ID, l.salt)
		if _, err := pack.OpenFrame(key, wire.KindPack, int(frame.Offset), bytes.Clone(object[frame.Offset:frame.Offset+frame.SealedLen])); err != nil {
			t.Error(err)
		}
		if again, err := op.OpenSession(t.Context(), l.sealed); err != nil || again != opened {
			t.Errorf("the session is opened twice, or %v", err)
		}
		if _, err := r.OpenSession(t.Context(), l.sealed); err == nil {
			t.Error("the host opens its own session")
		}
	})
}
