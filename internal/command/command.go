// Package command runs the programs that a configuration names: hooks, sources
// whose output is captured, what is reported of failures.
//
// Whatever such a program does, Run returns. One that takes too long is asked
// to end, with all of its process group, and killed after a grace; a process
// left in the background is not waited for; output is kept within bounds, in
// memory and in the log. When this process is killed, the program is killed too, with
// its process group. Errors name the program and quote the end of what it
// wrote to standard error, never its arguments or environment: those may hold
// secrets. A program inherits no credentials of the store: see Environ.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// Command is a program to run, once.
type Command struct {
	Argv []string
	Path string   // of the file, where that is not what Argv begins with
	Env  []string // NAME=value, added to Environ
	Dir  string   // that it runs in; "" is that of this process. Not with Outside
	// Timeout ends a program that runs longer; 0 is none.
	Timeout time.Duration
	// Stdin is what it reads; nil is nothing. When reading it fails the
	// program is ended: half an input must not pass for a whole one.
	Stdin io.Reader
	// Stdout takes its standard output, at the taker's speed. When nil, that
	// goes to Line, as standard error always does.
	Stdout io.Writer
	// Line is given each line of output, stream being stdout or stderr: printable,
	// cut to 4 KiB, at most 1000 lines and 64 KiB of them. Calls do not overlap.
	Line func(stream, line string)
	// Outside runs it in a unit of its own, beyond the sandbox of ours. It needs
	// systemd; who is not root asks a server of root's (package outside).
	Outside bool

	grace time.Duration // for tests: how long it may take to end when asked
}

const (
	// grace is how long a program may take to end when asked.
	grace = 10 * time.Second
	// linger is how long output is read that nobody captures, once the program
	// itself has ended: what it wrote lies in the pipe by then.
	linger = time.Second
)

// Error is how a program failed.
type Error struct {
	Argv0    string
	ExitCode int            // -1 when it has none
	Signal   syscall.Signal // that ended it; 0 when none did
	TimedOut bool
	Tail     string // the last lines of its standard error
	// Err is what went wrong besides: it could not be started, was ended from
	// here, or its input or output failed.
	Err error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: exit status %d", e.Argv0, e.ExitCode)
	if e.Err != nil {
		text = fmt.Sprintf("%s: %v", e.Argv0, e.Err)
	} else if e.Signal != 0 {
		text = fmt.Sprintf("%s: ended by a signal: %v", e.Argv0, e.Signal)
	}
	if e.Tail != "" {
		text += ": " + strings.ReplaceAll(e.Tail, "\n", "; ")
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// errOutputOpen is about output that is captured: its end cannot be found.
var errOutputOpen = errors.New("it ended, but a process that it left behind keeps its output open: let it wait for that process, or redirect the output of that process")

// Run runs the program until it ends and its output is taken, the timeout
// passes or ctx is done. Any error is an *Error.
func (c *Command) Run(ctx context.Context) error {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return &Error{ExitCode: -1, Err: errors.New("no program is named")}
	}
	e := &Error{Argv0: c.Argv[0], ExitCode: -1}
	argv, unit := c.Argv, ""
	if c.Outside && os.Geteuid() != 0 {
		argv = c.asked()
	} else if c.Outside {
		var err error
		if argv, unit, err = c.outside(booted()); err != nil {
			e.Err = err
			return e
		}
	}
	if e.Err = ctx.Err(); e.Err != nil {
		return e
	}
	p, err := c.start(argv)
	if err != nil {
		e.Err = err
		return e
	}
	var late <-chan time.Time
	if c.Timeout > 0 {
		t := time.NewTimer(c.Timeout)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-p.settled:
		e.Err = p.failure()
	case err := <-p.failed:
		e.Err = err
	case <-ctx.Done():
		e.Err = context.Cause(ctx)
	case <-late:
		e.TimedOut = true
		e.Err = fmt.Errorf("it took longer than its timeout of %v", c.Timeout)
	}
	if e.Err != nil {
		if unit != "" {
			stopUnit(unit, p.grace)
		}
		if !p.stop() {
			e.Err = fmt.Errorf("%w; it does not end, even killed", e.Err)
			return e
		}
	}
	return p.end(e)
}
