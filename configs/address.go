package configs

import (
	"encoding/json"
	"net/mail"
	"net/url"
	"regexp"
	"strings"
	"text/template"
)

// isHTTP reports whether an address is an HTTP URL.
func isHTTP(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && (u.Port() == "" || isPort(u.Port()))
}

const notHTTP = "not an http URL, such as https://host/path"

// notify checks addresses without repeating them: they are secrets.
func (v *validator) notify(n *Notify) {
	key := keyPath{"notify"}
	for i, w := range n.Webhook {
		if !isHTTP(w.URL) {
			v.addf(key.child("webhook").item(i).child("url"), "%s", notHTTP)
		}
		if _, err := BodyTemplate(w.Template); err != nil {
			v.addf(key.child("webhook").item(i).child("template"), "%s", TemplateError(err))
		}
	}
	if n.Email != nil {
		v.email(n.Email, key.child("email"))
	}
	if n.Command != nil {
		v.command(n.Command, key.child("command"))
	}
	v.ping(n.Ping, key.child("ping"))
}

func (v *validator) ping(address string, key keyPath) {
	if address != "" && !isHTTP(address) {
		v.addf(key, "%s", notHTTP)
	}
}

func (v *validator) email(e *Email, key keyPath) {
	if e.From == "" || len(e.To) == 0 {
		v.addf(key, "mail needs from and to")
	}
	if e.From != "" && !isMail(e.From) {
		v.addf(key.child("from"), "not a mail address, such as knowngood@example.com")
	}
	for i, to := range e.To {
		if !isMail(to) {
			v.addf(key.child("to").item(i), "not a mail address, such as ops@example.com")
		}
	}
	if !isHostPort(e.Server) {
		v.addf(key.child("server"), "not host:port, such as mail.example.com:587")
	}
	if e.Password != "" && e.User == "" {
		v.addf(key.child("password"), "a password needs a user")
	}
	if e.PasswordFile != "" {
		v.absolute(e.PasswordFile, key.child("password_file"))
		if e.Password != "" || e.User == "" {
			v.addf(key.child("password_file"), "a file with the password goes with a user, and in place of password")
		}
	}
	switch e.TLS {
	case "", "starttls", "tls", "none":
	default:
		v.addf(key.child("tls"), "%q is none of starttls, tls, none", e.TLS)
	}
	if e.TLS == "none" && e.User != "" {
		v.addf(key.child("tls"), "a password does not go over a connection that anybody can read: use starttls or tls")
	}
}

// BodyTemplate reads the template of a webhook's body. It is given a message
// (see docs/OPERATIONS.md) and has json, which writes a value as JSON.
func BodyTemplate(text string) (*template.Template, error) {
	return template.New("template").Option("missingkey=error").Funcs(template.FuncMap{"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	}}).Parse(text)
}

// templateParts match the errors of text/template.
var templateParts = regexp.MustCompile(`(?s)^template: template:(\d+):(?:\d+:)? (?:executing "template" at <(.*?)>: )?(.*)$`)

// missingField is a field that a message does not have, or the Run that it lacks.
var missingField = regexp.MustCompile(`can't evaluate field (\S+) in type .*|nil pointer evaluating .*`)

// TemplateError is the error of a body template without the names of our Go types.
func TemplateError(err error) string {
	parts := templateParts.FindStringSubmatch(err.Error())
	if parts == nil {
		return err.Error()
	}
	text := parts[3]
	if found := missingField.FindStringSubmatch(text); found != nil && found[1] != "" {
		text = "there is no field " + found[1]
	} else if found != nil {
		text = "the message has none"
	}
	if parts[2] != "" {
		text = parts[2] + ": " + text
	}
	return "line " + parts[1] + ": " + strings.TrimPrefix(text, "error calling ")
}

func isMail(s string) bool {
	_, err := mail.ParseAddress(s)
	return err == nil
}
