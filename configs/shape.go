package configs

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"knowngood/internal/printable"
)

// maxValues is how many values a file may have, aliases counted each time.
const maxValues = 1 << 18

// shape compares a file with the types of the configuration before it is
// decoded: so all that is wrong is reported at once, in the words of the file and
// not of Go, and aliases cannot multiply without bound.
type shape struct {
	*problems
	values int
	undo   []func() // leave out of the document what cannot be decoded
}

// leaveOut takes what was found wrong out of the document, so that the rest can
// be decoded and judged.
func (s *shape) leaveOut() {
	for _, f := range s.undo {
		f()
	}
}

// without leaves a value out, and notes that what has it lacks it.
func (s *shape) without(key keyPath, leaveOut func()) {
	s.mistaken, s.undo = append(s.mistaken, key), append(s.undo, leaveOut)
	s.lacks(key[:len(key)-1])
}

// lacks notes that a mapping or a list is not what was meant.
func (s *shape) lacks(key keyPath) { s.incomplete = append(s.incomplete, key) }

// value checks a node that is to become a t. It reports whether the node can:
// what is wrong below it is left out there.
func (s *shape) value(n ast.Node, t reflect.Type, key keyPath) (usable bool) {
	if s.values++; s.values >= maxValues {
		if s.values == maxValues {
			s.wrong(n, key, "the file has more than %d values", maxValues)
		}
		return false
	}
	at := n
	if n = s.doc.resolve(n); n == nil {
		return s.wrong(at, key, "an alias (*) of something that is not there; text that begins with * must be quoted")
	}
	switch t {
	case reflect.TypeFor[Duration]():
		return parsed(s, n, key, ParseDuration)
	case reflect.TypeFor[Size]():
		return parsed(s, n, key, ParseSize)
	case reflect.TypeFor[Rate]():
		return parsed(s, n, key, ParseRate)
	case reflect.TypeFor[Count]():
		_, scalar := n.(ast.ScalarNode)
		switch {
		case !scalar || n.Type() == ast.LiteralType:
			return s.wrong(n, key, "want a whole number, this is %s", kind(n))
		case n.GetToken().Indicator == token.QuotedScalarIndicator:
			return s.wrong(n, key, "want a whole number, this is text: write it without quotes")
		}
		return parsed(s, n, key, ParseCount)
	case reflect.TypeFor[Percent]():
		return parsed(s, n, key, ParsePercent)
	case reflect.TypeFor[Number]():
		return parsed(s, n, key, ParseNumber)
	case reflect.TypeFor[Value]():
		return parsed(s, n, key, func(text string) (Value, error) { return Value(text), nil })
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.value(n, t.Elem(), key)
	case reflect.Struct:
		return s.fields(n, t, key)
	case reflect.Map:
		return s.entries(n, t.Elem(), key)
	case reflect.Slice:
		return s.list(n, t.Elem(), key)
	case reflect.String:
		if n.Type() != ast.StringType && n.Type() != ast.LiteralType {
			return s.notText(n, key)
		}
	case reflect.Bool:
		if n.Type() != ast.BoolType {
			return s.wrong(n, key, "want true or false, this is %s", kind(n))
		}
	}
	return true
}

// wrong adds a problem at the beginning of a node, which is not usable then.
func (s *shape) wrong(n ast.Node, key keyPath, format string, args ...any) (usable bool) {
	line, column := 1, 1
	if t := beginning(n); t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	s.addAt(line, column, key, format, args...)
	return false
}

// notText refuses what is no text; of a scalar that YAML would change on the
// way, it explains how to keep it.
func (s *shape) notText(n ast.Node, key keyPath) (usable bool) {
	switch n.Type() {
	case ast.IntegerType, ast.FloatType, ast.BoolType, ast.InfinityType, ast.NanType:
		return s.wrong(n, key, "want text, this is %s: put it in quotes", kind(n))
	}
	return s.wrong(n, key, "want text, this is %s", kind(n))
}

