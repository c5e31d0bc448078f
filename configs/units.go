package configs

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/goccy/go-yaml/ast"

	"knowngood/internal/duration"
)

const hour = time.Hour

// Duration is a time span: 90s, 15m, 2h30m, 30d, 2w.
type Duration time.Duration

// ParseDuration reads Go's form, with d for days of 24 hours and w for weeks. It
// is the one grammar of durations, in configurations and in flags.
func ParseDuration(s string) (Duration, error) {
	d, err := duration.Parse(s)
	return Duration(d), err
}

// UnmarshalYAML implements the decoder's interface.
func (d *Duration) UnmarshalYAML(n ast.Node) (err error) {
	*d, err = ParseDuration(scalar(n))
	return err
}

// MarshalYAML implements the encoder's interface.
func (d Duration) MarshalYAML() ([]byte, error) { return []byte(d.String()), nil }

// String is the duration as ParseDuration reads it: 1h30m, 7d.
func (d Duration) String() string {
	t := time.Duration(d)
	if days := t / (24 * hour); days > 0 && t%(24*hour) == 0 {
		return fmt.Sprintf("%dd", days)
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Size is a number of bytes: 512, 10MiB, 2GB.
type Size uint64

// ParseSize reads a number of bytes. It is the one grammar of sizes, in
// configurations and in flags.
func ParseSize(s string) (Size, error) {
	n, err := parseBytes(s)
	switch {
	case errors.Is(err, errComma):
		return 0, fmt.Errorf("%q: %w, such as 1.5GB or 1000MB", s, err)
	case tooLarge(err):
		return 0, fmt.Errorf("%q is too large: the most is %d bytes, less than 16EiB", s, uint64(math.MaxUint64))
	case err != nil:
		return 0, fmt.Errorf("%q is not a size, such as 512KiB, 10MiB or 2GB", s)
	}
	return Size(n), nil
}

// errComma is about a size with a comma, which the parser passes over: 1,5GB
// would be 15GB.
var errComma = errors.New("a size takes no comma: write a point before decimals, and nothing between thousands")

// parseBytes reads the number of bytes of sizes and rates.
func parseBytes(s string) (uint64, error) {
	if strings.Contains(s, ",") {
		return 0, errComma
	}
	return humanize.ParseBytes(s)
}

// tooLarge reports whether an error is about a size that does not fit 64 bits.
func tooLarge(err error) bool {
	return err != nil && (errors.Is(err, strconv.ErrRange) || strings.HasPrefix(err.Error(), "too large"))
}

// UnmarshalYAML implements the decoder's interface.
func (s *Size) UnmarshalYAML(n ast.Node) (err error) {
	*s, err = ParseSize(scalar(n))
	return err
}

// MarshalYAML implements the encoder's interface.
func (s Size) MarshalYAML() ([]byte, error) { return strconv.AppendUint(nil, uint64(s), 10), nil }

// Rate is a number of bytes a second: 512KiB/s, 10MB/s. The /s may be left out.
type Rate uint64

// ParseRate reads a number of bytes a second. What does not fit 63 bits is
// refused: limiters count in those.
func ParseRate(s string) (Rate, error) {
	n, err := parseBytes(strings.TrimSuffix(s, "/s"))
	switch {
	case errors.Is(err, errComma):
		return 0, fmt.Errorf("%q: %w, such as 1.5MB/s", s, err)
	case tooLarge(err) || n > math.MaxInt64:
		return 0, fmt.Errorf("%q is too large: the most is less than 8EiB/s", s)
	case err != nil:
		return 0, fmt.Errorf("%q is not a rate in bytes a second, such as 512KiB/s or 10MB/s", s)
	}
	return Rate(n), nil
}

// UnmarshalYAML implements the decoder's interface.
func (r *Rate) UnmarshalYAML(n ast.Node) (err error) {
	*r, err = ParseRate(scalar(n))
	return err
}

// MarshalYAML implements the encoder's interface.
func (r Rate) MarshalYAML() ([]byte, error) { return fmt.Appendf(nil, "%d/s", uint64(r)), nil }

// Count is a whole number, from 0 to 2147483647.
type Count int

// ParseCount reads a whole number in decimal, with any zeros at its beginning: 010
// is ten. It is the one grammar of whole numbers, in configurations and in flags.
func ParseCount(s string) (Count, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("want a whole number, such as 5; this is %q", s)
	case n < 0:
		return 0, fmt.Errorf("%s is less than none: write 0 or more", s)
	case n > math.MaxInt32:
		return 0, fmt.Errorf("%s is too large: the most is %d", s, math.MaxInt32)
	}
	return Count(n), nil
}

// UnmarshalYAML implements the decoder's interface.
func (c *Count) UnmarshalYAML(n ast.Node) (err error) {
	*c, err = ParseCount(scalar(n))
	return err
}

// Percent is a part of a hundred: 50%, and 0.
type Percent int

// ParsePercent reads a whole percentage from 0% to 100%, or 0.
func ParsePercent(s string) (Percent, error) {
	digits, sign := strings.CutSuffix(s, "%")
	n, err := strconv.ParseUint(digits, 10, 8)
	if err != nil || n > 100 || !sign && n != 0 || digits != strconv.FormatUint(n, 10) {
		return 0, fmt.Errorf("%q is not a percentage, such as 50%%; 0 switches it off", s)
	}
	return Percent(n), nil
}

// UnmarshalYAML implements the decoder's interface.
func (p *Percent) UnmarshalYAML(n ast.Node) (err error) {
	*p, err = ParsePercent(scalar(n))
	return err
}

// MarshalYAML implements the encoder's interface.
func (p Percent) MarshalYAML() ([]byte, error) { return fmt.Appendf(nil, "%d%%", int(p)), nil }

// Number is a number that an answer is compared with.
type Number float64

// ParseNumber reads a decimal number.
func ParseNumber(s string) (Number, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("want a number, such as 100 or 0.5; this is %q", s)
	}
	return Number(n), nil
}

// UnmarshalYAML implements the decoder's interface.
func (x *Number) UnmarshalYAML(n ast.Node) (err error) {
	*x, err = ParseNumber(scalar(n))
	return err
}

// Value is a text or a number, as it is written.
type Value string

// UnmarshalYAML implements the decoder's interface.
func (x *Value) UnmarshalYAML(n ast.Node) error {
	*x = Value(scalar(n))
	return nil
}

// scalar is the text of a plain or quoted scalar.
func scalar(n ast.Node) string {
	if t := n.GetToken(); t != nil {
		return t.Value
	}
	return n.String()
}
