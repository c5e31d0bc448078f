package printable

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Command is a command line that a shell takes for the arguments.
func Command(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = Word(arg)
		if i == 0 && words[i] == arg && strings.Contains(arg, "=") {
			words[i] = "'" + arg + "'" // else a variable
		}
	}
	return strings.Join(words, " ")
}

// Word is a word of a command that is shown for copying, as a shell takes it:
// URLs have signs in them that mean something there. What a terminal would obey,
// or would not show, is escaped in a way that bash, zsh and ksh read.
func Word(word string) string {
	switch {
	case !utf8.ValidString(word) || strings.ContainsFunc(word, func(r rune) bool { return !Rune(r) }):
		return dollarQuoted(word)
	case word == "" || strings.ContainsAny(word, " &;|<>()$`\\\"'*?[]#~!{}^"):
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

// dollarQuoted is a word in the quotes $'...', in which the bytes of what cannot be
// printed are numbers.
func dollarQuoted(word string) string {
	var b strings.Builder
	b.WriteString("$'")
	for len(word) > 0 {
		r, n := utf8.DecodeRuneInString(word)
		switch valid := r != utf8.RuneError || n > 1; {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case valid && Rune(r):
			b.WriteRune(r)
		default:
			for _, x := range []byte(word[:n]) {
				fmt.Fprintf(&b, "\\%03o", x) // always three digits, because the next character may be a digit
			}
		}
		word = word[n:]
	}
	b.WriteByte('\'')
	return b.String()
}
