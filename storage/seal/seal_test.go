package seal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"knowngood/internal/wire"
)

var (
	testRepo = RepositoryID{1, 2, 3}
	testSalt = Salt{4, 5, 6}
)

func testDomain() *Domain { return DomainFromBytes([32]byte{7, 8, 9}) }

func TestKeys(t *testing.T) {
	t.Run("are derived as the format defines", func(t *testing.T) {
		d := testDomain()
		hexOf := func(b [32]byte) string { return hex.EncodeToString(b[:]) }
		id := secret{[32]byte{10}}.sessionID()
		frames := (&Session{key: secret{[32]byte{10}}}).FrameKey(wire.KindPack, testRepo, d.ID, testSalt)
		for name, c := range map[string]struct{ got, want string }{
			"session ID":   {hex.EncodeToString(id[:]), vectors["session ID"]},
			"domain ID":    {d.ID.String(), vectors["domain ID"]},
			"chunk-ID key": {hexOf(d.ChunkKey()), vectors["chunk-ID key"]},
			"gear key":     {hexOf(d.GearKey()), vectors["gear key"]},
			"segment key":  {hexOf(d.SegmentKey()), vectors["segment key"]},
			// What the other keys seal stands for them: the empty message.
			"contents key":  {hex.EncodeToString(Once(d.ContentsKey(wire.KindPack, testSalt), nil, nil)), vectors["contents key"]},
			"index run key": {hex.EncodeToString(Once(d.RunKey(testSalt), nil, nil)), vectors["index run key"]},
			"root key":      {hex.EncodeToString(Once(d.RootKey(testSalt), nil, nil)), vectors["root key"]},
			"frame key":     {hex.EncodeToString(Once(frames, nil, nil)), vectors["frame key"]},
		} {
			if c.got != c.want {
				t.Errorf("%s: %s, the vector %s", name, c.got, c.want)
			}
		}
	})
}

func TestSealedSecret(t *testing.T) {
	t.Run("opens only with its epoch and context", func(t *testing.T) {
		epoch, err := NewEpochSecret()
		if err != nil {
			t.Fatal(err)
		}
		other, err := NewEpochSecret()
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSession(testRepo, epoch.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Sealed) != 1168 {
			t.Errorf("a sealed secret is %d bytes long", len(s.Sealed))
		}
		b, err := epoch.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseEpochSecret(b)
		if err != nil || again.ID != epoch.ID {
			t.Fatalf("the secret reads back as that of %v, %v", again, err)
		}
		opened, err := again.OpenSession(testRepo, s.SealedSession)
		if err != nil || opened.key != s.key {
			t.Errorf("does not open: %v", err)
		}
		moved := s.SealedSession
		moved.ID[0]++
		forged := s.SealedSession
		if forged.Sealed, err = epoch.seal(sessionInfo(testRepo, epoch.ID, s.ID), make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
		for what, f := range map[string]func() (*Session, error){
			"another epoch":      func() (*Session, error) { return other.OpenSession(testRepo, s.SealedSession) },
			"another repository": func() (*Session, error) { return epoch.OpenSession(RepositoryID{9}, s.SealedSession) },
			"another session":    func() (*Session, error) { return epoch.OpenSession(testRepo, moved) },
			"a forged secret":    func() (*Session, error) { return epoch.OpenSession(testRepo, forged) },
		} {
			if _, err := f(); !errors.Is(err, ErrWrongKey) {
				t.Errorf("under %s: %v", what, err)
			}
		}
		d := testDomain()
		sealed, err := d.SealTo(epoch.Epoch, testRepo, "web-7")
		if err != nil {
			t.Fatal(err)
		}
		if back, err := epoch.OpenDomain(testRepo, d.ID, "web-7", sealed); err != nil || back.Bytes() != d.Bytes() {
			t.Errorf("domain: %v", err)
		}
		if _, err := epoch.OpenDomain(testRepo, d.ID, "web-8", sealed); !errors.Is(err, ErrWrongKey) {
			t.Errorf("domain of another host: %v", err)
		}
	})
}

func TestSecrets(t *testing.T) {
	t.Run("are not printed", func(t *testing.T) {
		epoch, err := NewEpochSecret()
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSession(testRepo, epoch.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := epoch.Bytes()
		d := testDomain()
		domain := d.Bytes()
		secrets := [][]byte{b, s.key.b[:], domain[:]}
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			for _, v := range []any{epoch, *epoch, d, *d, s.key, s, *s} {
				text := fmt.Sprintf(format, v)
				for _, secret := range secrets {
					for _, form := range []string{string(secret), hex.EncodeToString(secret), strings.Trim(fmt.Sprint(secret), "[]"), fmt.Sprintf("%#v", secret)[6:40]} {
						if strings.Contains(text, form) {
							t.Errorf("%s of a %T shows a secret", format, v)
						}
					}
				}
			}
		}
	})
}
