package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// MaxWrapped is the longest age file that holds a key, in bytes.
const MaxWrapped = 64 << 10

// Labels of what is wrapped (docs/FORMAT.md section 5).
const (
	EpochSecret = "knowngood v1 epoch secret"
	OwnerSecret = "knowngood v1 owner secret"
)

// Wrap encrypts the line label and secret to one recipient, as a binary age file.
func Wrap(label string, secret []byte, recipient age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipient)
	if err != nil {
		return nil, fmt.Errorf("wrap %s: %w", label, err)
	}
	if _, err := w.Write(append([]byte(label+"\n"), secret...)); err != nil {
		return nil, fmt.Errorf("wrap %s: %w", label, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("wrap %s: %w", label, err)
	}
	if out.Len() > MaxWrapped {
		return nil, fmt.Errorf("wrap %s: the age file takes %d bytes, the limit is %d", label, out.Len(), MaxWrapped)
	}
	return out.Bytes(), nil
}

// Unwrap decrypts what Wrap made and checks its label. ErrNoMatch means that
// the file is for others.
func Unwrap(label string, file []byte, identities ...age.Identity) ([]byte, error) {
	if len(file) > MaxWrapped {
		return nil, fmt.Errorf("unwrap %s: age file of %d bytes, the limit is %d", label, len(file), MaxWrapped)
	}
	if len(identities) == 0 {
		return nil, fmt.Errorf("unwrap %s: %w", label, ErrNoMatch)
	}
	r, err := age.Decrypt(bytes.NewReader(file), identities...)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil, fmt.Errorf("unwrap %s: %w", label, ErrNoMatch)
	}
	if err != nil {
		return nil, fmt.Errorf("unwrap %s: %w", label, err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("unwrap %s: %w", label, err)
	}
	secret, ok := bytes.CutPrefix(b, []byte(label+"\n"))
	if !ok {
		return nil, fmt.Errorf("unwrap: the age file holds something other than %s", label)
	}
	return secret, nil
}
