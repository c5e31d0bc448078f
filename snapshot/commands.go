package snapshot

import (
	"context"
	"fmt"
	"io"
	"slices"

	"knowngood/snapshot/manifest"
)

// Command is a command whose standard output is captured as a file.
type Command struct {
	Argv    []string
	Restore []string // arguments of the command that takes the output back; may be none
	As      string   // path of the file in the snapshot
	Run     func(ctx context.Context, argv []string, stdout io.Writer) error
}

// runCommands captures the output of every command and makes the entries,
// those of the implied directories included, in path order.
func (c *capture) runCommands(ctx context.Context) ([]*item, error) {
	if len(c.Commands) == 0 || c.DryRun {
		return nil, nil
	}
	if err := checkCommands(c.Commands); err != nil {
		return nil, err
	}
	r := c.newContentReader()
	now := manifest.Time{Sec: c.started.Unix()}
	byPath := map[string]*item{}
	for _, cmd := range c.Commands {
		pr, pw := io.Pipe()
		failed := make(chan error, 1)
		go func() {
			err := cmd.Run(ctx, cmd.Argv, pw)
			failed <- err
			pw.CloseWithError(err)
		}()
		e := &manifest.Entry{Path: cmd.As, Type: manifest.File, Flags: manifest.Command, Mode: 0o600, Mtime: now, Stat: &manifest.Stat{}}
		f := &file{entry: e}
		err := r.read(ctx, pr, f)
		pr.CloseWithError(err)
		if runErr := <-failed; runErr != nil {
			return nil, &CommandError{cmd.As, runErr}
		}
		if err != nil {
			return nil, err
		}
		e.Size = chunked(e)
		c.Progress.Files.Add(1)
		c.Progress.FilesRead.Add(1)
		byPath[e.Path] = &item{entry: e, file: f}
		for i, b := range cmd.As {
			if b == '/' && byPath[cmd.As[:i]] == nil {
				byPath[cmd.As[:i]] = &item{entry: &manifest.Entry{Path: cmd.As[:i], Type: manifest.Dir, Flags: manifest.Implied | manifest.Command, Mode: 0o700, Mtime: now, Stat: &manifest.Stat{}}}
			}
		}
	}
	if byPath[""] == nil {
		byPath[""] = &item{entry: &manifest.Entry{Type: manifest.Dir, Flags: manifest.Implied | manifest.Command, Mode: 0o755, Mtime: now, Stat: &manifest.Stat{}}}
	}
	items := make([]*item, 0, len(byPath))
	for _, it := range byPath {
		items = append(items, it)
	}
	slices.SortFunc(items, func(a, b *item) int { return manifest.Compare(a.entry.Path, b.entry.Path) })
	return items, nil
}

// checkCommands refuses paths that cannot all be in one tree, before a command
// runs for hours.
func checkCommands(commands []Command) error {
	for i, c := range commands {
		if c.As == "" || !manifest.ValidPath(c.As) {
			return fmt.Errorf("command source %q: not a path that its output could have", c.As)
		}
		for j, o := range commands {
			if i != j && manifest.Within(c.As, o.As) {
				return fmt.Errorf("command source %q: another has the path %q: give one of them another path", c.As, o.As)
			}
		}
	}
	return nil
}

// CommandError means that a command source failed, and so the snapshot.
type CommandError struct {
	As  string
	Err error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("command source %q: %v: no snapshot was taken", e.As, e.Err)
}

func (e *CommandError) Unwrap() error { return e.Err }
