package configs

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// secretHeader matches the names of headers whose values let somebody in.
var secretHeader = regexp.MustCompile(`(?i)auth|token|key|secret|passw|cookie`)

// firstSecret is the key of a secret that stands in the text of a configuration
// itself, not in a variable; nil for none. Variables are not replaced yet.
func firstSecret(c *Config) keyPath {
	if e := c.Notify.Email; e != nil && stands(e.Password) {
		return keyPath{"notify", "email", "password"}
	}
	for i, w := range c.Notify.Webhook {
		key := keyPath{"notify", "webhook"}.item(i)
		if opens(w.URL) {
			return key.child("url")
		}
		for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
			if secretHeader.MatchString(name) && stands(w.Headers[name]) {
				return key.child("headers", name)
			}
		}
	}
	if opens(c.Notify.Ping) {
		return keyPath{"notify", "ping"}
	}
	for _, n := range c.EnvironmentNames() {
		if e := c.Environments[n]; e != nil && opens(e.Ping) {
			return keyPath{"environments", n, "ping"}
		}
	}
	return nil
}

// stands reports whether a value stands in the text itself.
func stands(value string) bool { return value != "" && !strings.Contains(value, "${") }

// opens reports whether an address stands in the text itself with what whoever
// knows it may post to: a path, parameters or a password.
func opens(address string) bool {
	u, err := url.Parse(address)
	return stands(address) && err == nil && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil)
}