// parsed checks a scalar by its parser.
func parsed[T any](s *shape, n ast.Node, key keyPath, parse func(string) (T, error)) (usable bool) {
	if _, ok := n.(ast.ScalarNode); !ok {
		return s.notText(n, key)
	}
	if _, err := parse(scalar(n)); err != nil {
		return s.wrong(n, key, "%v", err)
	}
	return true
}

// mapping gives the pairs of a mapping to yield, repeated keys refused.
func (s *shape) mapping(n ast.Node, key keyPath, yield func(name string, p *ast.MappingValueNode)) (usable bool) {
	if n.Type() != ast.MappingType && n.Type() != ast.MappingValueType {
		return s.wrong(n, key, "want a mapping (key: value), this is %s", kind(n))
	}
	whole, _ := n.(*ast.MappingNode)
	usable = true
	refuse := func(p *ast.MappingValueNode, format string, args ...any) {
		s.wrong(p.Key, key, format, args...)
		s.lacks(key)
		if whole == nil { // it is nothing but this pair
			usable = false
			return
		}
		s.undo = append(s.undo, func() {
			whole.Values = slices.DeleteFunc(whole.Values, func(x *ast.MappingValueNode) bool { return x == p })
		})
	}
	seen := map[string]bool{}
	for _, p := range pairs(n) {
		name := p.Key.GetToken().Value
		switch {
		case p.Key.IsMergeKey():
			refuse(p, "merge keys (<<) are not supported: write the keys out, or alias whole values")
			continue
		case p.Key.Type() != ast.StringType:
			refuse(p, "a key must be text: put %s in quotes", printable.Columns(name))
			continue
		case seen[name]:
			refuse(p, "%q is there already", name)
			continue
		}
		seen[name] = true
		yield(name, p)
	}
	return usable
}

// pair checks the value of a pair; one that is nothing is as one that is left out.
func (s *shape) pair(p *ast.MappingValueNode, t reflect.Type, key keyPath) {
	if !s.isNull(p.Value) && !s.value(p.Value, t, key) {
		s.without(key, func() { p.Value = ast.Null(p.Key.GetToken()) })
	}
}

// fields checks a mapping with the keys of a struct.
func (s *shape) fields(n ast.Node, t reflect.Type, key keyPath) (usable bool) {
	known := fieldTypes(t)
	return s.mapping(n, key, func(name string, p *ast.MappingValueNode) {
		f, ok := known[name]
		if !ok {
			s.wrong(p.Key, key, "unknown key %q%s", name, hint(name, t))
			s.lacks(key)
			return
		}
		s.pair(p, f, key.child(name))
	})
}

// entries checks a mapping with names of the user's.
func (s *shape) entries(n ast.Node, t reflect.Type, key keyPath) (usable bool) {
	return s.mapping(n, key, func(name string, p *ast.MappingValueNode) { s.pair(p, t, key.child(name)) })
}

func (s *shape) list(n ast.Node, t reflect.Type, key keyPath) (usable bool) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		return s.wrong(n, key, "want a list ([a, b], or lines that begin with -), this is %s", kind(n))
	}
	for i, v := range list.Values {
		if s.isNull(v) {
			s.wrong(v, key.item(i), "the entry is empty")
			s.without(key.item(i), func() {})
			continue
		}
		if !s.value(v, t, key.item(i)) {
			s.without(key.item(i), func() { list.Values[i] = ast.Null(v.GetToken()) })
		}
	}
	return true
}

func (s *shape) isNull(n ast.Node) bool {
	n = s.doc.resolve(n)
	return n != nil && n.Type() == ast.NullType
}

// kind is what a node is, without its value: that may be a secret.
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
	for field := range t.Fields() {
		switch name, how, _ := strings.Cut(field.Tag.Get("yaml"), ","); {
		case how == "inline":
			maps.Copy(known, fieldTypes(field.Type))
		case name != "-":
			known[name] = field.Type
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
