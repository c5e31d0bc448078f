// Command knowngood captures environments as immutable, encrypted snapshots
// and restores them. Commands are one file each; they wire flags to the
// packages below and print what those return.
package main

import (
	"context"
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
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	cmd := newRoot(a)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if a.profiled != nil {
		a.profiled()
	}
	a.warnings()
	a.giveBack()
	if err == nil {
		return a.code
	}
	return a.fail(ctx, err)
}
