package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/restore/load"
	"knowngood/snapshot"
)

// The values of --load: which commands take restored outputs back.
const (
	loadConfigured = "configuration" // those that the configuration names
	loadSnapshot   = "snapshot"      // also those that only the snapshot names
)

// loadFlags are what happens to the restored outputs of command sources.
type loadFlags struct {
	which   string // "" shows the commands
	timeout string
	limit   time.Duration
}

func (f *loadFlags) check() error {
	switch f.which {
	case "", loadConfigured, loadSnapshot:
	default:
		return usage.Errorf("--load: %q is neither %s nor %s", f.which, loadConfigured, loadSnapshot)
	}
	if f.timeout != "" {
		d, err := configs.ParseDuration(f.timeout)
		if err != nil {
			return usage.Errorf("--load-timeout: %w", err)
		}
		f.limit = time.Duration(d)
	}
	if f.which != loadSnapshot {
		return nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return usage.Errorf("--load=snapshot runs commands that the captured host wrote, and asks before each: it takes a terminal, and there is none")
	}
	return tty.Close()
}

// takeBack runs the commands that take restored outputs back, as far as flags ask
// for it, and shows those that are left to be run.
func takeBack(ctx context.Context, sess *session.Session, f *loadFlags, t *snapshot.Tree, o *restore.Options) ([]*load.Output, error) {
	var configured []configs.Source
	if env := sess.Config.Environments[t.Snapshot.Environment]; env != nil {
		configured = env.Sources
	}
	outputs := load.Outputs(ctx, t, o, configured)
	asked := f.which != ""
	var err error
	if asked && !o.DryRun {
		lo := load.Options{Limit: f.limit,
			Begin: func(out *load.Output) {
				sess.Out.Messagef("loading %s: %s", printable.Name(out.Path), printable.Command(out.Argv))
			},
			Line: func(out *load.Output, line string) {
				sess.Out.Messagef("loading %s: %s", printable.Name(out.Path), line)
			}}
		if f.which == loadSnapshot {
			lo.Confirm = func(ctx context.Context, out *load.Output) error { return confirm(ctx, out, t.Snapshot.Ref()) }
		}
		err = load.Run(ctx, t, outputs, lo)
		for _, out := range outputs {
			if out.Status == load.NotRun && sess.Out.Code == exit.Done {
				sess.Out.Code = exit.Incomplete
			}
		}
	}
	present.Outputs(sess.Out, outputs, asked)
	return outputs, err
}

// confirm asks at the terminal whether a command that the snapshot names may run.
func confirm(ctx context.Context, out *load.Output, ref string) error {
	shown := printable.Command(out.Argv)
	if len(shown) > present.MaxCommand {
		return fmt.Errorf("its command is longer than %d bytes: look at it with knowngood show %s, and run it by hand", present.MaxCommand, ref)
	}
	question := fmt.Sprintf("The snapshot %s names a command to load %s. An attacker who controlled that host may have written it:\n  %s\nRun it as this user?", ref, printable.Name(out.Path), shown)
	yes, err := console.Confirm(ctx, question)
	if err == nil && !yes {
		err = errors.New("it was not confirmed")
	}
	return err
}
