package configs

import (
	"maps"
	"os"
	"regexp"
	"slices"
)

var variable = regexp.MustCompile(`\$\{[^}]*\}?`)
var variableName = regexp.MustCompile(`^\$\{[A-Za-z_][A-Za-z0-9_]*\}$`)

// expand replaces ${NAME} as the package comment describes. What a variable
// holds is not expanded again.
func expand(c *Config, p *problems) {
	one := func(s *string, key ...string) {
		*s = variable.ReplaceAllStringFunc(*s, func(m string) string {
			if !variableName.MatchString(m) {
				p.addf(key, "a variable is written ${NAME}, with letters, digits and _")
				return m
			}
			name := m[2 : len(m)-1]
			value, ok := os.LookupEnv(name)
			if !ok {
				if problem := p.add(Invalid, key, "the environment variable %s is not set", name); problem != nil {
					problem.Unset = name
				}
			}
			return value
		})
	}
	one(&c.Repository.URL, "repository", "url")
	one(&c.Identity, "identity")
	one(&c.StateDir, "state_dir")
	one(&c.Notify.Ping, "notify", "ping")
	for _, n := range c.EnvironmentNames() {
		if e := c.Environments[n]; e != nil && e.Ping != "" {
			copied := *e // an alias may share it
			c.Environments[n] = &copied
			one(&copied.Ping, "environments", n, "ping")
		}
	}
	for i := range c.Notify.Webhook {
		w, at := &c.Notify.Webhook[i], keyPath{"notify", "webhook"}.item(i)
		one(&w.URL, at.child("url")...)
		w.Headers = maps.Clone(w.Headers) // an alias may share it
		for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
			h := w.Headers[name]
			one(&h, at.child("headers", name)...)
			w.Headers[name] = h
		}
	}
	if e := c.Notify.Email; e != nil {
		one(&e.From, "notify", "email", "from")
		e.To = slices.Clone(e.To)
		for i := range e.To {
			one(&e.To[i], keyPath{"notify", "email", "to"}.item(i)...)
		}
		one(&e.Server, "notify", "email", "server")
		one(&e.User, "notify", "email", "user")
		one(&e.Password, "notify", "email", "password")
		one(&e.PasswordFile, "notify", "email", "password_file")
	}
}

var (
	urlUser   = regexp.MustCompile(`//[^\s"']*@`)
	urlSecret = regexp.MustCompile(`(?i)([?&][a-z_-]*(?:key|secret|token|passw)[a-z_-]*=)[^&\s"']*`)
)

// redactURL hides credentials in URLs in a text, where they should
// not: user information, and parameters named like secrets.
func redactURL(text string) string {
	return redactParameters(urlUser.ReplaceAllString(text, "//"+hidden+"@"))
}

// redactParameters does so for URLs that have no user information.
func redactParameters(text string) string {
	return urlSecret.ReplaceAllString(text, "${1}"+hidden)
}
