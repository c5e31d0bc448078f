package outside

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// grace is how long a command may take to end when asked.
const grace = 10 * time.Second

// Serve runs the command that is asked for over a connection, if it is allowed.
// The error is that of the connection; whatever else fails is answered.
func Serve(ctx context.Context, conn *net.UnixConn, allowed func(argv []string) (bool, error)) error {
	r, stdout, stderr, err := receive(conn)
	if err != nil {
		return err
	}
	defer closeAll([]*os.File{stdout, stderr})
	a := answer{}
	if ok, err := allowed(r.Argv); err != nil {
		a.Error = err.Error()
	} else if !ok {
		a.Error = fmt.Sprintf("%s, with these arguments, is nothing with outside: true in the configuration that root sees", r.Argv[0])
	} else if a.Status, err = execute(ctx, conn, &r, stdout, stderr); err != nil {
		a.Error = err.Error()
	}
	return json.NewEncoder(conn).Encode(a)
}

// execute runs a command until it ends, or the connection does.
func execute(ctx context.Context, conn *net.UnixConn, r *request, stdout, stderr *os.File) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, conn)
	}()
	cmd := exec.CommandContext(ctx, r.Argv[0], r.Argv[1:]...)
	cmd.Env = append(os.Environ(), variables(r.Env)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return 0, err // it was not started
	}
	// What is left of its group ends too.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}
