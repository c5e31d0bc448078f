package storage

import "strings"

// Limits on keys that every store takes, in bytes. S3 allows 1024 for a key
// with the prefix of its repository, file systems 255 for a name.
const (
	MaxKey     = 640
	MaxSegment = 255
)

// CheckKey reports whether key may name an object: segments of [A-Za-z0-9._=-],
// joined by single slashes, none of them empty, "." or "..". Anything else is
// ErrInvalidKey.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return ErrInvalidKey
	}
	for segment := range strings.SplitSeq(key, "/") {
		if !ValidSegment(segment) {
			return ErrInvalidKey
		}
	}
	return nil
}

// ValidSegment reports whether s may stand between two slashes of a key.
func ValidSegment(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > MaxSegment {
		return false
	}
	for i := range len(s) {
		if !validByte(s[i]) {
			return false
		}
	}
	return true
}

func validByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '.' || c == '_' || c == '=' || c == '-'
}
