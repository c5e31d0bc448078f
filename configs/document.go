package configs

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"knowngood/internal/printable"
)

const (
	maxNesting = 32  // brackets, or entries begun on one line; the parser's time is the square of it
	maxAliases = 16  // aliases of aliases
	maxMessage = 500 // bytes of a message
	maxQuoted  = 160 // bytes of a line
)

// document is the text of a configuration, parsed.
type document struct {
	file    string
	lines   []string
	body    ast.Node // nil when the file is empty
	anchors map[string]ast.Node
}

// parse reads the syntax of a text.
func parse(file string, text []byte) (*document, error) {
	plain := strings.TrimPrefix(string(text), "\ufeff")
	d := &document{file: file, lines: strings.Split(plain, "\n"), anchors: map[string]ast.Node{}}
	if !utf8.ValidString(plain) {
		for i, l := range d.lines {
			if !utf8.ValidString(l) {
				return nil, d.problem(i+1, 1, "the text is not UTF-8")
			}
		}
	}
	var tree *ast.File
	err := contained(func() (err error) {
		tokens := lexer.Tokenize(plain)
		if t, why := refusedToken(tokens); t != nil {
			return d.problem(t.Position.Line, t.Position.Column, why)
		}
		tree, err = parser.Parse(tokens, 0)
		return err
	})
	if err != nil {
		return nil, d.syntax(err)
	}
	if len(tree.Docs) > 1 {
		line, column := 1, 1
		if start := tree.Docs[1].Start; start != nil {
			line, column = start.Position.Line, start.Position.Column
		}
		return nil, d.problem(line, column, "there is more than one document in this file")
	}
	if len(tree.Docs) == 0 || tree.Docs[0].Body == nil || tree.Docs[0].Body.Type() == ast.CommentType {
		return d, nil
	}
	d.body = tree.Docs[0].Body
	for _, n := range ast.Filter(ast.AnchorType, d.body) {
		a, ok := n.(*ast.AnchorNode)
		if !ok || a.Name == nil {
			continue
		}
		name := a.Name.GetToken()
		if d.anchors[name.Value] != nil {
			return nil, d.problem(name.Position.Line, name.Position.Column, fmt.Sprintf("the anchor %q is there already", name.Value))
		}
		d.anchors[name.Value] = a.Value
	}
	return d, nil
}

// refusedToken is the first token that no configuration needs and the parser
// does badly with, and why; or nil.
func refusedToken(tokens token.Tokens) (*token.Token, string) {
	depth, line, entries := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, entries = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType:
			entries++
		case token.TagType:
			return t, "tags (!) are not taken; text that begins with ! must be quoted"
		}
		if depth > maxNesting || entries > maxNesting {
			return t, fmt.Sprintf("more than %d levels of nesting", maxNesting)
		}
	}
	return nil, ""
}

// contained runs a part of the YAML library, which has panicked on odd texts:
// a configuration that is reloaded must not end the daemon.
func contained(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the YAML of this file is too odd to be read: %v", r)
		}
	}()
	return f()
}

// syntax turns an error of the parser or the decoder into a Problem.
func (d *document) syntax(err error) error {
	if p := (*Problem)(nil); errors.As(err, &p) {
		return p
	}
	var y yaml.Error
	if !errors.As(err, &y) {
		return d.problem(1, 1, err.Error())
	}
	line, column := 1, 1
	if t := y.GetToken(); t != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	if line <= len(d.lines) {
		text := d.lines[line-1]
		if tab := strings.IndexByte(text, '\t'); tab >= 0 && strings.TrimLeft(text[:tab], " ") == "" {
			return d.problem(line, tab+1, "a tab: indent with spaces")
		}
	}
	return d.problem(line, column, printable.Columns(y.GetMessage())) // its Error prints lines around, secrets among them
}

// problem is a mistake in the syntax.
func (d *document) problem(line, column int, msg string) error {
	p := &Problem{Line: line, Column: column, Msg: shortened(msg, maxMessage)}
	d.locate(p)
	return p
}

// locate adds to a problem the file and line that it is about.
func (d *document) locate(p *Problem) {
	p.File = d.file
	p.Quote = d.quote(p.Line, p.Column)
}

// resolve follows anchors and aliases to the node that they refer to;
// nil for an alias of nothing or of itself.
func (d *document) resolve(n ast.Node) ast.Node {
	for range maxAliases {
		switch t := n.(type) {
		case *ast.AnchorNode:
			n = t.Value
		case *ast.AliasNode:
			if t.Value == nil {
				return nil
			}
			n = d.anchors[t.Value.GetToken().Value]
		default:
			return n
		}
	}
	return nil
}

