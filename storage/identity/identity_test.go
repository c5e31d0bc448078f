package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"knowngood/storage/identity"
	"knowngood/storage/layout"
)

var created = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

func generate(t *testing.T, kind identity.Kind) *identity.Key {
	t.Helper()
	k, err := identity.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// secretKey is the text of an identity file.
func secretKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "identity")
	if err := identity.WriteFile(path, generate(t, identity.X25519), identity.WriteOptions{Created: created}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func never(t *testing.T) func() ([]byte, error) {
	return func() ([]byte, error) {
		t.Error("asked for a passphrase")
		return nil, identity.ErrNoPassphrase
	}
}

func says(s string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(s), nil }
}

// opens wraps a secret for recipient and unwraps it with ids.
func opens(t *testing.T, recipient string, ids []age.Identity) {
	t.Helper()
	r, _, err := identity.ParseRecipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	file, err := identity.Wrap(identity.EpochSecret, []byte("the secret"), r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.Unwrap(identity.EpochSecret, file, ids...)
	if err != nil || string(got) != "the secret" {
		t.Fatalf("unwrapped %q, %v", got, err)
	}
}

func TestFile(t *testing.T) {
	t.Run("is for its owner only and opens what is wrapped for it", func(t *testing.T) {
		for name, kind := range map[string]identity.Kind{"hybrid": identity.Hybrid, "X25519": identity.X25519} {
			t.Run(name, func(t *testing.T) {
				key := generate(t, kind)
				path := filepath.Join(t.TempDir(), "identity")
				if err := identity.WriteFile(path, key, identity.WriteOptions{Created: created}); err != nil {
					t.Fatal(err)
				}
				if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
					t.Errorf("mode %v", st.Mode())
				}
				if err := identity.WriteFile(path, generate(t, kind), identity.WriteOptions{}); !errors.Is(err, fs.ErrExist) {
					t.Errorf("a second write: %v", err)
				}
				f, err := identity.Load(path, never(t))
				if err != nil {
					t.Fatal(err)
				}
				if f.Protected || len(f.Recipients) != 1 || f.Recipients[0] != key.Recipient {
					t.Errorf("loaded %v, protected %v", f.Recipients, f.Protected)
				}
				opens(t, key.Recipient, f.Identities)
				if printed := fmt.Sprintf("%v %+v %#v %s", key, key, key, key); strings.Contains(printed, "SECRET") {
					t.Error("the secret is printed")
				}
			})
		}
	})

	t.Run("a protected file opens with its passphrase only", func(t *testing.T) {
		key := generate(t, identity.Hybrid)
		path := filepath.Join(t.TempDir(), "identity")
		if err := identity.WriteFile(path, key, identity.WriteOptions{Created: created, Passphrase: []byte("correct horse")}); err != nil {
			t.Fatal(err)
		}
		raw, _ := os.ReadFile(path)
		if bytes.Contains(raw, []byte("SECRET")) || !bytes.HasPrefix(raw, []byte("-----BEGIN AGE ENCRYPTED FILE-----")) {
			t.Errorf("the file starts with %.40q", raw)
		}
		if header, err := io.ReadAll(armor.NewReader(bytes.NewReader(raw))); err != nil || !regexp.MustCompile(`\n-> scrypt \S+ 18\n`).Match(header) {
			t.Errorf("guessing its passphrase is cheap: %.100q, %v", header, err)
		}
		f, err := identity.Load(path, says("correct horse"))
		if err != nil || !f.Protected {
			t.Fatal(f, err)
		}
		opens(t, key.Recipient, f.Identities)
		if _, err := identity.Load(path, says("wrong")); !errors.Is(err, identity.ErrWrongPassphrase) {
			t.Errorf("wrong passphrase: %v", err)
		}
		if _, err := identity.Load(path, says("")); !errors.Is(err, identity.ErrWrongPassphrase) {
			t.Errorf("empty passphrase: %v", err)
		}
		if _, err := identity.Load(path, nil); !errors.Is(err, identity.ErrNoPassphrase) {
			t.Errorf("no source: %v", err)
		}
	})

	t.Run("a protected file carries pins before its armour", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "identity")
		inside, first, second := identity.Pin{Repository: "file:///srv/a", Descriptor: [32]byte{1}, Owner: "aa"}, identity.Pin{Repository: "file:///srv/b", Descriptor: [32]byte{2}, Owner: "bb"}, identity.Pin{Repository: "file:///srv/b", Descriptor: [32]byte{3}, Owner: "cc"}
		key := generate(t, identity.X25519)
		if err := identity.WriteFile(path, key, identity.WriteOptions{Created: created, Pins: []identity.Pin{inside}, Passphrase: []byte("correct horse"), WorkFactor: 10}); err != nil {
			t.Fatal(err)
		}
		for _, p := range []identity.Pin{first, second, second} {
			if err := identity.AppendPin(path, p); err != nil {
				t.Fatal(err)
			}
		}
		if raw, _ := os.ReadFile(path); !bytes.HasSuffix(raw, []byte("-----END AGE ENCRYPTED FILE-----\n")) || !bytes.HasPrefix(raw, []byte("# repository: file:///srv/b\n")) {
			t.Errorf("the file is %s", raw)
		}
		f, err := identity.Load(path, says("correct horse"))
		if err != nil {
			t.Fatal(err)
		}
		if !f.Protected || !slices.Equal(f.Pins, []identity.Pin{first, second, inside}) {
			t.Errorf("protected %v, pins %+v", f.Protected, f.Pins)
		}
		opens(t, key.Recipient, f.Identities)
	})

	t.Run("pins are added once and read back", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "identity")
		first := identity.Pin{Repository: "file:///srv/a", Descriptor: [32]byte{1}, Owner: "aa"}
		second := identity.Pin{Repository: "s3://b/c?region=eu-1", Descriptor: [32]byte{2}, Owner: "bb"}
		if err := identity.WriteFile(path, generate(t, identity.X25519), identity.WriteOptions{Created: created, Pins: []identity.Pin{first}}); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o400); err != nil {
			t.Fatal(err)
		}
		for _, p := range []identity.Pin{first, second, second} {
			if err := identity.AppendPin(path, p); err != nil {
				t.Fatal(err)
			}
		}
		f, err := identity.Load(path, never(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Pins) != 2 || f.Pins[0] != first || f.Pins[1] != second {
			t.Errorf("pins %+v", f.Pins)
		}
		if st, _ := os.Stat(path); st.Mode().Perm() != 0o400 {
			t.Errorf("mode became %v", st.Mode())
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("left behind: %v", left)
		}
	})

	t.Run("what is no usable identity file is refused plainly", func(t *testing.T) {
		secret := "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQ"
		for name, c := range map[string]struct {
			content string
			mode    os.FileMode
			is      error
			want    string
		}{
			"readable by others":     {"# nothing\n" + secretKey(t), 0o640, nil, "chmod 600"},
			"empty":                  {"# a comment\n", 0o600, identity.ErrNoIdentity, ""},
			"a public key":           {"age1qqqq", 0o644, identity.ErrNoIdentity, "public key"},
			"a file of the system":   {"root:x:0:0:root:/root:/bin/sh\n", 0o644, identity.ErrNoIdentity, "line 1"},
			"a certificate":          {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644, identity.ErrNoIdentity, "line 1"},
			"a malformed secret":     {secret, 0o600, nil, "line 1"},
			"something else":         {"\nhello", 0o600, identity.ErrNoIdentity, "line 2"},
			"a broken SSH key":       {"-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n", 0o600, nil, "SSH private key"},
			"a broken plugin":        {"AGE-PLUGIN-X", 0o600, nil, "plugin identity"},
			"encrypted, cut short":   {"age-encryption.org/v1\n", 0o600, nil, "decrypt"},
			"longer than any may be": {strings.Repeat("#", 1<<20+1), 0o644, identity.ErrNoIdentity, "longer"},
		} {
			t.Run(name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "identity")
				if err := os.WriteFile(path, []byte(c.content), c.mode); err != nil {
					t.Fatal(err)
				}
				_, err := identity.Load(path, says("x"))
				if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
					t.Errorf("error %v", err)
				}
				if errors.Is(err, identity.ErrNoIdentity) && strings.Contains(err.Error(), "chmod") {
					t.Errorf("advice to change the mode of what is no identity: %v", err)
				}
				if err != nil && strings.Contains(err.Error(), "QQQQQQ") {
					t.Errorf("the error tells a secret: %v", err)
				}
			})
		}
		if _, err := identity.Load("/nonexistent/identity", nil); !errors.Is(err, identity.ErrNoIdentity) {
			t.Errorf("missing file: %v", err)
		}
	})

	t.Run("a file encrypted to a key is not taken for a wrong passphrase", func(t *testing.T) {
		r, _, _ := identity.ParseRecipient(generate(t, identity.X25519).Recipient)
		file, err := identity.Wrap("x", nil, r)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "identity")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Load(path, says("x")); err == nil || errors.Is(err, identity.ErrWrongPassphrase) || !strings.Contains(err.Error(), "encrypted to a key") {
			t.Errorf("error %v", err)
		}
	})
}

