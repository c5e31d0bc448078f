package statement

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

func TestVerifyRefuses(t *testing.T) {
	for _, c := range codecs(t) {
		object := c.encode(t)
		parse := func(b []byte) statement {
			s, err := c.parse(b)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		t.Run(c.name+" of another repository", func(t *testing.T) {
			if err := c.verify(parse(object), seal.RepositoryID{9}, public(ownerKey)); !errors.Is(err, ErrOtherRepository) {
				t.Fatalf("error %v", err)
			}
		})
		t.Run(c.name+" of another owner", func(t *testing.T) {
			if err := c.verify(parse(object), repo, public(strange)); !errors.Is(err, ErrSignature) {
				t.Fatalf("error %v", err)
			}
		})
		t.Run(c.name+" with a flipped bit", func(t *testing.T) {
			b := bytes.Clone(object)
			b[len(b)-1] ^= 1
			if err := c.verify(parse(b), repo, public(ownerKey)); !errors.Is(err, ErrSignature) {
				t.Fatalf("error %v", err)
			}
		})
		t.Run(c.name+" signed by a stranger", func(t *testing.T) {
			b, err := c.sample.Encode(strange)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.verify(parse(b), repo, public(ownerKey)); !errors.Is(err, ErrSignature) {
				t.Fatalf("error %v", err)
			}
		})
		t.Run(c.name+" that was never parsed", func(t *testing.T) {
			if err := c.verify(c.sample, repo, public(ownerKey)); !errors.Is(err, ErrSignature) {
				t.Fatalf("error %v", err)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	t.Run("encode refuses what parse would", testEncodeRefusesWhatParseWould)
	t.Run("what a self signed statement verifies against", testWhatASelfSignedStatementVerifiesAgainst)
	t.Run("an epoch is named by its public key", testAnEpochIsNamedByItsPublicKey)
}

func testEncodeRefusesWhatParseWould(t *testing.T) {
	for name, s := range map[string]statement{
		"a root in no environment":          sampleRoot(nil),
		"a time beyond nanoseconds":         &JoinRequest{Repository: repo, Host: "a", HostKey: public(hostKey), Created: time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"a lock of half a second":           &Descriptor{Repository: repo, Owner: public(ownerKey), Created: at, ChunkMin: 1, ChunkAverage: 1, ChunkMax: 1, PackSize: 1, LockDuration: time.Second / 2},
		"a known field among the unknown":   &JoinRequest{Repository: repo, Host: "a", HostKey: public(hostKey), Created: at, Unknown: []wire.Field{{Tag: 4, Value: []byte("b")}}},
		"an unknown field of an even tag":   &JoinRequest{Repository: repo, Host: "a", HostKey: public(hostKey), Created: at, Unknown: []wire.Field{{Tag: 100, Value: []byte("b")}}},
		"an unknown field without a value":  &JoinRequest{Repository: repo, Host: "a", HostKey: public(hostKey), Created: at, Unknown: []wire.Field{{Tag: 101}}},
		"a payload of more than a megabyte": &JoinRequest{Repository: repo, Host: "a", HostKey: public(hostKey), Created: at, Unknown: []wire.Field{{Tag: 101, Value: make([]byte, MaxPayload)}}},
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := s.Encode(hostKey); err == nil {
				t.Fatalf("wrote %x", b)
			}
		})
	}
	t.Run("a key that is none", func(t *testing.T) {
		if _, err := codecs(t)[0].sample.Encode(nil); err == nil {
			t.Fatal("signed without a key")
		}
	})
}

func FuzzStatements(f *testing.F) {
	all := codecs(f)
	for i, c := range all {
		f.Add(i, c.encode(f))
	}
	f.Fuzz(func(t *testing.T, i int, object []byte) {
		if i < 0 || i >= len(all) {
			return
		}
		s, err := all[i].parse(object)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, wire.ErrVersion) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		again, err := s.Encode(strange)
		if err != nil {
			t.Fatalf("parses, but: %v", err)
		}
		if n := len(object) - ed25519.SignatureSize; !bytes.Equal(object[:n], again[:n]) {
			t.Fatalf("%x became %x", object, again)
		}
	})
}

func testWhatASelfSignedStatementVerifiesAgainst(t *testing.T) {
	d := codecs(t)[0]
	for name, key := range map[string]ed25519.PrivateKey{"its own key": ownerKey, "a stranger's": strange} {
		b, err := d.sample.Encode(key)
		if err != nil {
			t.Fatal(err)
		}
		x, err := ParseDescriptor(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Verify(); (err == nil) != (name == "its own key") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func testAnEpochIsNamedByItsPublicKey(t *testing.T) {
	s, err := seal.NewEpochSecret()
	if err != nil {
		t.Fatal(err)
	}
	e := mustParse(t, ParseEpoch, &Epoch{Repository: repo, Number: 1, PublicKey: s.Public(), Recipients: []string{"age1a"}, Created: at}, ownerKey)
	if e.ID() != s.ID {
		t.Fatalf("epoch %v, want %v", e.ID(), s.ID)
	}
}
