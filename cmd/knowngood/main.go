// Command knowngood captures environments as immutable, encrypted snapshots
// and restores them. Commands are one file each; they wire flags to the
// packages below and print what those return.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	_ "time/tzdata" // for hosts that have no zone files

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/web"
	"knowngood/internal/printable"
	"knowngood/restore/drill"
	"knowngood/storage/authentic"

	"github.com/spf13/cobra"
)

// version is set at link time.
var version = "0.1.0-dev"

func main() { start(func(*session.Session) {}) }

// start runs the program as a process of its own, and ends it; tests adjust the session.
func start(adjust func(*session.Session)) {
	// Most of the heap are a few large buffers: collecting often costs little
	// and keeps the peak low. GOMEMLIMIT overrides the limit.
	debug.SetGCPercent(25)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(152 << 20)
	}
	sess := session.New(console.New(os.Stdout, os.Stderr), version)
	adjust(sess)
	os.Exit(run(sess, os.Args[1:]))
}

// run is the program: it returns the exit code.
func run(sess *session.Session, args []string) int {
	cmd := newRoot(sess)
	usage.CheckNames(cmd)
	cmd.SetArgs(args)
	ctx, stop := signals(commandName(cmd, args))
	defer stop()
	err := cmd.ExecuteContext(ctx)
	sess.Damage.Add(err)
	if sess.Repo != nil && ctx.Err() == nil {
		sess.Damage.Report(ctx, sess.Repo, sess.Out)
	}
	tampered := printFindings(sess.Out, sess.Findings.Take())

	code := sess.Out.Code
	switch {
	case err != nil:
		code = fail(ctx, sess.Out, err)
	case tampered && (code == exit.Done || code == exit.Incomplete):
		code = exit.Damage
		sess.Out.Messagef("this is done, and somebody tampered with the repository: see the warnings above")
	}
	// A command that failed keeps its own exit code.
	if lost := sess.Out.Stdout.Close(); lost != nil && err == nil {
		sess.Out.Messagef("%v", lost)
		code = exit.Failed
	}
	if sess.Out.Stderr.Lost() != nil && err == nil { // warnings, perhaps
		code = exit.Failed
	}
	return code
}

// fail prints the error that a command ended with, and returns the exit code.
func fail(ctx context.Context, out *console.Console, err error) int {
	code := exit.Code(ctx, err)
	switch {
	case code != exit.Interrupted:
	case errors.Is(err, web.ErrGoesOn):
		err = fmt.Errorf("interrupted: %w; knowngood status shows it", web.ErrGoesOn)
	case errors.Is(err, generations.ErrInterrupted):
	case errors.Is(err, drill.ErrStopped):
		err = fmt.Errorf("interrupted: %w", drill.ErrStopped)
	default:
		err = errors.New("interrupted: what was done so far is kept, run the same command again to go on")
	}
	out.Result(map[string]any{"type": "error", "error": err.Error(), "exit_code": code})
	text := err.Error()
	if code != exit.Usage { // a store or a host may have chosen a part of it
		text = printable.Error(err)
	}
	out.Messagef("%s", text)
	return code
}

// printFindings prints what the repository found wrong and worked around, and reports
// whether somebody tampered with it.
func printFindings(out *console.Console, findings []authentic.Finding) (tampered bool) {
	var errs []error
	for _, f := range findings {
		errs = append(errs, f.Err)
		tampered = tampered || f.Kind == authentic.Tampering
	}
	console.PrintErrors(out, "knowngood: warning: ", errs)
	return tampered
}

// printing are the commands that do nothing but print: when nobody reads that any
// more, a broken pipe ends them at once.
var printing = []string{"ls", "cat", "find", "diff", "timeline", "list", "show", "stats", "status", "help", "man", "version", "completion"}

// commandName is the first word of the command that the arguments name; empty when
// they name none.
func commandName(root *cobra.Command, args []string) string {
	cmd, _, err := root.Find(args)
	if err != nil || cmd == root {
		return ""
	}
	return strings.Fields(cmd.CommandPath())[1]
}

// signals returns a context that ends with the first signal that asks a command to
// end. A second one ends the program at once, except SIGHUP: a terminal that is
// lost sends several.
func signals(command string) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	// A hook inherits a signal that is ignored, not one that is caught.
	caught := func(s os.Signal) chan os.Signal {
		c := make(chan os.Signal, 1)
		signal.Notify(c, s)
		return c
	}
	if !slices.Contains(printing, command) {
		caught(syscall.SIGPIPE) // writing fails instead
	}
	if command == "daemon" || signal.Ignored(syscall.SIGHUP) { // it reloads; nohup
		return ctx, stop
	}

	ctx, cancel := context.WithCancel(ctx)
	hangup := caught(syscall.SIGHUP)
	go func() {
		select {
		case <-hangup:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel()
		stop()
	}
}
