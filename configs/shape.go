package configs

import (
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// maxValues is how many values a file may have, aliases counted each time.
const maxValues = 1 << 18

// shape holds a file against the types of the configuration before it is
// decoded: so all that is wrong is told at once, in the words of the file and
// not of Go, and aliases cannot multiply without bound.
type shape struct {
	*problems
	values int
}

// value checks a node that is to become a t.
func (s *shape) value(n ast.Node, t reflect.Type, key keyPath) {
	if s.values++; s.values >= maxValues {
		if s.values == maxValues {
			s.wrong(n, key, "the file has more than %d values", maxValues)
		}
		return
	}
	at := n
	if n = s.doc.resolve(n); n == nil {
		s.wrong(at, key, "an alias (*) of something that is not there; text that begins with * must be quoted")
		return
	}
	switch t {
	case reflect.TypeFor[Duration]():
		parsed(s, n, key, ParseDuration)
		return
	case reflect.TypeFor[Size]():
		parsed(s, n, key, ParseSize)
		return
	case reflect.TypeFor[Rate]():
		parsed(s, n, key, ParseRate)
		return
	case reflect.TypeFor[Count]():
		_, scalar := n.(ast.ScalarNode)
		switch {
		case !scalar || n.Type() == ast.LiteralType:
			s.wrong(n, key, "want a whole number, this is %s", kind(n))
		case n.GetToken().Indicator == token.QuotedScalarIndicator:
			s.wrong(n, key, "want a whole number, this is text: write it without quotes")
		default:
			parsed(s, n, key, ParseCount)
		}
		return
	case reflect.TypeFor[Percent]():
		parsed(s, n, key, ParsePercent)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		s.value(n, t.Elem(), key)
	case reflect.Struct:
		s.fields(n, t, key)
	case reflect.Map:
		s.entries(n, t.Elem(), key)
	case reflect.Slice:
		s.list(n, t.Elem(), key)
	case reflect.String:
		if n.Type() != ast.StringType && n.Type() != ast.LiteralType {
			s.notText(n, key)
		}
	case reflect.Bool:
		if n.Type() != ast.BoolType {
			s.wrong(n, key, "want true or false, this is %s", kind(n))
		}
	}
}

// wrong adds a problem at the beginning of a node.
func (s *shape) wrong(n ast.Node, key keyPath, format string, args ...any) {
	line, column := 1, 1
	if t := beginning(n); t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	s.addAt(line, column, key, format, args...)
}

// notText refuses what is no text; of a scalar that YAML would change on the
// way, it says how to keep it.
func (s *shape) notText(n ast.Node, key keyPath) {
	switch n.Type() {
	case ast.IntegerType, ast.FloatType, ast.BoolType, ast.InfinityType, ast.NanType:
		s.wrong(n, key, "want text, this is %s: put it in quotes", kind(n))
	default:
		s.wrong(n, key, "want text, this is %s", kind(n))
	}
}

// parsed checks a scalar by its parser.
func parsed[T any](s *shape, n ast.Node, key keyPath, parse func(string) (T, error)) {
	if _, ok := n.(ast.ScalarNode); !ok {
		s.notText(n, key)
		return
	}
	if _, err := parse(scalar(n)); err != nil {
		s.wrong(n, key, "%v", err)
	}
}

// mapping gives the pairs of a mapping to yield, repeated keys refused.
func (s *shape) mapping(n ast.Node, key keyPath, yield func(name string, p *ast.MappingValueNode)) {
	if n.Type() != ast.MappingType && n.Type() != ast.MappingValueType {
		s.wrong(n, key, "want a mapping (key: value), this is %s", kind(n))
		return
	}
	seen := map[string]bool{}
	for _, p := range pairs(n) {
		name := p.Key.GetToken().Value
		switch {
		case p.Key.IsMergeKey():
			s.wrong(p.Key, key, "merge keys (<<) are not taken: write the keys out, or alias whole values")
			continue
		case p.Key.Type() != ast.StringType:
			s.wrong(p.Key, key, "a key must be text: put %s in quotes", printable(name))
			continue
		case seen[name]:
			s.wrong(p.Key, key, "%q is there already", name)
			continue
		}
		seen[name] = true
		yield(name, p)
	}
}

// fields checks a mapping with the keys of a struct; a key without a value is
// as one that is left out.
func (s *shape) fields(n ast.Node, t reflect.Type, key keyPath) {
	known := fieldTypes(t)
	s.mapping(n, key, func(name string, p *ast.MappingValueNode) {
		f, ok := known[name]
		switch {
		case !ok:
			s.wrong(p.Key, key, "unknown key %q%s", name, hint(name, t))
		case s.isNull(p.Value):
		default:
			s.value(p.Value, f, key.child(name))
		}
	})
}

// entries checks a mapping with names of the user's.
func (s *shape) entries(n ast.Node, t reflect.Type, key keyPath) {
	s.mapping(n, key, func(name string, p *ast.MappingValueNode) {
		if !s.isNull(p.Value) {
			s.value(p.Value, t, key.child(name))
		}
	})
}

func (s *shape) list(n ast.Node, t reflect.Type, key keyPath) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		s.wrong(n, key, "want a list ([a, b], or lines that begin with -), this is %s", kind(n))
		return
	}
	for i, v := range list.Values {
		if s.isNull(v) {
			s.wrong(v, key.item(i), "the entry is empty")
			continue
		}
		s.value(v, t, key.item(i))
	}
}

func (s *shape) isNull(n ast.Node) bool {
	n = s.doc.resolve(n)
	return n != nil && n.Type() == ast.NullType
}

// kind says what a node is, without its value: that may be a secret.
func kind(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.StringType, ast.LiteralType:
		return "text"
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		return "a number"
	case ast.BoolType:
		return "a truth value"
	case ast.NullType:
		return "nothing"
	}
	return "something else"
}

// fieldTypes are the keys of a struct.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	known := map[string]reflect.Type{}
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "-" {
			known[name] = t.Field(i).Type
		}
	}
	return known
}

// places are all keys that a configuration may have, each with the mappings
// that have it: "" the file itself, or such as environments.NAME.sources[].
func places() map[string][]string {
	found := map[string][]string{}
	var walk func(t reflect.Type, at string)
	walk = func(t reflect.Type, at string) {
		switch t.Kind() {
		case reflect.Pointer:
			walk(t.Elem(), at)
		case reflect.Map:
			walk(t.Elem(), strings.TrimPrefix(at+".NAME", "."))
		case reflect.Slice:
			walk(t.Elem(), at+"[]")
		case reflect.Struct:
			for name, f := range fieldTypes(t) {
				found[name] = append(found[name], at)
				walk(f, strings.TrimPrefix(at+"."+name, "."))
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
	for _, at := range found {
		slices.Sort(at)
	}
	return found
}
