package generation

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"knowngood/internal/command"
	"knowngood/internal/printable"
	"knowngood/restore/isolate"
)

// Run is a command that makes the next generation of the live one: in a cell, in which the
// programs are those of this machine, and nothing but a clone of the live generation, at the
// path of the root, can be changed for good. Carried data is not there.
type Run struct {
	Argv    []string
	Cell    []string // the arguments by which this program is ServeRun in a cell
	Network bool
	Limits  isolate.Limits
	Line    func(stream, line string) // gets its output, printable and bounded
}

// Patched is the build of a generation by a command. The caller sets Name.
func (s *Set) Patched(r *Run) *Build {
	b := &Build{Clone: true, Copies: true, OnClone: "changed by a command"}
	b.Fill = func(ctx context.Context, dir string, _ bool) error {
		scratch := filepath.Join(filepath.Dir(dir), "cell")
		if err := os.Mkdir(scratch, 0o700); err != nil {
			return err
		}
		s.point("before the command")
		if err := r.in(ctx, isolate.Spec{Rung: isolate.Namespaces, Tree: dir, At: s.Config.Root, Base: "host", Network: r.Network, Scratch: scratch, Limits: r.Limits}); err != nil {
			if !r.Network {
				err = fmt.Errorf("%w; it had no network (--network gives it that of the machine)", err)
			}
			return fmt.Errorf("%w; nothing of it is live", err)
		}
		return s.remove(newName + "/cell")
	}
	return b
}

// runOrder and runReport are what goes into a cell and comes out of it, each a line of JSON.
type runOrder struct {
	Argv []string
	Dir  string
}

type runReport struct {
	Stream, Line string
	Ended        bool
	Error        string
}

const (
	maxReport  = 1 << 20
	maxReports = 2000 // lines; command.Command has a lower limit
)

// in runs the command in a new cell.
func (r *Run) in(ctx context.Context, spec isolate.Spec) (err error) {
	cell, err := isolate.Start(ctx, r.Cell, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cell.Close()) }()
	if err := json.NewEncoder(cell.In()).Encode(runOrder{r.Argv, spec.At}); err != nil {
		return err
	}
	lines := bufio.NewScanner(cell.Out())
	lines.Buffer(nil, maxReport)
	for n := 0; n < maxReports && lines.Scan(); n++ {
		var got runReport
		switch err := json.Unmarshal(lines.Bytes(), &got); {
		case err != nil:
			return fmt.Errorf("the cell of the command: %w", err)
		case got.Error != "":
			return errors.New(printable.Line(got.Error))
		case got.Ended:
			return nil
		}
		r.Line(got.Stream, printable.Line(got.Line))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("the cell of the command ended before it: %s", printable.Line(cell.Stderr()))
}

// ServeRun runs the command that is ordered on in; it is what runs in a cell.
func ServeRun(in io.Reader, out io.Writer) error {
	var o runOrder
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return err
	}
	reports := json.NewEncoder(out)
	c := command.Command{Argv: o.Argv, Dir: o.Dir, Line: func(stream, line string) { _ = reports.Encode(runReport{Stream: stream, Line: line}) }}
	last := runReport{Ended: true}
	if err := c.Run(context.Background()); err != nil {
		last.Error = err.Error()
	}
	return reports.Encode(last)
}
