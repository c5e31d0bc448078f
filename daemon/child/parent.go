package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/daemon/runner"
	"knowngood/snapshot"
	"knowngood/storage/authentic"
	"knowngood/storage/throttle"
)

// arguments are those with which the program is started to be a child.
var arguments = []string{"internal", "capture"}

// grace is how long a child that was asked to end may take before it is killed.
// It leaves time for hooks until the service manager waits no longer.
const grace = 30 * time.Second

// Parent starts children.
type Parent struct {
	Memory   *Memory
	Findings func(authentic.Finding)
}

// Run has a child do a job within limits, and returns what it made. What it was
// answered is added to job.Replies.
func (p *Parent) Run(ctx context.Context, job *Job, limits throttle.Limits, at *snapshot.Progress) (*runner.Made, error) {
	process, conn, err := start()
	if err != nil {
		return nil, fmt.Errorf("start the process of the run: %w", err)
	}
	defer conn.Close()
	w := newWire(conn)
	grants := [2]throttle.Limiter{limits.Upload, limits.Download}
	sent := *job
	sent.Replies, sent.Limited = job.Replies.Copy(), [2]bool{limits.Upload != nil, limits.Download != nil}
	w.send(message{Job: &sent})
	defer p.Memory.Join(func(bytes int64) { w.send(message{Memory: bytes}) })()
	defer context.AfterFunc(ctx, func() {
		_ = conn.CloseWrite()
		select {
		case <-time.After(grace):
			_ = process.cmd.Process.Kill()
		case <-process.ended:
		}
	})()

	var ended *end
	in := json.NewDecoder(conn)
	for ended == nil {
		var m message
		if in.Decode(&m) != nil {
			break
		}
		switch {
		case m.Bytes != nil:
			go func() {
				if grants[m.Bytes.Direction&1].WaitN(ctx, m.Bytes.N) == nil {
					w.send(message{Bytes: m.Bytes})
				}
			}()
		case m.Progress != nil:
			for i, n := range fields(at) {
				n.Store(m.Progress[i])
			}
		case m.Warning != "":
			at.Warn(m.Warning)
		case m.Note != "":
			at.Note(m.Note)
		case m.Finding != nil:
			f := m.Finding
			p.Findings(authentic.Finding{Kind: f.Kind, Key: f.Key, Expected: f.Expected, Found: f.Found, Since: f.Since, Err: errors.New(f.Text)})
		case m.End != nil:
			ended = m.End
		}
	}
	_ = conn.CloseWrite() // then it ends, whatever it is at
	<-process.ended
	switch {
	case ended == nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case ended == nil:
		return nil, &runner.DiedError{How: process.cmd.ProcessState.String()}
	}
	job.Replies.Merge(ended.Replies)
	if ended.Error != "" {
		return nil, &runner.ElsewhereError{Text: ended.Error, Transient: ended.Transient}
	}
	return ended.Made, nil
}

// fields are the counters that are sent.
func fields(p *snapshot.Progress) []*atomic.Uint64 {
	return []*atomic.Uint64{&p.Files, &p.Bytes, &p.FilesRead, &p.BytesRead, &p.Unchanged, &p.Problems, &p.Expected, &p.Verified}
}

// process is a child.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// start starts this program as a child, with one of a pair of sockets; conn is the
// other one. The child dies with this process.
func start() (*process, *net.UnixConn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "parent")
	defer ours.Close()
	defer theirs.Close()
	conn, err := Conn(ours)
	if err != nil {
		return nil, nil, err
	}
	// The very file that runs here, also after an upgrade.
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{os.Args[0]}, arguments...), Stderr: os.Stderr, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}}
	p := &process{cmd, make(chan struct{})}
	started := make(chan error)
	go func() {
		// To the kernel the parent that dies is the thread, which must live on.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its state has the result
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		conn.Close()
		return nil, nil, err
	}
	return p, conn, nil
}

// Conn is the connection of a socket in a file, which may be closed then.
func Conn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("it is no Unix socket")
	}
	return conn, nil
}
