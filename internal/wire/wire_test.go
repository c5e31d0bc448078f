package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWire(t *testing.T) {
	t.Run("integers read back as written", integersReadBackAsWritten)
	t.Run("a decoder refuses", aDecoderRefuses)
	t.Run("the prelude of another version is refused as such", thePreludeOfAnotherVersionIsRefusedAsSuch)
	t.Run("every kind's prelude reads back", everyKindsPreludeReadsBack)
	t.Run("a record reads back as written", aRecordReadsBackAsWritten)
	t.Run("a record refuses", aRecordRefuses)
	t.Run("an unknown even field is refused as newer", anUnknownEvenFieldIsRefusedAsNewer)
}

func integersReadBackAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, 127, 128, math.MaxUint64})).Draw(t, "u")
		s := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, -1, math.MinInt64, math.MaxInt64})).Draw(t, "s")
		d := NewDecoder(AppendSvarint(AppendUvarint(nil, u), s))
		if gu, gs := d.Uvarint(), d.Svarint(); gu != u || gs != s || d.Finish() != nil {
			t.Fatalf("%d %d read back as %d %d, %v", u, s, gu, gs, d.Err())
		}
	})
}

func aDecoderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		in   string // hex
		read func(*Decoder)
		want string
	}{
		"an integer that is not the shortest":  {"8000", func(d *Decoder) { d.Uvarint() }, "shortest"},
		"a longer one that is not either":      {"ff8000", func(d *Decoder) { d.Uvarint() }, "shortest"},
		"an integer cut short":                 {"80", func(d *Decoder) { d.Uvarint() }, "cut short"},
		"an integer of more than 64 bits":      {"ffffffffffffffffff02", func(d *Decoder) { d.Uvarint() }, "too large"},
		"an integer of eleven bytes":           {"8080808080808080808001", func(d *Decoder) { d.Uvarint() }, "too large"},
		"no bytes at all":                      {"", func(d *Decoder) { d.Uvarint() }, "cut short"},
		"an integer over its limit":            {"05", func(d *Decoder) { d.UvarintMax(4) }, "limit of 4"},
		"a list longer than what is there":     {"04000000", func(d *Decoder) { d.Count(1) }, "does not fit"},
		"a huge list":                          {"ffffffffffffffffff01", func(d *Decoder) { d.Count(32) }, "does not fit"},
		"bytes longer than what is there":      {"0300", func(d *Decoder) { d.Bytes() }, "3 bytes wanted"},
		"bytes longer than an int":             {"ffffffffffffffffff01", func(d *Decoder) { d.Bytes() }, "bytes wanted"},
		"a negative length":                    {"00", func(d *Decoder) { d.Take(-1) }, "bytes wanted"},
		"half an integer of fixed width":       {"000000", func(d *Decoder) { d.U32() }, "4 bytes wanted"},
		"bytes that nobody reads":              {"0000", func(d *Decoder) { d.U8() }, "1 bytes too many"},
		"another prelude":                      {"4b4e474501020000", func(d *Decoder) { d.Prelude(KindDescriptor) }, "no object of knowngood"},
		"half a prelude":                       {"4b4e4744", func(d *Decoder) { d.Prelude(KindDescriptor) }, "8 bytes wanted"},
		"another kind":                         {"4b4e474402020000", func(d *Decoder) { d.Prelude(KindDescriptor) }, "of kind epoch, not descriptor"},
		"a kind that is reserved for later on": {"4b4e474410020000", func(d *Decoder) { d.Prelude(KindDescriptor) }, "kind-16 object"},
	} {
		t.Run(name, func(t *testing.T) {
			d := NewDecoder(unhex(t, c.in))
			c.read(d)
			err := d.Finish()
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one that says %q", err, c.want)
			}
			if d.Uvarint() != 0 || d.Bytes() != nil || d.U32() != 0 || d.Finish() != err {
				t.Fatal("a decoder that failed goes on")
			}
		})
	}
}

func thePreludeOfAnotherVersionIsRefusedAsSuch(t *testing.T) {
	for name, in := range map[string]string{
		"earlier version": "4b4e474401010000", "later version": "4b4e474401030000", "first feature": "4b4e474401020100", "last feature": "4b4e474401020080",
	} {
		t.Run(name, func(t *testing.T) {
			d := NewDecoder(append(unhex(t, in), 1, 2, 3))
			d.Prelude(KindDescriptor)
			if err := d.Finish(); !errors.Is(err, ErrVersion) || errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v", err)
			}
			if d.Rest() != 0 {
				t.Fatal("a decoder that failed goes on")
			}
		})
	}
}

func everyKindsPreludeReadsBack(t *testing.T) {
	kinds := []Kind{KindTombstone, KindDeletion, KindAcceptance, KindDamageReport, KindCatalogue}
	for k := KindDescriptor; k <= KindRoot; k++ {
		kinds = append(kinds, k)
	}
	for _, k := range kinds {
		d := NewDecoder(AppendPrelude(nil, k))
		if d.Prelude(k); d.Finish() != nil {
			t.Errorf("%v: %v", k, d.Err())
		}
	}
}

