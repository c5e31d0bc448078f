package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"golang.org/x/sys/unix"

	"knowngood/internal/durable"
)

// maxFile is the longest identity file that is read, in bytes.
const maxFile = 1 << 20

// File is what an identity file holds.
type File struct {
	Path       string
	Identities []age.Identity
	Recipients []string // the public keys that can be derived from the identities
	Pins       []Pin
	Protected  bool     // by a passphrase
	Warnings   []string // for the user, about where the file lies
}

// WriteOptions qualify WriteFile.
type WriteOptions struct {
	Created    time.Time
	Pins       []Pin
	Passphrase []byte // protects the file when it is not empty
	WorkFactor int    // of the passphrase, the logarithm of scrypt's N; 0: that of age
}

// WriteFile writes a new identity file that only its owner can read. It
// fails with fs.ErrExist rather than replace a file.
func WriteFile(path string, key *Key, opts WriteOptions) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# created: %s\n# public key: %s\n", opts.Created.UTC().Format(time.RFC3339), key.Recipient)
	for _, p := range opts.Pins {
		b.WriteString(p.comments())
	}
	b.WriteString(key.secret + "\n")
	data := []byte(b.String())
	if len(opts.Passphrase) > 0 {
		var err error
		if data, err = protect(data, opts); err != nil {
			return fmt.Errorf("protect identity file %s: %w", path, err)
		}
	}
	if err := durable.Create(path, data, 0o600); errors.Is(err, unix.EPERM) {
		return fmt.Errorf("write identity file: %w; on a file system without modes (vfat, exfat, ntfs, cifs) no identity can be made: make it on a disk of this machine, then copy it there", err)
	} else if err != nil {
		return fmt.Errorf("write identity file: %w", err)
	}
	return nil
}

func protect(plain []byte, opts WriteOptions) ([]byte, error) {
	r, err := age.NewScryptRecipient(string(opts.Passphrase))
	if err != nil {
		return nil, err
	}
	if opts.WorkFactor > 0 {
		r.SetWorkFactor(opts.WorkFactor)
	}
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, r)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Load reads an identity file: native and plugin identities, one a line, or an
// SSH private key; all of it may be protected by a passphrase, for which
// passphrase is asked then and only then. What is missing or is no identity
// file is ErrNoIdentity. One that others on the machine can read is refused,
// unless its file system has no modes: then it has a warning.
func Load(path string, passphrase func() ([]byte, error)) (*File, error) {
	src, err := read(path)
	if err != nil {
		return nil, err
	}
	head, body := splitComments(src.data)
	f := &File{Path: path, Protected: isProtected(body), Pins: parsePins(head)}
	if src.warning != "" {
		f.Warnings = append(f.Warnings, src.warning)
	}

	// Nobody is asked for a passphrase in vain.
	if f.Protected {
		if err := onlyPassphrase(body); err != nil {
			return nil, fmt.Errorf("identity file %s: %w", path, err)
		}
	}
	if (f.Protected || isPrivateKey(body)) && src.exposed != nil {
		return nil, src.exposed
	}
	if f.Protected {
		if body, err = unprotect(body, passphrase); err != nil {
			return nil, fmt.Errorf("identity file %s: %w", path, err)
		}
	}
	if isPrivateKey(body) {
		id, recipient, err := parseSSH(body, passphrase)
		if err != nil {
			return nil, fmt.Errorf("identity file %s: %w", path, err)
		}
		f.Identities, f.Recipients = []age.Identity{id}, []string{recipient}
		return f, nil
	}

	native := body
	if !f.Protected {
		native, f.Pins = src.data, nil // from its first line, which errors count from
	}
	if err := f.parse(native); err != nil {
		return nil, err
	}
	// Only now is it known to be an identity, which must be kept from others.
	if src.exposed != nil {
		return nil, src.exposed
	}
	return f, nil
}

// parse reads native lines. Its errors never hold a line, which may be a secret.
func (f *File) parse(data []byte) error {
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, recipient, err := parseIdentity(line)
		if err != nil {
			return fmt.Errorf("identity file %s, line %d: %w", f.Path, i+1, err)
		}
		f.Identities = append(f.Identities, id)
		if recipient != "" {
			f.Recipients = append(f.Recipients, recipient)
		}
	}
	if len(f.Identities) == 0 {
		return fmt.Errorf("%w in file %s: it has comments alone", ErrNoIdentity, f.Path)
	}
	f.Pins = append(f.Pins, parsePins(data)...)
	return nil
}

func parseIdentity(line string) (age.Identity, string, error) {
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		id, err := age.ParseHybridIdentity(line)
		if err != nil {
			return nil, "", errors.New("malformed hybrid identity")
		}
		return id, id.Recipient().String(), nil
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		id, err := age.ParseX25519Identity(line)
		if err != nil {
			return nil, "", errors.New("malformed X25519 identity")
		}
		return id, id.Recipient().String(), nil
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		id, err := plugin.NewIdentity(line, terminalUI())
		if err != nil {
			return nil, "", errors.New("malformed plugin identity")
		}
		return id, "", nil
	case strings.HasPrefix(line, "age1"), strings.HasPrefix(line, "ssh-"):
		return nil, "", fmt.Errorf("%w: this is a public key; an identity file holds secret keys", ErrNoIdentity)
	}
	return nil, "", fmt.Errorf("%w: neither an age identity nor a comment", ErrNoIdentity)
}

// binaryHeader begins a protected file that is not armoured.
const binaryHeader = "age-encryption.org/"

func isArmoured(b []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(b), []byte(armor.Header)) }

func isProtected(b []byte) bool {
	return bytes.HasPrefix(b, []byte(binaryHeader)) || isArmoured(b)
}

// stranger is an identity that opens nothing.
type stranger struct{}

func (stranger) Unwrap([]*age.Stanza) ([]byte, error) { return nil, age.ErrIncorrectIdentity }

// onlyPassphrase refuses what no passphrase opens: files that are encrypted to
// a key, and what is no age file.
func onlyPassphrase(b []byte) error {
	_, err := age.Decrypt(ageReader(b), stranger{})
	no := (*age.NoIdentityMatchError)(nil)
	if !errors.As(err, &no) {
		return fmt.Errorf("decrypt: %w", err)
	}
	for _, t := range no.StanzaTypes {
		if t != "scrypt" {
			return fmt.Errorf("%w: it is encrypted to a key, not with a passphrase: decrypt it with age first", ErrNoIdentity)
		}
	}
	return nil
}

func ageReader(b []byte) io.Reader {
	if isArmoured(b) {
		return armor.NewReader(bytes.NewReader(b))
	}
	return bytes.NewReader(b)
}

func unprotect(b []byte, passphrase func() ([]byte, error)) ([]byte, error) {
	pass, err := ask(passphrase)
	if err != nil {
		return nil, err
	}
	id, err := age.NewScryptIdentity(string(pass))
	if err != nil {
		return nil, ErrWrongPassphrase // the one refusal is of an empty passphrase
	}
	r, err := age.Decrypt(ageReader(b), id)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil, ErrWrongPassphrase
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return plain, nil
}

func ask(passphrase func() ([]byte, error)) ([]byte, error) {
	if passphrase == nil {
		return nil, fmt.Errorf("it is protected: %w to open it", ErrNoPassphrase)
	}
	return passphrase()
}
