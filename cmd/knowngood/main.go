// Command knowngood captures environments as immutable, encrypted snapshots
// and restores them. Commands are one file each; they wire flags to the
// packages below and print what those return.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // for hosts that have no zone files
)

// version is set at link time.
var version = "0.1.0-dev"

func main() {
	// Most of the heap are a few large buffers: collecting often costs little
	// and keeps the peak low. GOMEMLIMIT overrides the limit.
	debug.SetGCPercent(25)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(152 << 20)
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	out := &printer{w: stdout}
	a := &app{stdin: stdin, stdout: out, stderr: stderr}
	cmd := newRoot(a)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if a.profiled != nil {
		a.profiled()
	}
	a.warnings()
	a.giveBack()

	code := a.code
	if err != nil {
		code = a.fail(ctx, err)
	}
	// A command that failed keeps its own exit code.
	if lost := out.close(); lost != nil && err == nil {
		fmt.Fprintf(stderr, "knowngood: %v\n", lost)
		code = exitFailed
	}
	return code
}