func TestRecipients(t *testing.T) {
	t.Run("SSH keys serve as identities and recipients", func(t *testing.T) {
		_, ed, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		for name, key := range map[string]any{"ed25519": ed, "rsa": rs} {
			for _, pass := range []string{"", "open sesame"} {
				t.Run(name+" passphrase "+pass, func(t *testing.T) {
					var block *pem.Block
					if pass == "" {
						block, err = ssh.MarshalPrivateKey(key, "me@here")
					} else {
						block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "me@here", []byte(pass))
					}
					if err != nil {
						t.Fatal(err)
					}
					path := filepath.Join(t.TempDir(), "id")
					if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
						t.Fatal(err)
					}
					f, err := identity.Load(path, says(pass))
					if err != nil {
						t.Fatal(err)
					}
					opens(t, f.Recipients[0]+" a comment", f.Identities)
					_, canonical, err := identity.ParseRecipient("  " + f.Recipients[0] + "  a comment ")
					if err != nil || canonical != f.Recipients[0] {
						t.Errorf("canonical %q, %v; want %q", canonical, err, f.Recipients[0])
					}
					if layout.RecipientFingerprint(canonical) != layout.RecipientFingerprint(f.Recipients[0]+" other") {
						t.Error("a comment makes another fingerprint")
					}
					if pass != "" {
						if _, err := identity.Load(path, says("wrong")); !errors.Is(err, identity.ErrWrongPassphrase) {
							t.Errorf("wrong passphrase: %v", err)
						}
					}
					if err := identity.AppendPin(path, identity.Pin{}); !errors.Is(err, identity.ErrFixed) {
						t.Errorf("pin added to an SSH key: %v", err)
					}
				})
			}
		}
	})

	t.Run("texts that are none are refused without printing secrets", func(t *testing.T) {
		for _, text := range []string{"", "age1", "age1pq1xxx", "age1yubikey1xxx", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAA", "hello", "github:me"} {
			if _, _, err := identity.ParseRecipient(text); err == nil {
				t.Errorf("%q is taken", text)
			}
		}
		_, _, err := identity.ParseRecipient("AGE-SECRET-KEY-1ABCDEF")
		if err == nil || strings.Contains(err.Error(), "ABCDEF") {
			t.Errorf("an identity as a recipient: %v", err)
		}
	})

	t.Run("unwrap checks label length and recipient", func(t *testing.T) {
		key := generate(t, identity.X25519)
		r, _, _ := identity.ParseRecipient(key.Recipient)
		file, err := identity.Wrap(identity.OwnerSecret, []byte("s"), r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Unwrap(identity.EpochSecret, file, key.Age); err == nil {
			t.Error("an owner secret passes for an epoch secret")
		}
		if _, err := identity.Unwrap(identity.OwnerSecret, file, generate(t, identity.Hybrid).Age); !errors.Is(err, identity.ErrNoMatch) {
			t.Errorf("a stranger: %v", err)
		}
		if _, err := identity.Unwrap(identity.OwnerSecret, file); !errors.Is(err, identity.ErrNoMatch) {
			t.Errorf("nobody: %v", err)
		}
		if _, err := identity.Unwrap(identity.OwnerSecret, make([]byte, identity.MaxWrapped+1), key.Age); err == nil {
			t.Error("an age file of any length is read")
		}
		file[len(file)-1] ^= 1
		if _, err := identity.Unwrap(identity.OwnerSecret, file, key.Age); err == nil || errors.Is(err, identity.ErrNoMatch) {
			t.Errorf("a damaged file: %v", err)
		}
		if _, err := identity.Wrap(identity.OwnerSecret, make([]byte, identity.MaxWrapped), r); err == nil {
			t.Error("more is wrapped than is read")
		}
	})
}

