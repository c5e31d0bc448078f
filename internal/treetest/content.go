package treetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
)

// randomBytes expands a seed.
func randomBytes(seed uint64, n int) []byte {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b) // never fails
	return b
}

// content chooses what a file holds.
func (b *builder) content() []byte {
	if len(b.contents) > 0 && b.choices.IntN(6) == 0 {
		return b.contents[b.choices.IntN(len(b.contents))]
	}
	size := b.size()
	var data []byte
	switch b.choices.IntN(4) {
	case 0: // text
		line := fmt.Appendf(nil, "2026-11-20T10:00:00Z host-%d GET /index.html 200\n", b.choices.IntN(1000))
		data = bytes.Repeat(line, size/len(line)+1)[:size]
	case 1: // zeros that are written
		data = make([]byte, size)
	default:
		data = randomBytes(b.choices.Uint64(), size)
	}
	if len(b.contents) < 20 {
		b.contents = append(b.contents, data)
	}
	return data
}

// size chooses the bytes of a file: mostly few, and often near a boundary.
func (b *builder) size() int {
	limit := int(b.shape.MaxFile)
	switch b.choices.IntN(10) {
	case 0:
		return 0
	case 1, 2, 3, 4, 5:
		limit = min(limit, 2000)
	case 6:
		return min(limit, []int{1, 511, 512, 4095, 4096, 4097, 64 << 10, 256 << 10, 1 << 20}[b.choices.IntN(9)])
	case 7, 8:
		limit = min(limit, 100_000)
	}
	return b.choices.IntN(limit + 1)
}

// writeSparse gives an empty file holes at its beginning, middle or end, or
// all over.
func (b *builder) writeSparse(f *os.File) error {
	size := int64(1 + b.choices.IntN(int(max(b.shape.MaxFile, 1<<20))))
	if err := f.Truncate(size); err != nil {
		return err
	}
	third := size / 3
	var pieces []Extent
	switch b.choices.IntN(6) {
	case 0: // all hole
	case 1: // at the beginning
		pieces = []Extent{{2 * third, size - 2*third}}
	case 2: // in the middle
		pieces = []Extent{{0, third}, {2 * third, size - 2*third}}
	case 3: // at the end
		pieces = []Extent{{0, third}}
	case 4: // at both ends
		pieces = []Extent{{third, third}}
	case 5: // small data here and there
		for at := int64(b.choices.IntN(100_000)); at < size; at += int64(20_000 + b.choices.IntN(200_000)) {
			pieces = append(pieces, Extent{at, min(size-at, int64(1+b.choices.IntN(9000)))})
		}
	}
	for _, p := range pieces {
		if _, err := f.WriteAt(randomBytes(b.choices.Uint64(), int(p.Length)), p.Offset); err != nil {
			return err
		}
	}
	return nil
}

// name chooses a name that may be new in its directory.
func (b *builder) name() string {
	kinds := 9
	if b.without[OddNames] {
		kinds = 2
	}
	plain := fmt.Sprintf("node-%d", b.choices.IntN(100_000))
	switch b.choices.IntN(kinds) {
	case 1: // names that distinguish orders of paths
		letters := "ab.-! \x01~"
		return strings.Repeat("a", 1+b.choices.IntN(3)) + string(letters[b.choices.IntN(len(letters))]) + fmt.Sprint(b.choices.IntN(100))
	case 2: // any bytes, mostly no UTF-8
		return cleanName(randomBytes(b.choices.Uint64(), 1+b.choices.IntN(40)))
	case 3:
		return cleanName(randomBytes(b.choices.Uint64(), 255))
	case 4:
		return plain + []string{" ", "   ", "\n", "\t", ".", "\\"}[b.choices.IntN(6)]
	case 5:
		return []string{"-", "--", " ", "\n", ".", "...", "~"}[b.choices.IntN(7)] + plain
	case 6:
		return []string{"line\nbreak", "tab\tquote\"'", "star*[?]{a,b}", "$HOME `id`", "%s%d", "\x1b[31mred", "a:b;c|d&e"}[b.choices.IntN(7)] + fmt.Sprint(b.choices.IntN(1000))
	case 7: // the same letters, composed and not
		return []string{"\u00e9", "e\u0301", "\u65e5\u672c\u8a9e", "\U0001f4be", "\u202egnp"}[b.choices.IntN(5)] + fmt.Sprint(b.choices.IntN(1000))
	case 8:
		return strings.Repeat("long ", 51)[:251] + fmt.Sprintf("%04d", b.choices.IntN(10_000))
	}
	return plain
}

func cleanName(raw []byte) string {
	for i, c := range raw {
		if c == 0 || c == '/' {
			raw[i] = 0xff
		}
	}
	if name := string(raw); name != "." && name != ".." {
		return name
	}
	return "\xfe"
}

// target chooses where a symbolic link leads: mostly nowhere.
func (b *builder) target() string {
	switch b.choices.IntN(8) {
	case 0:
		return "/etc/hostname"
	case 1:
		return strings.Repeat("../", b.choices.IntN(30)) + "etc/passwd"
	case 2:
		return strings.Repeat("long/target/", 400)[:4095]
	case 3:
		return string(bytes.ReplaceAll(randomBytes(b.choices.Uint64(), 1+b.choices.IntN(200)), []byte{0}, []byte{1}))
	case 4:
		return "."
	case 5:
		return "trailing/ \n"
	case 6:
		if len(b.files) > 0 {
			path := b.files[b.choices.IntN(len(b.files))].path
			return path[:min(len(path), 4095)]
		}
	}
	return "dangling"
}
