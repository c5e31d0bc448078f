package configs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"

	"github.com/goccy/go-yaml"
)

// maxFile is the longest configuration that is read, in bytes.
const maxFile = 1 << 20

// LoadOptions qualify Load. The zero value judges only the text.
type LoadOptions struct {
	// Judge adds what this package cannot know to be wrong with a configuration. It
	// is asked about one that is refused, too, so that all is reported at once: values
	// in which a mistake was found may be anything, or missing.
	Judge func(*Config, Findings)
	// Forgive reports whether an earlier version of the program took the same
	// text; then what is Unfit in it is no reason to refuse it.
	Forgive func(*Config) bool
	// Advise has what is hardly meant looked for: that takes some milliseconds for
	// each environment, and refuses nothing. Where something else does, the error
	// has this, too, as a warning.
	Advise bool
}

// Load reads and validates a configuration file. The error joins all
// *Problems found; one that is not about the text wraps that of the system.
func Load(path string, o LoadOptions) (*Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &missingError{path}
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	return read(f, path, o)
}

// missingError is fs.ErrNotExist of a configuration file.
type missingError struct{ path string }

func (e *missingError) Error() string { return Missing(e.path) }

func (e *missingError) Is(target error) bool { return target == fs.ErrNotExist }

// Missing is a message about a configuration file that does not exist.
func Missing(path string) string {
	return fmt.Sprintf("there is no configuration file %s. Name yours with --config FILE, or begin with the example: cp %s %s", path, example, DefaultPath)
}

// example is a configuration with comments that comes with the package.
const example = "/usr/share/doc/knowngood/examples/config.yaml"

// read reads and validates an open file; path names it in errors.
func read(f *os.File, path string, o LoadOptions) (*Config, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("configuration %s is longer than %d bytes: is it the right file?", path, maxFile)
	}
	return Parse(path, b, o)
}

// Parse reads and validates the text of a configuration; file names it in
// errors, which are those of Load.
func Parse(file string, text []byte, o LoadOptions) (*Config, error) {
	doc, err := parse(file, text)
	if err != nil {
		return nil, err
	}
	c := &Config{Sum: sha256.Sum256(text), Empty: doc.body == nil}
	found := &problems{doc: doc}
	if doc.body != nil {
		s := &shape{problems: found}
		if usable := s.value(doc.body, reflect.TypeFor[Config](), nil); !usable || s.values >= maxValues {
			return nil, found.err()
		}
		s.leaveOut()
		if err := contained(func() error { return yaml.NodeToValue(doc.body, c) }); err != nil {
			if len(found.found) > 0 {
				return nil, found.err()
			}
			return nil, doc.syntax(err)
		}
	}

	c.Secret = firstSecret(c)
	expand(c, found)
	c.fill(doc.has)
	(&validator{found}).config(c)
	maps.DeleteFunc(c.Environments, func(_ string, e *Environment) bool { return e == nil }) // which is a mistake

	if o.Advise {
		adviser{found}.config(c)
	}
	if o.Judge != nil {
		o.Judge(c, Findings{found, slices.Concat(found.mistaken, found.invalid)})
	}
	notes := found.take(Degrading, Advice)
	refuses := slices.ContainsFunc(found.found, func(p *Problem) bool { return p.Severity == Invalid })
	forgiven := len(found.found) > 0 && o.Forgive != nil && o.Forgive(c)
	if forgiven && refuses {
		found.take(Unfit)
	}
	if refuses || len(found.found) > 0 && !forgiven {
		if o.Advise { // all that is known, at once
			for _, p := range notes {
				p.Msg = "warning: " + p.Msg
			}
			found.found = append(found.found, notes...)
		}
		return nil, found.err()
	}
	for _, p := range found.found {
		p.Msg, p.Quote = p.Msg+" (taken all the same, because an earlier version did: correct it)", ""
	}
	c.Findings = append(notes, found.found...)
	sortByPlace(c.Findings)
	return c, nil
}
