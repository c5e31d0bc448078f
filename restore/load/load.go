// Package load gives the restored outputs of command sources to the commands
// that take them back: a dump to the program that loads it into its database.
//
// It promises that a command gets the content that the snapshot has, complete and
// verified, or is ended. It refuses to load what was not captured completely, or
// is not on the disk as the snapshot has it. It runs no command that only the
// snapshot names, unless each is confirmed: whoever held the captured host may
// have written it.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/internal/command"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
)

// Output is a restored output of a command source.
type Output struct {
	Path string   // in the snapshot
	File string   // where it was restored, absolute
	Argv []string // of the command that takes it back
	// Foreign is set when only the snapshot names the command.
	Foreign bool

	Status Status
	Err    error // why it failed, or cannot or could not be loaded

	entry *manifest.Entry // nil when it cannot be loaded
}

// Status is what was done with an output.
type Status string

// The states of an output.
const (
	NotRun Status = "not_run"
	Loaded Status = "loaded"
	Failed Status = "failed" // its command was run and failed
)

// Loadable reports whether the snapshot has the complete output.
func (o *Output) Loadable() bool { return o.entry != nil }

// maxOutputs is how many outputs are considered of those that snapshots name.
const maxOutputs = 1000

// Outputs are the outputs in the restored part of a snapshot which some command
// takes back: first those whose commands the configured sources of the
// environment name, in their order, then those of the snapshot.
func Outputs(ctx context.Context, t *snapshot.Tree, o *restore.Options, configured []configs.Source) []*Output {
	captured := map[string]*manifest.Source{}
	for i := range t.Table.Sources {
		if s := &t.Table.Sources[i]; len(s.Command) > 0 {
			captured[s.Path] = s
		}
	}

	var all []*Output
	add := func(out *Output) {
		if len(all) < maxOutputs && manifest.Within(out.Path, o.Under) && (o.Select == nil || o.Select.Decide(out.Path, false) == filter.Include) {
			out.Status, out.File = NotRun, fileOf(o, out.Path)
			out.entry, out.Err = find(ctx, t, out.Path)
			all = append(all, out)
		}
	}
	for _, c := range configured {
		if captured[c.As] != nil && len(c.Command) > 0 && len(c.Restore) > 0 {
			delete(captured, c.As)
			add(&Output{Path: c.As, Argv: c.Restore})
		}
	}
	for _, s := range t.Table.Sources {
		if captured[s.Path] != nil && len(s.Restore) > 0 {
			delete(captured, s.Path)
			add(&Output{Path: s.Path, Argv: s.Restore, Foreign: true})
		}
	}
	return all
}

// fileOf returns where a path of the snapshot was restored. A single file lies in the
// target when that is a directory; else it is the target.
func fileOf(o *restore.Options, p string) string {
	file := filepath.Join(o.Target, strings.TrimPrefix(p, o.Under))
	if st, err := os.Stat(file); p == o.Under && (strings.HasSuffix(o.Target, "/") || err == nil && st.IsDir()) {
		file = filepath.Join(o.Target, path.Base(p))
	}
	if abs, err := filepath.Abs(file); err == nil {
		return abs
	}
	return file
}

// find returns the entry of an output, if it can be loaded.
func find(ctx context.Context, t *snapshot.Tree, path string) (*manifest.Entry, error) {
	e, err := t.Find(ctx, path)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, errors.New("the snapshot does not have it")
	case e.Type != manifest.File || e.Flags&manifest.Command == 0:
		return nil, errors.New("it is not the output of a command")
	case e.Flags&manifest.Incomplete != 0:
		return nil, errors.New("it was not captured whole")
	}
	return e, nil
}

// Options select which outputs are loaded, and how.
type Options struct {
	// Confirm, when set, is asked before each foreign command; an error keeps
	// it from running. When nil no foreign command is run.
	Confirm func(context.Context, *Output) error
	// Limit ends a command that runs longer; 0 is none.
	Limit time.Duration
	// Begin and Line, when set, get each command that begins, and each line that it
	// prints.
	Begin func(*Output)
	Line  func(o *Output, line string)
}

// ErrFailed means that the command of an output failed.
var ErrFailed = errors.New("not loaded: its command failed")

// errForeign keeps a foreign command from running.
var errForeign = errors.New("the snapshot alone names its command")

// Run loads the outputs, one after the other, until a command fails. Each of them
// gets its status; the error is that of ctx, or ErrFailed with the output that
// failed.
func Run(ctx context.Context, t *snapshot.Tree, all []*Output, o Options) error {
	var failed *Output
	for _, out := range all {
		switch {
		case out.Err != nil:
		case failed != nil:
			out.Err = fmt.Errorf("the command of %q failed before", failed.Path)
		case out.Foreign && o.Confirm == nil:
			out.Err = errForeign
		default:
			if out.Err = one(ctx, t, out, &o); ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if out.Status == Failed {
			failed = out
		}
	}
	if failed != nil {
		return fmt.Errorf("%q: %w", failed.Path, ErrFailed)
	}
	return nil
}

// one loads an output, all of which was verified before its command begins.
func one(ctx context.Context, t *snapshot.Tree, out *Output, o *Options) error {
	if err := restore.CatRestored(ctx, t, out.entry, out.File, io.Discard); err != nil {
		return err
	}
	if out.Foreign {
		if err := o.Confirm(ctx, out); err != nil {
			return err
		}
	}
	if o.Begin != nil {
		o.Begin(out)
	}

	in, content := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		content.CloseWithError(restore.CatRestored(ctx, t, out.entry, out.File, content))
	}()
	s := t.Snapshot
	c := command.Command{Argv: out.Argv, Stdin: in, Timeout: o.Limit,
		Env: []string{"KNOWNGOOD_ENVIRONMENT=" + s.Environment, "KNOWNGOOD_HOST=" + s.Host, "KNOWNGOOD_SNAPSHOT=" + s.Ref(), "KNOWNGOOD_FILE=" + out.File},
		Line: func(_, line string) {
			if o.Line != nil {
				o.Line(out, line)
			}
		}}
	err := c.Run(ctx)
	in.Close()
	<-written
	if out.Status = Loaded; err != nil {
		out.Status = Failed
	}
	return err
}