// pairs are the keys and values of a mapping.
func pairs(n ast.Node) []*ast.MappingValueNode {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}
	}
	return nil
}

// find is the value that a key names, or what is nearest above it, and where
// it begins. The value is nil when the file does not have it.
func (d *document) find(key keyPath) (ast.Node, *token.Token) {
	node := d.resolve(d.body)
	at := beginning(node)
	for _, k := range key {
		var value ast.Node
		var begins *token.Token
		if list, ok := node.(*ast.SequenceNode); ok {
			if i, err := strconv.Atoi(k); err == nil && i < len(list.Values) {
				value = list.Values[i]
			}
		}
		for _, p := range pairs(node) {
			if t := p.Key.GetToken(); t != nil && t.Value == k {
				value, begins = p.Value, t
			}
		}
		if value == nil {
			return nil, at
		}
		node = d.resolve(value)
		if t := beginning(node); t != nil && node.Type() != ast.NullType {
			begins = t
		}
		if begins != nil {
			at = begins
		}
	}
	return node, at
}

// beginning is the first token of a node; of a mapping, its first key.
func beginning(n ast.Node) *token.Token {
	if n == nil {
		return nil
	}
	if p := pairs(n); len(p) > 0 {
		return p[0].Key.GetToken()
	}
	return n.GetToken()
}

// has reports whether the file gives a value.
func (d *document) has(key keyPath) bool {
	n, _ := d.find(key)
	return n != nil && n.Type() != ast.NullType
}

// position of the value that a key names, or of what is nearest above it.
func (d *document) position(key keyPath) (line, column int) {
	if _, t := d.find(key); t != nil && t.Position != nil {
		return t.Position.Line, t.Position.Column
	}
	return 1, 1
}

// keyPosition is where a key itself is, or what is nearest above it.
func (d *document) keyPosition(key keyPath) (line, column int) {
	last := len(key) - 1
	above, _ := d.find(key[:last])
	for _, p := range pairs(above) {
		if t := p.Key.GetToken(); t != nil && t.Value == key[last] {
			return t.Position.Line, t.Position.Column
		}
	}
	return d.position(key)
}

// quote is a line of the file with a mark under a column, or nothing for a
// line that may hold a secret.
func (d *document) quote(line, column int) string {
	if line < 1 || line > len(d.lines) || d.secret(line) {
		return ""
	}
	text := strings.TrimRight(d.lines[line-1], "\r")
	runes := []rune(text)
	before := string(runes[:min(max(column-1, 0), len(runes))])
	if hidden := redactURL(text); hidden != text {
		text, before = hidden, "" // the column is no longer true
	}
	if text = strings.TrimSpace(text); text == "" {
		return ""
	}
	lead := fmt.Sprintf("%5d | ", line)
	quoted := lead + printable.Columns(shortened(text, maxQuoted))
	before = strings.TrimLeft(before, " \t\u00a0")
	if before == "" || len(before) > maxQuoted {
		return quoted
	}
	return quoted + "\n" + strings.Repeat(" ", len(lead)-2) + "| " + strings.Repeat(" ", utf8.RuneCountInString(before)) + "^"
}

var topKey = regexp.MustCompile(`^["']?([^\s"':#{}\[\]]+)`)

var anyKey = regexp.MustCompile(`([A-Za-z_]+)["']?\s*:`)

// webAddress is a value, be its key mistaken: those that a configuration has
// are of hooks and monitors. The endpoint in a repository's URL is none.
var webAddress = regexp.MustCompile(`(?i)(^|[\s"'\[{,:])https?://`)

// secret reports whether a line may belong to notify or be a ping, where secrets
// lie. It searches the text, because the file may not parse: by
// the line above that begins in the first column, by the keys of the line and
// the one before, and by what values look like.
func (d *document) secret(line int) bool {
	for _, l := range d.lines[max(line-2, 0):line] {
		if webAddress.MatchString(l) {
			return true
		}
		for _, m := range anyKey.FindAllStringSubmatch(l, -1) {
			if distance(m[1], "ping") <= 1 {
				return true
			}
		}
	}
	for i := line - 1; i >= 0; i-- {
		l := strings.TrimRight(d.lines[i], "\r")
		if l == "" || strings.ContainsRune(" \t#", rune(l[0])) {
			continue
		}
		m := topKey.FindStringSubmatch(l)
		if m == nil {
			return true // the whole file is one {...}
		}
		return distance(m[1], "notify") <= maxTypos || strings.Contains(l, "notify")
	}
	return false
}

// shortened is s, cut at a rune to about n bytes.
func shortened(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
