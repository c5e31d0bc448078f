package main

import (
	"bufio"
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

// The values of --load: which commands take restored outputs back.
const (
	loadConfigured = "configuration" // those that the configuration names
	loadSnapshot   = "snapshot"      // those, too, that the snapshot alone names
)

// loadFlags say what happens to the restored outputs of command sources.
type loadFlags struct {
	which   string // "" shows the commands
	timeout string
	limit   time.Duration
}

func (f *loadFlags) check() error {
	switch f.which {
	case "", loadConfigured, loadSnapshot:
	default:
		return usagef("--load: %q is neither %s nor %s", f.which, loadConfigured, loadSnapshot)
	}
	if f.timeout != "" {
		d, err := configs.ParseDuration(f.timeout)
		if err != nil {
			return usagef("--load-timeout: %w", err)
		}
		f.limit = time.Duration(d)
	}
	if f.which != loadSnapshot {
		return nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return usagef("--load=snapshot runs commands that the captured host wrote, and asks before each: it takes a terminal, and there is none")
	}
	return tty.Close()
}

// load is the restored output of a command source, and the command that takes
// it back.
type load struct {
	entry *manifest.Entry
	as    string // path of the output in the snapshot
	place string // where it was restored
	argv  []string
	// foreign is a command that the snapshot alone names: whoever held the
	// captured host may have written it.
	foreign bool
	status  string // loaded, failed, not_run
	err     error  // why it failed, or was not run; nil where nobody asked for it
}

// loads are the outputs in the part of a snapshot that was restored which some
// command takes back: first those whose commands the configuration names, in its
// order.
func (a *app) loads(ctx context.Context, t *snapshot.Tree, o *restore.Options) []*load {
	var configured []configs.Source
	if env := a.config.Environments[t.Snapshot.Environment]; env != nil {
		configured = env.Sources
	}
	var own, others []*load
	taken := map[string]bool{}
	for _, c := range configured {
		for i := range t.Table.Sources {
			if s := &t.Table.Sources[i]; len(s.Command) > 0 && s.Path == c.As && len(c.Command) > 0 && len(c.Restore) > 0 {
				own, taken[s.Path] = append(own, &load{as: s.Path, argv: c.Restore}), true
			}
		}
	}
	for i := range t.Table.Sources {
		if s := &t.Table.Sources[i]; len(s.Command) > 0 && len(s.Restore) > 0 && !taken[s.Path] {
			others = append(others, &load{as: s.Path, argv: s.Restore, foreign: true})
		}
	}

	var all []*load
	for _, l := range append(own, others...) {
		if !manifest.Within(l.as, o.Under) || o.Select != nil && o.Select.Decide(l.as, false) != filter.Include {
			continue
		}
		l.place, l.status = placeOf(o, l.as), "not_run"
		e, err := t.Find(ctx, l.as)
		switch {
		case err != nil:
			l.err = err
		case e == nil:
			l.err = errors.New("the snapshot does not have it")
		case e.Type != manifest.File || e.Flags&manifest.Command == 0:
			l.err = errors.New("it is not the output of a command")
		case e.Flags&manifest.Incomplete != 0:
			l.err = errors.New("it was not captured whole")
		default:
			c := *e
			l.entry = &c
		}
		all = append(all, l)
	}
	return all
}

// placeOf is where a path of the snapshot is restored, as an absolute path.
func placeOf(o *restore.Options, p string) string {
	place := filepath.Join(o.Target, strings.TrimPrefix(p, o.Under))
	if p == o.Under {
		place = filepath.Join(o.Target, path.Base(p))
	}
	if abs, err := filepath.Abs(place); err == nil {
		return abs
	}
	return place
}

// errNotLoaded says that an output could not be loaded.
var errNotLoaded = errors.New("not loaded")

// takeBack runs the commands that take the restored outputs back, as far as flags
// ask for it, one after the other until one fails.
func (a *app) takeBack(ctx context.Context, f *loadFlags, t *snapshot.Tree, o *restore.Options) ([]*load, error) {
	all := a.loads(ctx, t, o)
	if f.which == "" {
		return all, nil
	}
	failed := ""
	for _, l := range all {
		switch {
		case l.err != nil:
		case failed != "":
			l.err = fmt.Errorf("the command for %s failed before", printable(failed))
		case l.foreign && f.which != loadSnapshot:
			l.err = errors.New("the configuration does not name this command: --load=snapshot runs it")
		case o.DryRun:
			continue
		default:
			if l.err = a.loadOne(ctx, f, t, l); ctx.Err() != nil {
				return all, ctx.Err()
			}
		}
		switch {
		case l.err == nil:
			l.status = "loaded"
		case l.status == "failed":
			failed = l.as
		case a.code == exitDone && !o.DryRun:
			a.code = exitIncomplete
		}
	}
	if failed != "" {
		return all, fmt.Errorf("%w: %s: its command failed", errNotLoaded, printable(failed))
	}
	return all, nil
}

// maxConfirmed is how long a command may be, as it is shown, to be confirmed.
const maxConfirmed = 4096

// loadOne gives a restored output to its command, when all of it is as the
// snapshot has it.
func (a *app) loadOne(ctx context.Context, f *loadFlags, t *snapshot.Tree, l *load) error {
	if err := restore.CatRestored(ctx, t, l.entry, l.place, io.Discard); err != nil {
		return err
	}
	if l.foreign {
		if err := confirm(ctx, l, t.Snapshot.Ref()); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.stderr, "knowngood: loading %s: %s\n", printable(l.as), commandLine(l.argv))

	in, out := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		out.CloseWithError(restore.CatRestored(ctx, t, l.entry, l.place, out))
	}()
	c := command.Command{Argv: l.argv, Stdin: in, Timeout: f.limit,
		Env: []string{"KNOWNGOOD_ENVIRONMENT=" + t.Snapshot.Environment, "KNOWNGOOD_HOST=" + t.Snapshot.Host, "KNOWNGOOD_SNAPSHOT=" + t.Snapshot.Ref(), "KNOWNGOOD_FILE=" + l.place},
		Line: func(_, line string) {
			fmt.Fprintf(a.stderr, "knowngood: loading %s: %s\n", printable(l.as), line)
		}}
	err := c.Run(ctx)
	in.Close()
	<-done
	if err != nil {
		l.status = "failed"
	}
	return err
}

