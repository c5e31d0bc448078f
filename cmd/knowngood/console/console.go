// Package console is what a command leaves for its caller: text for people or
// objects of JSON for programs, messages, and the exit code.
package console

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"strings"

	"knowngood/internal/printable"
)

// Console is where a command prints.
type Console struct {
	Stdout, Stderr *Stream

	JSON  bool // print objects of JSON, no text for people
	Quiet bool // print no progress and no notes

	// Code is the exit code of a command that completes. One that returns an error
	// ends with the code of that.
	Code int
}

// New returns a console that writes to the streams of a process.
func New(stdout, stderr io.Writer) *Console {
	return &Console{Stdout: &Stream{w: stdout}, Stderr: &Stream{w: stderr, goesOn: true}}
}

// Mute drops messages from now on.
func (c *Console) Mute() { c.Stderr = &Stream{w: io.Discard} }

// Printf prints for people; with --json it prints nothing.
func (c *Console) Printf(format string, args ...any) {
	if !c.JSON {
		fmt.Fprintf(c.Stdout, format, args...)
	}
}

// Result prints an object of --json; without it nothing. In a map a value that is nil is
// not known and left out, and a list without entries is printed as [].
func (c *Console) Result(v any) error {
	if !c.JSON {
		return nil
	}
	if fields, ok := v.(map[string]any); ok {
		for name, value := range fields {
			switch x := reflect.ValueOf(value); {
			case !x.IsValid(), x.Kind() == reflect.Pointer && x.IsNil():
				delete(fields, name)
			case x.Kind() == reflect.Slice && x.IsNil():
				fields[name] = []any{}
			}
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Stdout, "%s\n", printable.JSON(b))
	return err
}

// Messagef prints a line on standard error, with all flags.
func (c *Console) Messagef(format string, args ...any) {
	fmt.Fprintf(c.Stderr, "knowngood: "+format+"\n", args...)
}

// Notef prints a line on standard error that helps to understand the output,
// unless --quiet is given.
func (c *Console) Notef(format string, args ...any) {
	if !c.Quiet {
		c.Messagef("%s", printable.Line(fmt.Sprintf(format, args...)))
	}
}

// Warnf prints a warning, with --quiet too.
func (c *Console) Warnf(format string, args ...any) {
	c.Messagef("warning: %s", printable.Line(fmt.Sprintf(format, args...)))
}

// Self is how this program is started again, in commands that are shown for
// copying: by its name where that is in the PATH, else by its file. One that go
// run made is gone, or may be, and is made again.
func Self() string {
	path, err := os.Executable()
	if err != nil {
		return "knowngood"
	}
	if strings.Contains(path, "/go-build") {
		return "go run ./cmd/knowngood"
	}
	if found, err := exec.LookPath("knowngood"); err == nil {
		a, aerr := os.Stat(path)
		b, berr := os.Stat(found)
		if aerr == nil && berr == nil && os.SameFile(a, b) {
			return "knowngood"
		}
	}
	return printable.Word(path)
}
