package statement

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"knowngood/internal/wire"
)

func TestCatalogue(t *testing.T) {
	roots := [][]byte{bytes.Repeat([]byte("first "), 40), bytes.Repeat([]byte("second "), 40)}
	hash := sha256.Sum256(roots[1])
	roots = append(roots, slices.Concat([]byte("third, after "), hash[:], bytes.Repeat([]byte(" and more"), 20)), hash[:])
	compressed := func(content []byte) []byte {
		enc, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return enc.EncodeAll(content, wire.AppendPrelude(nil, wire.KindCatalogue))
	}

	t.Run("gives back what it was made of", func(t *testing.T) {
		object, err := EncodeCatalogue(roots)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseCatalogue(object); err != nil || !slices.EqualFunc(got, roots, bytes.Equal) {
			t.Errorf("%d objects, %v", len(got), err)
		}
	})
	t.Run("has the form of its vector", func(t *testing.T) {
		file := filepath.Join("testdata", "catalogue.hex")
		if *update {
			object, err := EncodeCatalogue(roots)
			if err == nil {
				err = os.WriteFile(file, []byte(hex.EncodeToString(object)+"\n"), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		object, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseCatalogue(object); err != nil || !slices.EqualFunc(got, roots, bytes.Equal) {
			t.Errorf("%d objects, %v", len(got), err)
		}
	})
	t.Run("is never empty nor above its limits", func(t *testing.T) {
		for name, objects := range map[string][][]byte{"empty": nil, "huge": {make([]byte, maxCatalogueContent)}, "of tiny objects": {{1}, {2}}} {
			if _, err := EncodeCatalogue(objects); err == nil {
				t.Errorf("one that is %s was made", name)
			}
		}
	})
	t.Run("refuses what is none", func(t *testing.T) {
		whole, err := EncodeCatalogue(roots)
		if err != nil {
			t.Fatal(err)
		}
		for name, object := range map[string][]byte{
			"nothing":                   {},
			"no zstd":                   append(wire.AppendPrelude(nil, wire.KindCatalogue), "rubbish"...),
			"cut short":                 whole[:len(whole)-3],
			"another kind":              append(wire.AppendPrelude(nil, wire.KindRoot), whole[wire.PreludeLen:]...),
			"more than it may unpack":   compressed(make([]byte, maxCatalogueContent+1)),
			"too long":                  append(slices.Clone(whole), make([]byte, MaxCatalogue)...),
			"a count that does not fit": compressed(append(wire.AppendUvarint(nil, 1<<20), make([]byte, 1<<20)...)),
			"something behind":          compressed(append(wire.AppendBytes([]byte{1, 0}, roots[0]), 0)),
			"a hash of nothing":         compressed(wire.AppendBytes([]byte{1, 5}, roots[0])),
			"a hash behind the end":     compressed(wire.AppendBytes(append(wire.AppendBytes([]byte{2, 0}, roots[0]), 0xff, 3), roots[1])),
		} {
			if got, err := ParseCatalogue(object); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%s: %d objects, %v", name, len(got), err)
			}
		}
	})
}

func FuzzCatalogue(f *testing.F) {
	object, err := EncodeCatalogue([][]byte{make([]byte, 100)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(object)
	f.Fuzz(func(t *testing.T, object []byte) {
		objects, err := ParseCatalogue(object)
		if err != nil {
			return
		}
		again, err := EncodeCatalogue(objects)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseCatalogue(again); err != nil || !slices.EqualFunc(got, objects, bytes.Equal) {
			t.Errorf("%d objects became %d, %v", len(objects), len(got), err)
		}
	})
}