func TestPassphrase(t *testing.T) {
	t.Run("comes from a descriptor once and then from a credential", func(t *testing.T) {
		pr, pw, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(pw, "from a pipe\r\nmore\n")
		pw.Close()
		defer pr.Close()
		fd, err := unix.Dup(int(pr.Fd())) // Passphrase closes its own
		if err != nil {
			t.Fatal(err)
		}
		p := identity.NewPassphrase(fd)
		for range 2 {
			if b, err := p.Get("x"); err != nil || string(b) != "from a pipe" {
				t.Fatalf("%q, %v", b, err)
			}
		}
		dir := t.TempDir()
		t.Setenv("CREDENTIALS_DIRECTORY", dir)
		if err := os.WriteFile(filepath.Join(dir, "knowngood.passphrase"), []byte("from systemd\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := identity.NewPassphrase(-1).New("x"); err != nil || string(b) != "from systemd" {
			t.Fatalf("%q, %v", b, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "knowngood.passphrase"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.NewPassphrase(-1).Get("x"); !errors.Is(err, identity.ErrNoPassphrase) {
			t.Errorf("an empty credential: %v", err)
		}
		if _, err := identity.NewPassphrase(999).Get("x"); err == nil {
			t.Error("a closed descriptor gives a passphrase")
		}
	})
}

func TestPlugin(t *testing.T) {
	t.Run("a missing one is named", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		path := filepath.Join(t.TempDir(), "identity")
		// An identity of a plugin that nobody has.
		if err := os.WriteFile(path, []byte(plugin.EncodeIdentity("nobodyhasit", []byte("data"))+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := identity.Load(path, never(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Recipients) != 0 {
			t.Errorf("recipients %v", f.Recipients)
		}
		r, _, _ := identity.ParseRecipient(generate(t, identity.X25519).Recipient)
		file, _ := identity.Wrap("x", nil, r)
		if _, err := identity.Unwrap("x", file, f.Identities...); err == nil || !strings.Contains(err.Error(), "nobodyhasit") {
			t.Errorf("error %v", err)
		}
	})
}
