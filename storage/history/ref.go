package history

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"knowngood/storage/attest"
	"knowngood/storage/layout"
)

// minID is the fewest hexadecimal digits of an ID that name a snapshot.
const minID = 6

// Selector is how a Ref chooses among the snapshots of an environment.
type Selector int

// Selectors.
const (
	Latest    Selector = iota
	ByNumber           // Ref.Number
	NotLater           // the newest that started before Ref.Before
	KnownGood          // the newest proven to restore
)

// Ref names a snapshot as people write it; see ParseRef.
type Ref struct {
	Host        string // empty when it is not said
	Environment string // empty when the text can only be an ID
	Selector    Selector
	Number      uint64
	Before      time.Time
	// ID is the first hexadecimal digits of a snapshot ID. With Environment
	// the text can be either, and an environment of that name comes first.
	ID string
	// Policy is what known-good means, at Now; ParseRef sets neither.
	Policy attest.Policy
	Now    time.Time

	text string
}

// String is what was parsed, without the path.
func (r Ref) String() string { return r.text }

// Chooses reports whether it may be another snapshot tomorrow, or with another proof.
func (r Ref) Chooses() bool { return r.Selector != ByNumber && r.ID == "" }

// ParseRef reads the name of a snapshot:
//
//	web, web@latest      the newest of environment web
//	web@42               by number
//	web@known-good       the newest proven to restore
//	web@2026-11-20       the newest started on that day or before
//	web@2026-11-20T10:00 or before that minute ended, local time;
//	                     with seconds, or as RFC 3339, the same to the second
//	3fa9c1               by the first digits, at least 6, of its ID
//	host/web@42          each of these but the ID, with the host
//
// A path may follow after a colon, as in web@42:/etc/passwd. It is returned
// without its slashes at either end, as manifests have it; the root is empty.
func ParseRef(text string) (ref Ref, sub string, err error) {
	if strings.HasPrefix(text, "/") {
		return Ref{}, "", fmt.Errorf("reference %q: a path follows a reference: web@latest:%s", text, text)
	}
	name, rest, hasPath := strings.Cut(text, ":/")
	if hasPath {
		if strings.IndexByte(rest, 0) >= 0 {
			return Ref{}, "", fmt.Errorf("reference %q: a path has no NUL byte", text)
		}
		sub = strings.TrimPrefix(path.Clean("/"+rest), "/")
	}
	ref, err = parseRef(name)
	if err != nil {
		return Ref{}, "", fmt.Errorf("reference %q: %w", text, err)
	}
	return ref, sub, nil
}

var errPath = errors.New(`the path after ":" must begin with "/", as in web@42:/etc`)

func parseRef(name string) (Ref, error) {
	ref := Ref{text: name}
	env, selector, selected := strings.Cut(name, "@")
	if host, e, ok := strings.Cut(env, "/"); ok {
		if err := layout.ValidName(host); err != nil {
			return ref, fmt.Errorf("host: %w", err)
		}
		ref.Host, env = host, e
	}
	if ref.Host == "" && !selected && isID(env) {
		ref.ID = strings.ToLower(env)
	}
	if err := layout.ValidName(env); err == nil {
		ref.Environment = env
	} else if ref.ID == "" {
		if strings.Contains(env, ":") {
			return ref, errPath
		}
		return ref, fmt.Errorf("environment: %w", err)
	}
	if !selected {
		return ref, nil
	}
	return ref, ref.parseSelector(selector)
}

func (r *Ref) parseSelector(s string) error {
	switch s {
	case "latest":
		return nil
	case "known-good":
		r.Selector = KnownGood
		return nil
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		if n == 0 || strconv.FormatUint(n, 10) != s {
			return fmt.Errorf("%q is no number of a snapshot: they start from 1", s)
		}
		r.Selector, r.Number = ByNumber, n
		return nil
	}
	_, end, err := ParseTime(s)
	if err != nil {
		if strings.Contains(s, ":") {
			if before, _, _ := strings.Cut(s, ":"); (&Ref{}).parseSelector(before) == nil {
				return errPath
			}
		}
		return fmt.Errorf("%q is neither a number, nor latest, known-good or a time such as 2026-11-20T10:00", s)
	}
	r.Selector, r.Before = NotLater, end
	return nil
}

// ParseTime reads a day, minute or second as references have it, in local time
// or with a zone, and returns where it begins and where it ends.
func ParseTime(s string) (begin, end time.Time, err error) {
	for _, form := range []struct {
		layout string
		unit   time.Duration // 0 for a day
	}{
		{time.DateOnly, 0},
		{"2006-01-02T15:04", time.Minute},
		{"2006-01-02T15:04:05", time.Second},
		{time.RFC3339, time.Second},
		{"2006-01-02T15:04Z07:00", time.Minute},
	} {
		t, err := time.ParseInLocation(form.layout, s, time.Local)
		switch {
		case err != nil:
			continue
		case form.unit == 0:
			return t, t.AddDate(0, 0, 1), nil
		}
		t = t.Truncate(time.Second)
		return t, t.Add(form.unit), nil
	}
	return begin, end, fmt.Errorf("%q is no time such as 2026-11-20 or 2026-11-20T10:00", s)
}

// isID reports whether s can be the beginning of a snapshot ID.
func isID(s string) bool {
	if len(s) < minID || len(s) > 64 {
		return false
	}
	_, err := hex.DecodeString(s + strings.Repeat("0", len(s)%2))
	return err == nil
}
