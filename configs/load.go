package configs

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile is the longest configuration that is read, in bytes.
const maxFile = 4 << 20

// Problem is a mistake, with its place.
type Problem struct {
	File         string
	Line, Column int
	Key          string // such as environments.web.schedule
	Msg          string
}

func (p *Problem) Error() string {
	s := fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	if p.Key != "" {
		s += p.Key + ": "
	}
	return s + p.Msg
}

// Load reads and validates a configuration file. The error joins all
// *Problems found.
func Load(path string) (*Config, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if st.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("configuration %s can be changed by anyone on this machine, and it names commands to run: chmod o-w %s", path, path)
	}
	if st.Size() > maxFile {
		return nil, fmt.Errorf("configuration %s is %d bytes long: that is no configuration", path, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, b)
}

// Parse reads and validates the text of a configuration; file names it in
// errors.
func Parse(file string, text []byte) (*Config, error) {
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntaxProblem(file, err)
	}
	if len(tree.Docs) > 1 {
		p := &Problem{File: file, Line: 1, Column: 1, Msg: "there is more than one document in this file"}
		if body := tree.Docs[1].Body; body != nil {
			p.Line, p.Column = body.GetToken().Position.Line, body.GetToken().Position.Column
		}
		return nil, p
	}
	c := &Config{}
	if err := yaml.UnmarshalWithOptions(text, c, yaml.Strict()); err != nil {
		return nil, syntaxProblem(file, err)
	}
	v := &validator{file: file, tree: tree}
	v.expand(c)
	c.fill()
	v.config(c)
	return c, errors.Join(v.problems...)
}

// syntaxProblem turns an error of the decoder into a Problem.
func syntaxProblem(file string, err error) error {
	p := &Problem{Line: 1, Column: 1, Msg: err.Error()}
	if errors.As(err, &p) && p.File == "" {
		p.File = file
		return p
	}
	p.File = file
	var y yaml.Error
	if errors.As(err, &y) {
		p.Msg = y.GetMessage()
		if t := y.GetToken(); t != nil {
			p.Line, p.Column = t.Position.Line, t.Position.Column
		}
	}
	if m := unknownField.FindStringSubmatch(p.Msg); m != nil {
		p.Msg = fmt.Sprintf("unknown key %q", m[1])
		if near := nearest(m[1]); near != "" {
			p.Msg += fmt.Sprintf(": did you mean %q?", near)
		}
	}
	if src := strings.TrimSpace(yaml.FormatError(err, false, true)); strings.Contains(src, "\n") {
		p.Msg += src[strings.Index(src, "\n"):]
	}
	return p
}

var unknownField = regexp.MustCompile(`unknown field "(.*)"`)

// keys are all keys there are, to guess what was meant.
var keys = strings.Fields(`repository url lock mode keep host identity state_dir listen compression limits upload download environments
	schedule time_zone jitter catch_up rpo timeout sources path include exclude exclude_caches exclude_if_present one_file_system max_file_size
	command as restore hooks before after on_failure last hourly daily weekly monthly yearly within known_good root drill max_duration probes
	http tcp notify webhook headers email from to server user password ping`)

// nearest is the key that differs least from s, if it differs little.
func nearest(s string) string {
	best, least := "", 3
	for _, k := range keys {
		if d := distance(s, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of edits between two strings (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// expand replaces ${NAME} where that is documented.
func (v *validator) expand(c *Config) {
	one := func(s *string, key ...any) {
		*s = variable.ReplaceAllStringFunc(*s, func(m string) string {
			name := m[2 : len(m)-1]
			value, ok := os.LookupEnv(name)
			if !ok {
				v.add("the environment variable "+name+" is not set", key...)
			}
			return value
		})
	}
	one(&c.Repository.URL, "repository", "url")
	one(&c.Identity, "identity")
	one(&c.StateDir, "state_dir")
	one(&c.Notify.Ping, "notify", "ping")
	for i := range c.Notify.Webhook {
		w := &c.Notify.Webhook[i]
		one(&w.URL, "notify", "webhook", i, "url")
		for k, h := range w.Headers {
			one(&h, "notify", "webhook", i, "headers", k)
			w.Headers[k] = h
		}
	}
	if e := c.Notify.Email; e != nil {
		one(&e.User, "notify", "email", "user")
		one(&e.Password, "notify", "email", "password")
	}
}

var variable = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}`)

// position of a key in the file; the nearest one above that is there.
func (v *validator) position(key []any) (line, column int) {
	for n := len(key); n >= 0; n-- {
		b := (&yaml.PathBuilder{}).Root()
		for _, k := range key[:n] {
			switch k := k.(type) {
			case string:
				b = b.Child(k)
			case int:
				b = b.Index(uint(k))
			}
		}
		if v.tree == nil {
			break
		}
		if node, err := b.Build().FilterFile(v.tree); err == nil && node != nil {
			if t := node.GetToken(); t != nil {
				if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
					t = m.Values[0].Key.GetToken()
				}
				return t.Position.Line, t.Position.Column
			}
		}
	}
	return 1, 1
}

func (v *validator) add(msg string, key ...any) {
	line, column := v.position(key)
	parts := make([]string, len(key))
	for i, k := range key {
		parts[i] = fmt.Sprint(k)
	}
	v.problems = append(v.problems, &Problem{File: v.file, Line: line, Column: column, Key: strings.Join(parts, "."), Msg: msg})
}

func (v *validator) addf(key []any, format string, args ...any) {
	v.add(fmt.Sprintf(format, args...), key...)
}

// under appends to a key without sharing memory.
func under(key []any, more ...any) []any { return append(slices.Clone(key), more...) }

// YAML is the configuration in force, secrets left out.
func (c *Config) YAML() ([]byte, error) {
	shown := *c
	const hidden = "(hidden)"
	if e := c.Notify.Email; e != nil && e.Password != "" {
		copied := *e
		copied.Password = hidden
		shown.Notify.Email = &copied
	}
	shown.Notify.Webhook = slices.Clone(c.Notify.Webhook)
	for i := range shown.Notify.Webhook {
		w := &shown.Notify.Webhook[i]
		if w.URL != "" {
			w.URL = hidden // webhook addresses are capabilities
		}
		headers := map[string]string{}
		for k := range w.Headers {
			headers[k] = hidden
		}
		w.Headers = headers
	}
	if shown.Notify.Ping != "" {
		shown.Notify.Ping = hidden
	}
	return yaml.Marshal(&shown)
}
