package notify

import (
	"slices"
	"strings"
)

// hider takes secrets out of texts of others: servers like to repeat what they
// were sent.
type hider struct{ secrets []string }

// newHider hides secrets that are long enough to be ones.
func newHider(secrets ...string) hider {
	var h hider
	for _, s := range secrets {
		if len(s) >= 6 {
			h.secrets = append(h.secrets, s)
		}
	}
	// Those that hold others come first.
	slices.SortFunc(h.secrets, func(a, b string) int { return len(b) - len(a) })
	return h
}

func (h hider) text(s string) string {
	for _, secret := range h.secrets {
		s = strings.ReplaceAll(s, secret, "(hidden)")
	}
	return s
}
