package report

import (
	"strings"
	"unicode/utf8"
)

// Problems are what could not be captured as it should in the last run of an
// environment. A daemon keeps them in memory until the next run ends; the
// snapshot keeps them for those who have an identity.
type Problems struct {
	Environment string    `json:"environment"`
	Snapshot    string    `json:"snapshot,omitempty"` // web@42; empty when there is none since the daemon started
	Problems    []Problem `json:"problems"`
}

// Problem is a path and what is wrong with it. In a path that is not valid UTF-8
// the bytes that are not become U+FFFD, and PathBase64 has the exact ones.
type Problem struct {
	Path       string `json:"path"`
	PathBase64 []byte `json:"path_base64,omitempty"`
	Error      string `json:"error"`
}

// MakeProblem is a problem with a path of a manifest, which has no slash in
// front.
func MakeProblem(path, reason string) Problem {
	out := Problem{Path: "/" + path, Error: reason}
	if !utf8.ValidString(path) {
		out.PathBase64 = []byte(out.Path)
	}
	return out
}

// InManifest is the path as a manifest has it.
func (p Problem) InManifest() string {
	path := p.Path
	if p.PathBase64 != nil {
		path = string(p.PathBase64)
	}
	return strings.TrimPrefix(path, "/")
}
