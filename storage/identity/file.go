package identity

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"

	"knowngood/internal/durable"
)

// maxFile is the longest identity file that is read, in bytes.
const maxFile = 1 << 20

// Pin is what an identity file remembers of a repository, so that a bare
// machine can tell the repository from a forgery.
type Pin struct {
	Repository string   // URL, without secrets
	Descriptor [32]byte // SHA-256 of the descriptor
	Owner      string   // fingerprint of the owner key, hexadecimal
}

func (p Pin) comments() string {
	return fmt.Sprintf("# repository: %s\n# pin: %x\n# owner: %s\n", oneLine(p.Repository), p.Descriptor, oneLine(p.Owner))
}

func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// File is what an identity file holds.
type File struct {
	Path       string
	Identities []age.Identity
	Recipients []string // the public keys that can be told from the identities
	Pins       []Pin
	Protected  bool // by a passphrase
}

// WriteOptions qualify WriteFile.
type WriteOptions struct {
	Created    time.Time
	Pins       []Pin
	Passphrase []byte // protects the file when it is not empty
}

// WriteFile writes a new identity file that its owner alone can read. It
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
		if data, err = protect(data, opts.Passphrase); err != nil {
			return fmt.Errorf("protect identity file %s: %w", path, err)
		}
	}
	if err := durable.Create(path, data, 0o600); err != nil {
		return fmt.Errorf("write identity file: %w", err)
	}
	return nil
}

func protect(plain, passphrase []byte) ([]byte, error) {
	r, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, err
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

// AppendPin adds the comments of a pin to an identity file, atomically and
// with its mode kept. A file that has the pin already is left alone; one that
// is protected, or is no native identity file, is ErrFixed.
func AppendPin(path string, pin Pin) error {
	data, mode, err := read(path)
	if err != nil {
		return err
	}
	if isProtected(data) {
		return fmt.Errorf("identity file %s: %w: it is protected by a passphrase; keep the pin beside it", path, ErrFixed)
	}
	if isPEM(data) {
		return fmt.Errorf("identity file %s: %w: it is an SSH key; keep the pin beside it", path, ErrFixed)
	}
	for _, p := range parsePins(data) {
		if p == pin {
			return nil
		}
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	if err := durable.Replace(path, append(data, pin.comments()...), mode); err != nil {
		return fmt.Errorf("add the pin to identity file: %w", err)
	}
	return nil
}

// Load reads an identity file: native and plugin identities, one a line, or an
// SSH private key; all of it may be protected by a passphrase, for which
// passphrase is asked then and only then. What is missing or holds no
// identity is ErrNoIdentity.
func Load(path string, passphrase func() ([]byte, error)) (*File, error) {
	data, _, err := read(path)
	if err != nil {
		return nil, err
	}
	f := &File{Path: path, Protected: isProtected(data)}
	if f.Protected {
		if data, err = unprotect(data, passphrase); err != nil {
			return nil, fmt.Errorf("identity file %s: %w", path, err)
		}
	}
	if isPEM(data) {
		id, recipient, err := parseSSH(data, passphrase)
		if err != nil {
			return nil, fmt.Errorf("identity file %s: %w", path, err)
		}
		f.Identities, f.Recipients = []age.Identity{id}, []string{recipient}
		return f, nil
	}
	if err := f.parse(data); err != nil {
		return nil, err
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
		return fmt.Errorf("%w in file %s", ErrNoIdentity, f.Path)
	}
	f.Pins = parsePins(data)
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
		return nil, "", errors.New("this is a public key; an identity file holds secret keys")
	}
	return nil, "", errors.New("neither an age identity nor a comment")
}

// parsePins reads the comments that Pin.comments writes. Groups that are
// incomplete or malformed are no pins.
func parsePins(data []byte) []Pin {
	var pins []Pin
	var p Pin
	pinned := false
	add := func() {
		if pinned {
			pins = append(pins, p)
		}
		p, pinned = Pin{}, false
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "#"), ":")
		if !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		switch value = strings.TrimSpace(value); strings.TrimSpace(name) {
		case "repository":
			add()
			p.Repository = value
		case "pin":
			if h, err := hex.DecodeString(value); err == nil && len(h) == 32 {
				p.Descriptor, pinned = [32]byte(h), true
			}
		case "owner":
			p.Owner = value
		}
	}
	add()
	return pins
}

// read reads an identity file and refuses one that others may read.
func read(path string) ([]byte, os.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, fmt.Errorf("%w: file %s does not exist", ErrNoIdentity, path)
		}
		return nil, 0, fmt.Errorf("identity file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("identity file: %w", err)
	}
	if st.IsDir() {
		return nil, 0, fmt.Errorf("%w: %s is a directory", ErrNoIdentity, path)
	}
	if mode := st.Mode().Perm(); st.Mode().IsRegular() && mode&0o077 != 0 {
		return nil, 0, fmt.Errorf("identity file %s can be read or written by others (mode %04o): run `chmod 600 %s`, and make a new identity if others may have read it", path, mode, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, 0, fmt.Errorf("identity file: %w", err)
	}
	if len(b) > maxFile {
		return nil, 0, fmt.Errorf("identity file %s is longer than %d bytes", path, maxFile)
	}
	return b, st.Mode().Perm(), nil
}

func isProtected(b []byte) bool {
	return bytes.HasPrefix(b, []byte("age-encryption.org/")) || bytes.HasPrefix(bytes.TrimSpace(b), []byte(armor.Header))
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
	var src io.Reader = bytes.NewReader(b)
	if !bytes.HasPrefix(b, []byte("age-encryption.org/")) {
		src = armor.NewReader(src)
	}
	r, err := age.Decrypt(src, id)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		for _, t := range no.StanzaTypes {
			if t != "scrypt" {
				return nil, errors.New("it is encrypted to a key, not with a passphrase: decrypt it with age first")
			}
		}
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
