package filter

import (
	"strings"
	"unicode/utf8"
)

// byteRunes is where bytes that are not UTF-8 are put for matching, at the
// end of the last private plane: the matcher takes every such byte for the
// same character.
const byteRunes = 0x10FE00

// escapeBytes makes a string valid UTF-8 so that different strings stay
// different, those that use the same private characters aside.
func escapeBytes(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for i := 0; i < len(s); {
		c, n := utf8.DecodeRuneInString(s[i:])
		if c == utf8.RuneError && n == 1 {
			c = byteRunes + rune(s[i])
		}
		b.WriteRune(c)
		i += n
	}
	return b.String()
}
