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

// firstSecret is the key of a secret that is written in the text of a configuration
// itself, not in a variable; nil for none. Variables are not replaced yet.
func firstSecret(c *Config) keyPath {
	if e := c.Notify.Email; e != nil && inText(e.Password) {
		return keyPath{"notify", "email", "password"}
	}
	for i, w := range c.Notify.Webhook {
		key := keyPath{"notify", "webhook"}.item(i)
		if grantsAccess(w.URL) {
			return key.child("url")
		}
		for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
			if secretHeader.MatchString(name) && inText(w.Headers[name]) {
				return key.child("headers", name)
			}
		}
	}
	if grantsAccess(c.Notify.Ping) {
		return keyPath{"notify", "ping"}
	}
	for _, n := range c.EnvironmentNames() {
		if e := c.Environments[n]; e != nil && grantsAccess(e.Ping) {
			return keyPath{"environments", n, "ping"}
		}
	}
	return nil
}

// inText reports whether a value is written in the text itself, not in a variable.
func inText(value string) bool { return value != "" && !strings.Contains(value, "${") }

// grantsAccess reports whether an address is written in the text itself and everybody
// who knows it may post there: it has a path, parameters or a password.
func grantsAccess(address string) bool {
	u, err := url.Parse(address)
	return inText(address) && err == nil && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil)
}