// confirm asks at the terminal whether a command that the snapshot names may run.
func confirm(ctx context.Context, l *load, ref string) error {
	shown := commandLine(l.argv)
	if len(shown) > maxConfirmed {
		return fmt.Errorf("its command is longer than %d bytes: look at it with knowngood show %s, and run it by hand", maxConfirmed, ref)
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("there is no terminal to ask at: %w", err)
	}
	defer tty.Close()
	defer context.AfterFunc(ctx, func() { tty.Close() })()
	fmt.Fprintf(tty, "The snapshot %s names a command to load %s. Whoever held that host may have written it:\n  %s\nRun it as this user? Type yes: ", ref, printable(l.as), shown)
	answer, err := bufio.NewReader(tty).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return errors.New("it was not confirmed")
	}
	return nil
}

// printLoads shows how restored outputs are taken back, or whether they were.
func (a *app) printLoads(all []*load, asked bool) {
	if asked && len(all) == 0 {
		a.printf("nothing to load: no output that a command takes back was restored\n")
	}
	for _, l := range all {
		name := printable(l.as)
		how := commandLine(l.argv) + " < " + quoted(l.place)
		if len(how) > maxConfirmed {
			how = "a command that is too long to be shown here: see knowngood show"
		}
		switch {
		case l.status == "loaded":
			a.printf("loaded %s\n", name)
		case l.status == "failed":
			a.printf("FAILED to load %s: %s\n", name, oneLine(l.err))
		case l.err != nil && (asked || l.entry == nil):
			a.printf("not loaded: %s: %s\n", name, oneLine(l.err))
		}
		switch {
		case l.status == "loaded" || l.entry == nil:
		case l.foreign:
			a.printf("to load %s, by a command that the snapshot alone names (look at it first): %s\n", name, how)
		default:
			a.printf("to load %s: %s\n", name, how)
		}
	}
}

// loadJSON is a restored output as --json prints it.
type loadJSON struct {
	pathJSON
	File        string   `json:"file"` // where it was restored
	ExactFile   []byte   `json:"file_base64,omitempty"`
	Command     []string `json:"command"`
	CommandFrom string   `json:"command_from"` // configuration or snapshot
	Status      string   `json:"status"`       // loaded, failed or not_run
	Error       string   `json:"error,omitempty"`
}

func loadsJSON(all []*load) []loadJSON {
	out := []loadJSON{}
	for _, l := range all {
		j := loadJSON{jsonName(l.as), l.place, exact(l.place), l.argv, loadConfigured, l.status, ""}
		if l.foreign {
			j.CommandFrom = loadSnapshot
		}
		if l.err != nil {
			j.Error = l.err.Error()
		}
		out = append(out, j)
	}
	return out
}
