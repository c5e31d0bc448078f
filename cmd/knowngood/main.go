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
	"syscall"
	_ "time/tzdata" // for hosts that have no zone files
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	out := &printer{w: a.stdout}
	a.stdout = out
	cmd := newRoot(a)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if a.profiled != nil {
		a.profiled()
	}
	a.tellHosts(ctx, err)
	a.warnings()

	code := a.code
	if err != nil {
		code = a.fail(ctx, err)
	}
	// A command that failed keeps its own exit code.
	if lost := out.close(); lost != nil && err == nil {
		fmt.Fprintf(a.stderr, "knowngood: %v\n", lost)
		code = exitFailed
	}
	return code
}
