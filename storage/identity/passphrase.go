package identity

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/term"

	"knowngood/internal/printable"
)

// credential is the name under which systemd hands a passphrase to a service.
const credential = "knowngood.passphrase"

// maxPassphrase bounds what is read as a passphrase, in bytes.
const maxPassphrase = 4096

// Passphrase gets a passphrase from the first source there is: the file
// descriptor that was named, the systemd credential knowngood.passphrase, the
// terminal. What a descriptor gave is kept, because it can be read only once.
type Passphrase struct {
	fd   int
	once sync.Once
	read []byte
	err  error
}

// NewPassphrase names a file descriptor to read from; negative for none.
func NewPassphrase(fd int) *Passphrase { return &Passphrase{fd: fd} }

// Get returns the passphrase of what.
func (p *Passphrase) Get(what string) ([]byte, error) { return p.get(what, false) }

// New returns a new passphrase for what; at a terminal it asks twice.
func (p *Passphrase) New(what string) ([]byte, error) { return p.get(what, true) }

func (p *Passphrase) get(what string, twice bool) ([]byte, error) {
	if p.fd >= 0 {
		p.once.Do(func() { p.read, p.err = fromDescriptor(p.fd) })
		return bytes.Clone(p.read), p.err
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		b, err := os.ReadFile(filepath.Join(dir, credential))
		if err == nil {
			return line(b, "credential "+credential)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("credential %s: %w", credential, err)
		}
	}
	return fromTerminal(what, twice)
}

func fromDescriptor(fd int) ([]byte, error) {
	f := os.NewFile(uintptr(fd), "passphrase")
	if f == nil {
		return nil, fmt.Errorf("passphrase: %d is no file descriptor", fd)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassphrase+1))
	if err != nil {
		return nil, fmt.Errorf("passphrase from file descriptor %d: %w", fd, err)
	}
	return line(b, fmt.Sprintf("file descriptor %d", fd))
}

// line is the first line of b.
func line(b []byte, source string) ([]byte, error) {
	b, _, _ = bytes.Cut(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\r"))
	if len(b) == 0 || len(b) > maxPassphrase {
		return nil, fmt.Errorf("%w: %s gave %d bytes, want 1 to %d", ErrNoPassphrase, source, len(b), maxPassphrase)
	}
	return b, nil
}

func fromTerminal(what string, twice bool) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w for %s: there is no terminal to ask at; use --passphrase-fd, or the systemd credential %s", ErrNoPassphrase, what, credential)
	}
	defer tty.Close()
	first, err := prompt(tty, "Passphrase of "+what+": ")
	if err != nil || !twice {
		return first, err
	}
	second, err := prompt(tty, "The same again: ")
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(first, second) != 1 {
		return nil, errors.New("the two passphrases differ")
	}
	return first, nil
}

func prompt(tty *os.File, text string) ([]byte, error) {
	fmt.Fprint(tty, printable.Line(text))
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	return line(b, "the terminal")
}
