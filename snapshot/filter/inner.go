package filter

import (
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Inner are patterns that were given for several sources, as they apply to the
// one at an absolute path: a pattern that leads into it from the top of another
// source, above, means in it what is left of the pattern. What cannot be
// compiled is left as it is.
func Inner(source string, sources, patterns []string) []string {
	var out []string
	for _, p := range patterns {
		out = append(out, p)
		all, err := expand(p)
		if err != nil {
			continue
		}
		for _, above := range sources {
			above = strings.TrimSuffix(path.Clean(above), "/") + "/"
			rel, ok := strings.CutPrefix(path.Clean(source), above)
			if !ok || rel == "" || above != "/" && strings.HasPrefix(strings.TrimPrefix(p, "!"), above) {
				continue // an absolute path means the same for all
			}
			for _, p := range all {
				if rest := leadsInto(p, rel); rest != "" {
					out = append(out, rest)
				}
			}
		}
	}
	return out
}

// leadsInto is what is left of a pattern below the directory rel, from its top;
// "" when the pattern does not lead there by a component for each of its own.
func leadsInto(pattern, rel string) string {
	rest, not := strings.CutPrefix(pattern, "!")
	rest = strings.TrimPrefix(rest, "/")
	for part := range strings.SplitSeq(rel, "/") {
		head, below, _ := strings.Cut(rest, "/")
		if ok, err := doublestar.Match(escapeBytes(head), escapeBytes(part)); below == "" || head == "**" || err != nil || !ok {
			return ""
		}
		rest = below
	}
	if not {
		return "!/" + rest
	}
	return "/" + rest
}
