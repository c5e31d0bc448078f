// Package printable makes texts safe to show that came from a store, a host or a
// file: names, reasons, errors, the output of programs.
//
// Whoever chose such a text must not be able to command the terminal of its
// reader, to hide a part of it, or to show it in another order than it has. So
// control characters (C0, C1, DEL), format characters (bidirectional overrides and
// isolates, zero-width ones, tags), line and paragraph separators, private and
// unassigned characters, and bytes that are not UTF-8 are replaced by escapes that
// can be seen, such as \x1b, \u202e and \xff.
//
// It is applied where a text leaves the program (Writer, JSON), so that no command
// can forget it, and where a text must stay on one line (Line, Name). It is safe to
// apply it twice. It is pure.
package printable

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Rune reports whether a character is shown as what it is, and cannot be taken for
// another space.
func Rune(r rune) bool { return strconv.IsPrint(r) }

// graphic reports whether a character is shown, spaces of all kinds included.
func graphic(r rune) bool { return strconv.IsGraphic(r) }

// Text is a text of several lines: line feeds and tabs stay.
func Text(s string) string {
	return escaped(s, func(r rune) bool { return r == '\n' || r == '\t' })
}

// Line is a text that must be one line: a line feed is escaped, too, and a tab
// becomes a space.
func Line(s string) string {
	return escaped(strings.ReplaceAll(s, "\t", " "), func(rune) bool { return false })
}

// Name is a name, quoted when it has what cannot be shown, or what would be
// taken for quotes and escapes of ours.
func Name(s string) string {
	if q := strconv.Quote(s); len(q) != len(s)+2 {
		return q
	}
	return s
}

// Columns is a line in which each character that cannot be shown is replaced by
// one that can, so that columns stay what they are.
func Columns(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !graphic(r):
			return utf8.RuneError
		}
		return r
	}, s)
}

// Variable is a text for a variable of a program: as Columns, and line feeds stay.
// It has no escapes, because a shell's echo may replace those by what they represent.
func Variable(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = Columns(lines[i])
	}
	return strings.Join(lines, "\n")
}

func escaped(s string, kept func(rune) bool) string {
	clean := 0
	for clean < len(s) {
		r, n := utf8.DecodeRuneInString(s[clean:])
		if r == utf8.RuneError && n == 1 || !graphic(r) && !kept(r) {
			break
		}
		clean += n
	}
	if clean == len(s) {
		return s
	}

	var b strings.Builder
	b.WriteString(s[:clean])
	for rest := s[clean:]; rest != ""; {
		r, n := utf8.DecodeRuneInString(rest)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, rest[0])
		case graphic(r) || kept(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		rest = rest[n:]
	}
	return b.String()
}

// JSON is a JSON text whose values are the same, and whose characters can all be
// shown: what cannot is written as JSON's own escape. Only strings hold such
// characters. b must be valid JSON, on one line or indented.
func JSON(b []byte) []byte {
	s := string(b)
	if Text(s) == s {
		return b
	}
	var out []byte
	for s != "" {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case graphic(r) || r == '\n' || r == '\t':
			out = append(out, s[:n]...)
		case r <= 0xffff:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		}
		s = s[n:]
	}
	return out
}

// Writer writes texts of several lines. A character must not be split between
// two writes.
type Writer struct{ To io.Writer }

func (w Writer) Write(b []byte) (int, error) {
	text := string(b)
	safe := Text(text)
	if safe == text {
		return w.To.Write(b)
	}
	if _, err := io.WriteString(w.To, safe); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Error is the text of an error on one line.
func Error(err error) string {
	return Line(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
}