func aRecordReadsBackAsWritten(t *testing.T) {
	at := time.Unix(1700000000, 123).UTC()
	var r Record
	r.Text(45, "ünï")
	r.Uint(2, 300)
	r.Time(4, at)
	r.List(6, [][]byte{{1}, {}, {2, 3}})
	r.Bytes(8, []byte{9, 9})
	r.Uint(10, 0)
	r.Time(12, time.Time{})
	r.Time(14, time.Unix(0, 0))
	r.List(16, nil)
	r.Unknown([]Field{{7, []byte("kept")}})
	b := r.Append([]byte{0xee})
	f, err := ParseRecord(b[1:])
	if err != nil {
		t.Fatal(err)
	}
	var fixed [2]byte
	f.Fixed(8, fixed[:])
	if f.Uint(2) != 300 || !f.Time(4).Equal(at) || !slices.EqualFunc(f.List(6, 3), [][]byte{{1}, {}, {2, 3}}, bytes.Equal) ||
		fixed != [2]byte{9, 9} || f.Text(45) != "ünï" || f.Uint(10) != 0 || !f.Time(12).IsZero() || !f.Time(14).IsZero() {
		t.Fatal("fields differ")
	}
	unknown, err := f.Finish()
	if err != nil || len(unknown) != 1 || unknown[0].Tag != 7 || string(unknown[0].Value) != "kept" {
		t.Fatalf("unknown fields %v, %v", unknown, err)
	}
	b[bytes.Index(b, []byte("kept"))] = 'x'
	if string(unknown[0].Value) != "kept" {
		t.Fatal("unknown fields share memory with the input")
	}
}

func aRecordRefuses(t *testing.T) {
	many := make([]byte, 0, 4*maxFields+8)
	for i := range uint64(maxFields + 1) {
		many = append(AppendUvarint(many, 2*i+1), 1, 0)
	}
	for name, c := range map[string]struct {
		in   string
		read func(*Fields)
		want string
	}{
		"tag 0":                           {"000101", func(*Fields) {}, "field 0 after field 0"},
		"a tag twice":                     {"010101010101", func(*Fields) {}, "field 1 after field 1"},
		"tags that descend":               {"030101010101", func(*Fields) {}, "field 1 after field 3"},
		"an empty field":                  {"0100", func(*Fields) {}, "field 1 is empty"},
		"a field cut short":               {"010201", func(*Fields) {}, "2 bytes wanted"},
		"a tag without a value":           {"01", func(*Fields) {}, "cut short"},
		"too many fields":                 {hex.EncodeToString(many), func(*Fields) {}, "more than 1024 fields"},
		"a zero integer":                  {"010100", func(f *Fields) { f.Uint(1) }, "nonzero integer"},
		"an integer with bytes after it":  {"01020100", func(f *Fields) { f.Uint(1) }, "nonzero integer"},
		"an integer not the shortest":     {"01028100", func(f *Fields) { f.Uint(1) }, "nonzero integer"},
		"the time zero":                   {"010100", func(f *Fields) { f.Time(1) }, "nonzero time"},
		"a time with bytes after it":      {"01020100", func(f *Fields) { f.Time(1) }, "nonzero time"},
		"text that is not UTF-8":          {"0101ff", func(f *Fields) { f.Text(1) }, "UTF-8"},
		"a fixed field that is too short": {"010101", func(f *Fields) { f.Fixed(1, make([]byte, 2)) }, "1 bytes, want 2"},
		"a fixed field that is missing":   {"", func(f *Fields) { f.Fixed(1, make([]byte, 2)) }, "0 bytes, want 2"},
		"an empty list":                   {"010100", func(f *Fields) { f.List(1, 9) }, "list of 0"},
		"a list over its limit":           {"010402000000", func(f *Fields) { f.List(1, 1) }, "list of 2"},
		"a list with bytes after it":      {"0103010000", func(f *Fields) { f.List(1, 9) }, "too many"},
		"a list cut short":                {"0102010100", func(f *Fields) { f.List(1, 9) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := ParseRecord(unhex(t, c.in))
			if err == nil {
				c.read(f)
				_, err = f.Finish()
			}
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}

func anUnknownEvenFieldIsRefusedAsNewer(t *testing.T) {
	f, err := ParseRecord(unhex(t, "010101020101"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Finish(); !errors.Is(err, ErrVersion) || errors.Is(err, ErrMalformed) {
		t.Fatalf("error %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 1, 7, 3, 2, 0xff, 0})
	f.Add([]byte{1, 1, 7, 0x80, 1, 1, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		fields, err := ParseRecord(in)
		if err != nil {
			return
		}
		var r Record
		r.Unknown(fields.fields)
		if out := r.Append(nil); !bytes.Equal(in, out) {
			t.Fatalf("%x became %x", in, out)
		}
	})
}

func FuzzValues(f *testing.F) {
	f.Add([]byte{5, 0x80, 1, 2, 9, 9})
	f.Fuzz(func(t *testing.T, in []byte) {
		d := NewDecoder(in)
		u, s, b, rest := d.Uvarint(), d.Svarint(), d.Bytes(), d.Take(d.Rest())
		if d.Finish() != nil {
			return
		}
		out := append(AppendBytes(AppendSvarint(AppendUvarint(nil, u), s), b), rest...)
		if !bytes.Equal(in, out) {
			t.Fatalf("%x became %x", in, out)
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
