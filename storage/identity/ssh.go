package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// isPrivateKey reports whether a file begins as a private key in PEM does.
func isPrivateKey(b []byte) bool {
	first, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return bytes.HasPrefix(first, []byte("-----BEGIN ")) && bytes.HasSuffix(bytes.TrimSpace(first), []byte("PRIVATE KEY-----"))
}

// parseSSH reads an SSH private key, which may have a passphrase of its own.
func parseSSH(pem []byte, passphrase func() ([]byte, error)) (age.Identity, string, error) {
	key, err := ssh.ParseRawPrivateKey(pem)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		pass, perr := ask(passphrase)
		if perr != nil {
			return nil, "", perr
		}
		key, err = ssh.ParseRawPrivateKeyWithPassphrase(pem, pass)
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, "", ErrWrongPassphrase
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("SSH private key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, "", fmt.Errorf("SSH private key: %w", err)
	}
	recipient := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	switch k := key.(type) {
	case *ed25519.PrivateKey:
		id, err := agessh.NewEd25519Identity(*k)
		return id, recipient, err
	case ed25519.PrivateKey:
		id, err := agessh.NewEd25519Identity(k)
		return id, recipient, err
	case *rsa.PrivateKey:
		id, err := agessh.NewRSAIdentity(k)
		return id, recipient, err
	}
	return nil, "", fmt.Errorf("SSH keys of type %s cannot decrypt: use ssh-ed25519 or ssh-rsa", signer.PublicKey().Type())
}
