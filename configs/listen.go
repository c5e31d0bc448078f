package configs

import (
	"io"
	"os"
	"regexp"
)

var listenLine = regexp.MustCompile(`(?m)^listen:[ \t]+["']?([^\s"'#]+)`)

// Listen returns where a daemon with the configuration at path listens, even where
// that configuration is not valid. It searches the text, because it may not parse, and
// returns the default where nothing is found.
func Listen(path string) string {
	if f, err := os.Open(path); err == nil {
		defer f.Close()
		text, _ := io.ReadAll(io.LimitReader(f, maxFile)) // what was read is looked at
		if m := listenLine.FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	return Default().Listen
}
