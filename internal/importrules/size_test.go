package importrules

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Beyond these a package or a type has more than one subject.
const (
	maxLines   = 3500 // of a package of the program, without tests, blank lines and comments
	maxMethods = 25   // of a type of it
)

// measure returns how many lines of a source file hold code, and how many
// methods each type has in it.
func measure(src []byte) (lines int, methods map[string]int, err error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), "", src, parser.SkipObjectResolution)
	if err != nil {
		return 0, nil, err
	}
	methods = map[string]int{}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil {
			typ := f.Recv.List[0].Type
			name, _, _ := strings.Cut(string(src[typ.Pos()-1:typ.End()-1]), "[")
			methods[strings.TrimPrefix(name, "*")]++
		}
	}

	var s scanner.Scanner
	file := token.NewFileSet().AddFile("", -1, len(src))
	s.Init(file, src, nil, 0)
	last := 0
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return lines, methods, nil
		}
		if text == "\n" { // a semicolon that is not in the source
			continue
		}
		first := file.Line(pos)
		end := first + strings.Count(text, "\n")
		lines += end - max(first-1, last)
		last = end
	}
}

func TestSize(t *testing.T) {
	t.Run("lines and methods are counted", func(t *testing.T) {
		lines, methods, err := measure([]byte("// Package a.\npackage a\n\n/* not\ncode */\ntype (\n\tT[K any] struct{}\n\tU int // an int\n)\n\nfunc (T[K]) A() {}\nfunc (*T[K]) b() {}\nfunc (u *U) C() string { return `x\ny` }\nfunc D() {}\n"))
		if err != nil || lines != 10 || !maps.Equal(methods, map[string]int{"T": 2, "U": 1}) {
			t.Errorf("%d lines, methods %v, %v", lines, methods, err)
		}
	})

	t.Run("no package and no type is too large", func(t *testing.T) {
		for _, pkg := range deps(t, "cmd/knowngood") {
			if !ours(pkg) {
				continue
			}
			names, err := filepath.Glob(filepath.Join("../..", strings.TrimPrefix(pkg, module), "*.go"))
			if err != nil {
				t.Fatal(err)
			}
			total, methods := 0, map[string]int{}
			for _, name := range names {
				if strings.HasSuffix(name, "_test.go") {
					continue
				}
				src, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				lines, of, err := measure(src)
				if err != nil {
					t.Fatal(err)
				}
				total += lines
				for typ, n := range of {
					methods[typ] += n
				}
			}
			if total > maxLines {
				t.Errorf("%s has %d lines of code, more than %d: move a subject into a package of its own", pkg, total, maxLines)
			}
			for typ, n := range methods {
				if n > maxMethods {
					t.Errorf("%s.%s has %d methods, more than %d: move a subject into a type of its own", pkg, typ, n, maxMethods)
				}
			}
		}
	})
}
