package configs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"

	"github.com/goccy/go-yaml"
)

// maxFile is the longest configuration that is read, in bytes.
const maxFile = 1 << 20

// Load reads and validates a configuration file. The error joins all
// *Problems found; one that is not about the text wraps that of the system.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("configuration: %w (name another with --config; one with comments comes with the package: /usr/share/doc/knowngood/examples/config.yaml)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if st.Mode().IsRegular() && st.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("configuration %s can be changed by anyone on this machine, and it names commands to run: chmod o-w %s", path, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("configuration %s is longer than %d bytes: is it the right file?", path, maxFile)
	}
	return Parse(path, b)
}

// Parse reads and validates the text of a configuration; file names it in
// errors, which are those of Load.
func Parse(file string, text []byte) (*Config, error) {
	doc, err := parse(file, text)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	found := &problems{doc: doc}
	if doc.body != nil {
		(&shape{problems: found}).value(doc.body, reflect.TypeFor[Config](), nil)
		if err := found.err(); err != nil {
			return nil, err
		}
		if err := contained(func() error { return yaml.NodeToValue(doc.body, c) }); err != nil {
			return nil, doc.syntax(err)
		}
	}
	expand(c, found)
	c.fill(doc.has)
	(&validator{found}).config(c)
	if err := found.err(); err != nil {
		return nil, err
	}
	return c, nil
}
