package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// MaxName is the longest name of a host or an environment, in bytes.
const MaxName = 63

// ValidName returns what is wrong with s as the name of a host or an
// environment, which match [a-z0-9][a-z0-9._-]{0,62}.
func ValidName(s string) error {
	const rule = "use 1 to 63 of a-z, 0-9, dot, underscore and dash, beginning with a letter or digit"
	if s == "" || len(s) > MaxName {
		return fmt.Errorf("name of %d bytes: %s", len(s), rule)
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("name %q: %s", s, rule)
		}
	}
	return nil
}

// RecipientFingerprint names an age recipient in object keys: the first 16
// bytes of SHA-256 of its text, in hexadecimal. Of an SSH key only type and
// key count, so that a comment does not make it another recipient.
func RecipientFingerprint(text string) string {
	text = strings.TrimSpace(text)
	if f := strings.Fields(text); strings.HasPrefix(text, "ssh-") && len(f) >= 2 {
		text = f[0] + " " + f[1]
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}
