package identity

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
	"filippo.io/age/tag"
)

// ParseRecipient reads a public key: age1…, age1pq1…, a plugin's age1name1…,
// or a line ssh-ed25519 … or ssh-rsa …. The text it returns is the same for
// every spelling of one key: SSH comments are left out.
func ParseRecipient(text string) (age.Recipient, string, error) {
	text = strings.TrimSpace(text)
	r, canonical, err := parseRecipient(text)
	if err != nil {
		if strings.HasPrefix(text, "AGE-") {
			// The text may be a secret: it must not be in an error.
			return nil, "", errors.New("this is an identity (a secret key), not a recipient: use its public key")
		}
		return nil, "", fmt.Errorf("recipient %q: %w", shorten(text), err)
	}
	return r, canonical, nil
}

func parseRecipient(text string) (age.Recipient, string, error) {
	switch {
	case strings.HasPrefix(text, "age1tag1"), strings.HasPrefix(text, "age1tagpq1"):
		r, err := tag.ParseRecipient(text)
		return r, text, err
	case strings.HasPrefix(text, "age1pq1"):
		r, err := age.ParseHybridRecipient(text)
		return r, text, mistyped(err)
	case strings.HasPrefix(text, "age1") && strings.Count(text, "1") > 1:
		r, err := plugin.NewRecipient(text, terminalUI())
		return r, text, err
	case strings.HasPrefix(text, "age1"):
		r, err := age.ParseX25519Recipient(text)
		return r, text, mistyped(err)
	case strings.HasPrefix(text, "ssh-"):
		fields := strings.Fields(text)
		if len(fields) < 2 {
			return nil, "", errors.New("no key after its type")
		}
		canonical := fields[0] + " " + fields[1]
		r, err := agessh.ParseRecipient(canonical)
		return r, canonical, err
	}
	return nil, "", errors.New("not a recipient: want age1…, age1pq1…, age1PLUGIN1…, ssh-ed25519 … or ssh-rsa …")
}

// mistyped replaces what the encoding of a key reports of its characters.
func mistyped(err error) error {
	if err == nil {
		return nil
	}
	return errors.New("a part of this public key is missing or mistyped: copy all of it again")
}

func shorten(s string) string {
	if len(s) <= 40 {
		return s
	}
	return s[:36] + "…"
}

// terminalUI lets a plugin talk with the person at the terminal. Without a
// terminal the plugin's questions fail, and standard error has the reason.
func terminalUI() *plugin.ClientUI {
	say := func(format string, v ...any) { fmt.Fprintf(os.Stderr, "knowngood: "+format+"\n", v...) }
	return plugin.NewTerminalUI(say, say)
}
