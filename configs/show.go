package configs

import (
	"maps"
	"net/url"
	"slices"

	"github.com/goccy/go-yaml"
)

// hidden replaces a secret.
const hidden = "(hidden)"

// YAML is the configuration in force, defaults filled in and secrets left
// out. Of a valid configuration it is valid itself.
func (c *Config) YAML() ([]byte, error) {
	shown := *c
	if u, err := url.Parse(c.Repository.URL); err == nil && u.User == nil {
		shown.Repository.URL = redactParameters(c.Repository.URL)
	} else {
		shown.Repository.URL = redactURL(c.Repository.URL)
	}
	if e := c.Notify.Email; e != nil && e.Password != "" {
		copied := *e
		copied.Password = hidden
		shown.Notify.Email = &copied
	}
	shown.Notify.Webhook = slices.Clone(c.Notify.Webhook)
	for i := range shown.Notify.Webhook {
		w := &shown.Notify.Webhook[i]
		w.URL = hostOnly(w.URL)
		w.Headers = maps.Clone(w.Headers)
		for name := range w.Headers {
			w.Headers[name] = hidden
		}
	}
	if shown.Notify.Ping != "" {
		shown.Notify.Ping = hostOnly(shown.Notify.Ping)
	}
	shown.Environments = maps.Clone(c.Environments)
	for name, e := range c.Environments {
		if e != nil && e.Ping != "" {
			copied := *e
			copied.Ping = hostOnly(e.Ping)
			shown.Environments[name] = &copied
		}
	}
	return yaml.Marshal(&shown)
}

// hostOnly hides the path of an address, because everybody who knows it may post there.
func hostOnly(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return hidden
	}
	return u.Scheme + "://" + u.Host + "/" + hidden
}
