// Command knowngood captures environments as immutable, encrypted snapshots
// and restores them. Commands are one file each; they wire flags to the
// packages below and print what those return.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	_ "time/tzdata" // for hosts that have no zone files

	"github.com/spf13/cobra"
)

// version is set at link time.
var version = "0.1.0-dev"

func main() { start(&app{}) }

// start runs the program as a process of its own, and ends it.
func start(a *app) {
	// Most of the heap are a few large buffers: collecting often costs little
	// and keeps the peak low. GOMEMLIMIT overrides the limit.
	debug.SetGCPercent(25)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(152 << 20)
	}
	a.stdin, a.stdout, a.stderr = os.Stdin, os.Stdout, os.Stderr
	os.Exit(a.run(os.Args[1:]))
}

// run is the program: it returns the exit code.
func (a *app) run(args []string) int {
	out, notes := &printer{w: a.stdout}, &printer{w: a.stderr, goesOn: true}
	a.stdout, a.stderr = out, notes
	cmd := newRoot(a)
	nameCommands(cmd)
	cmd.SetArgs(args)
	ctx, stop := signals(commandName(cmd, args))
	defer stop()
	err := cmd.ExecuteContext(ctx)
	if a.profiled != nil {
		a.profiled()
	}
	a.tellHosts(ctx, err)
	tampered := a.warnings()

	code := a.code
	switch {
	case err != nil:
		code = a.fail(ctx, err)
	case tampered && (code == exitDone || code == exitIncomplete):
		code = exitDamage
		fmt.Fprintln(a.stderr, "knowngood: this is done, and somebody tampered with the repository: see the warnings above")
	}
	// A command that failed keeps its own exit code.
	if lost := out.close(); lost != nil && err == nil {
		fmt.Fprintf(a.stderr, "knowngood: %v\n", lost)
		code = exitFailed
	}
	if notes.lost() != nil && err == nil { // warnings, perhaps
		code = exitFailed
	}
	return code
}

// printing are the commands that do nothing but print: when nobody reads that any
// more, a broken pipe ends them at once.
var printing = []string{"ls", "cat", "find", "diff", "list", "show", "stats", "status", "help", "man", "version", "completion"}

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
// end. A second one ends the program at once, but for SIGHUP: a terminal that is
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
