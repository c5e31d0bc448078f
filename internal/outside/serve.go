package outside

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"knowngood/internal/command"
)

const (
	// grace is how long a command may take to end when asked.
	grace = 10 * time.Second
	// linger is how long output is waited for that a process in the background
	// holds open, once the command has ended.
	linger = time.Second
	// asking is how long a request may take to arrive.
	asking = time.Minute
	// unread is how long output waits for the client. The daemon ends a run that
	// does nothing for two hours, so it takes output again before this, or never.
	unread = 3 * time.Hour
)

// Permission is what the configuration allows of a command.
type Permission int

// Permissions. Of a command whose output is captured each byte counts: one that
// leaves its output open in the background has failed.
// Own is this program itself, which needs the credentials that the server was given.
const (
	No Permission = iota
	Hook
	Captured
	Own
)

// Serve runs the command that is asked for over a connection, if it is allowed.
// The error is that of the connection; all other errors are answers. A client
// that sends no request, or does not read the output, is given up after a while,
// and its command is ended.
func Serve(ctx context.Context, conn *net.UnixConn, allowed func(argv []string) (Permission, error)) error {
	return serve(ctx, conn, allowed, asking, unread)
}

func serve(ctx context.Context, conn *net.UnixConn, allowed func(argv []string) (Permission, error), asking, unread time.Duration) error {
	in := bufio.NewReader(conn)
	if err := conn.SetReadDeadline(time.Now().Add(asking)); err != nil {
		return err
	}
	r, err := receive(in)
	if err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, a := &parts{conn: conn, patience: unread, broken: cancel}, answer{}
	switch may, err := allowed(r.Argv); {
	case err != nil:
		a.Error = err.Error()
	case may == No:
		a.Error = fmt.Sprintf("%s, with these arguments, is nothing with outside: true in the configuration that root sees", r.Argv[0])
	default:
		if a.Status, err = execute(ctx, in, r, out, may); err != nil {
			a.Error = err.Error()
		}
	}

	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if len(text) > maxPart {
		text, _ = json.Marshal(answer{a.Status, "what went wrong takes too many words"})
	}
	return out.write(partAnswer, text)
}

// receive reads a request. What follows it on the connection only keeps that
// open.
func receive(in *bufio.Reader) (*request, error) {
	line, err := bufio.NewReader(io.LimitReader(in, maxRequest)).ReadBytes('\n')
	r := &request{}
	if err == nil {
		err = json.Unmarshal(line, r)
	}
	if err == nil && (len(r.Argv) == 0 || r.Argv[0] == "") {
		err = errors.New("no program is named")
	}
	if err != nil {
		return nil, fmt.Errorf("a request that is none: %w", err)
	}
	return r, nil
}

// parts sends parts over a connection. After its first error it sends nothing
// more: the part may have gone in half.
type parts struct {
	conn     *net.UnixConn
	patience time.Duration // that a part waits for the reader
	broken   func()        // called with the first error

	mu  sync.Mutex
	err error
}

func (p *parts) write(kind byte, b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	part := binary.LittleEndian.AppendUint32([]byte{kind}, uint32(len(b)))
	if p.err = p.conn.SetWriteDeadline(time.Now().Add(p.patience)); p.err == nil {
		_, p.err = p.conn.Write(append(part, b...))
	}
	if p.err != nil {
		p.broken()
	}
	return p.err
}

// execute runs a command until it ends, or the connection does.
func execute(ctx context.Context, in io.Reader, r *request, out *parts, may Permission) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in)
	}()

	cmd := exec.CommandContext(ctx, r.Argv[0], r.Argv[1:]...)
	cmd.Env = append(command.Environ(), variables(r.Env)...)
	if may == Own {
		cmd.Env = os.Environ()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace

	stdout, err := newOutput(partStdout, out)
	if err != nil {
		return 0, err
	}
	defer stdout.close()
	stderr, err := newOutput(partStderr, out)
	if err != nil {
		return 0, err
	}
	defer stderr.close()
	cmd.Stdout, cmd.Stderr = stdout.w, stderr.w
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go stdout.pass()
	go stderr.pass()

	// An error is that of the context, or in the status.
	_ = cmd.Wait()
	// What is left of its group ends too.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	held := stdout.end()
	stderr.end()

	if held && may == Captured {
		return 0, errors.New("it ended, but a process that it left behind keeps its output open: let it wait for that process, or redirect the output of that process")
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// output is one stream of a command on its way to the client.
type output struct {
	kind byte
	to   *parts
	r, w *os.File
	over atomic.Bool // the command has ended
	done chan struct{}
	held bool // valid once done is closed: another process has it open
}

func newOutput(kind byte, to *parts) (*output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &output{kind: kind, to: to, r: r, w: w, done: make(chan struct{})}, nil
}

// pass sends what the command writes. When nobody takes that, it goes on to read:
// the command is asked to end, and must not wait for a reader.
func (o *output) pass() {
	defer close(o.done)
	o.w.Close()
	buf := make([]byte, maxPart)
	gone := false
	for {
		if o.over.Load() {
			_ = o.r.SetReadDeadline(time.Now().Add(linger))
		}
		n, err := o.r.Read(buf)
		if n > 0 && !gone {
			gone = o.to.write(o.kind, buf[:n]) != nil
		}
		if err != nil {
			o.held = errors.Is(err, os.ErrDeadlineExceeded)
			return
		}
	}
}

// end waits for what is left of the output of a command that has ended, and
// reports whether another process holds it open.
func (o *output) end() (held bool) {
	o.over.Store(true)
	_ = o.r.SetReadDeadline(time.Now().Add(linger))
	<-o.done
	return o.held
}

func (o *output) close() {
	o.w.Close()
	o.r.Close()
}
