package console

import (
	"unicode/utf8"

	"knowngood/snapshot/manifest"
)

// PathJSON is a path as --json prints it. JSON has only Unicode: in a path
// that is not valid UTF-8 the bytes that are not become U+FFFD, and a second
// field has the exact bytes in base64.
type PathJSON struct {
	Path  string `json:"path"`
	Exact []byte `json:"path_base64,omitempty"`
}

// JSONPath is a path of a manifest, which has no slash in front.
func JSONPath(path string) PathJSON { return JSONName("/" + path) }

// JSONName is a path as it is.
func JSONName(path string) PathJSON { return PathJSON{path, Exact(path)} }

// Exact is the text in bytes where JSON cannot represent it, else nil.
func Exact(text string) []byte {
	if utf8.ValidString(text) {
		return nil
	}
	return []byte(text)
}

// ProblemJSON is what is wrong with a path, as --json prints it.
type ProblemJSON struct {
	PathJSON
	Error string `json:"error"`
}

// ProblemsJSON are the problems of a manifest, as --json prints them.
func ProblemsJSON(problems []manifest.Problem) []ProblemJSON {
	return Each(problems, func(p manifest.Problem) ProblemJSON { return ProblemJSON{JSONPath(p.Path), p.Reason} })
}

// Each makes a list of what of makes of each element; it prints as [] when it is empty,
// not as null.
func Each[T, U any](list []T, of func(T) U) []U {
	out := make([]U, len(list))
	for i := range list {
		out[i] = of(list[i])
	}
	return out
}
