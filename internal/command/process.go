package command

import (
	"cmp"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that runs, and what is read from and written to it.
type process struct {
	cmd   *exec.Cmd
	grace time.Duration
	tail  *tail
	// exited is closed when the program has ended. It is not reaped then, so
	// that the number of its group remains its own until end.
	exited chan struct{}
	// settled is closed when its output has been taken, too.
	settled chan struct{}
	failed  chan error // of input and output; it has room for all
	streams []*stream
	guard   *guard
}

// start starts the program, in a group of its own.
func (c *Command) start(argv []string) (*process, error) {
	p := &process{
		cmd: exec.Command(argv[0], argv[1:]...), grace: c.grace, tail: &tail{},
		exited: make(chan struct{}), settled: make(chan struct{}), failed: make(chan error, 3),
	}
	if c.Path != "" {
		p.cmd.Path, p.cmd.Err = c.Path, nil
	}
	p.grace = cmp.Or(p.grace, grace)
	// Pdeathsig: when this process is killed, a program of it must not go on
	// beside those of the next one.
	p.guard = newGuard()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: p.guard.group(), Pdeathsig: syscall.SIGKILL}
	p.cmd.Env, p.cmd.Dir = append(Environ(), c.Env...), c.Dir
	log := &log{line: c.Line}
	theirs := []io.Closer{}
	closeAll := func(files []io.Closer) {
		for _, f := range files {
			f.Close()
		}
	}
	ours := []io.Closer{}
	abort := func(err error) (*process, error) {
		p.guard.release()
		closeAll(theirs)
		closeAll(ours)
		return nil, err
	}
	output := func(s *stream) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.r, s.done = r, make(chan struct{})
		theirs, ours = append(theirs, w), append(ours, r)
		p.streams = append(p.streams, s)
		return w, nil
	}
	var err error
	out := &stream{w: &lines{log: log, stream: "stdout"}}
	if c.Stdout != nil {
		out = &stream{w: c.Stdout, captured: true, patience: p.grace}
	}
	if p.cmd.Stdout, err = output(out); err != nil {
		return abort(err)
	}
	if p.cmd.Stderr, err = output(&stream{w: &lines{log: log, stream: "stderr", tail: p.tail}}); err != nil {
		return abort(err)
	}
	var in *os.File
	if c.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return abort(err)
		}
		p.cmd.Stdin, in = r, w
		theirs, ours = append(theirs, r), append(ours, w)
	}
	if err := p.launch(); err != nil {
		return abort(err)
	}
	closeAll(theirs)
	fed := make(chan struct{})
	go p.feed(in, c.Stdin, fed)
	for _, s := range p.streams {
		go s.copy(p.failed)
	}
	go p.watch(in, fed)
	return p, nil
}

// launch starts the program from a thread that lives until the program has
// ended: to the kernel the parent that dies is the thread that started it, not
// the process.
func (p *process) launch() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			<-p.exited
		}
	}()
	return <-started
}

// guard is a shell that leads the group of a program, and kills it when this process
// is killed, which closes the shell's input. Where there is no shell, only the program
// itself dies with this process.
type guard struct {
	cmd *exec.Cmd
	end *os.File // its input; nil where it does not run
}

func newGuard() *guard {
	g := &guard{cmd: exec.Command("/bin/sh", "-c", `trap "" HUP INT TERM; read end || kill -s KILL 0`)}
	r, w, err := os.Pipe()
	if err != nil {
		return g
	}
	defer r.Close()
	g.cmd.Stdin, g.cmd.Env = r, []string{}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if g.cmd.Start() != nil {
		w.Close()
		return g
	}
	g.end = w
	return g
}

// group is its number, which remains its own until release; 0 where there is none.
func (g *guard) group() int {
	if g.end == nil {
		return 0
	}
	return g.cmd.Process.Pid
}

// release ends the guard, and not the group.
func (g *guard) release() {
	if g.end != nil {
		_, _ = io.WriteString(g.end, "\n") // it may have been killed with the group
		g.end.Close()
		_ = g.cmd.Wait()
	}
}

// feed writes the program's input. That it does not read all is its affair.
func (p *process) feed(in *os.File, from io.Reader, fed chan struct{}) {
	defer close(fed)
	if in == nil {
		return
	}
	r := &reader{r: from}
	if _, err := io.Copy(in, r); err != nil && r.err != nil {
		p.failed <- r.err // and it sees no end: it would take it for that of the input
		return
	}
	in.Close()
}

// reader remembers why reading failed.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// watch waits for the program and for what is left of its output.
func (p *process) watch(in *os.File, fed chan struct{}) {
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	close(p.exited)
	if in != nil {
		in.Close()
	}
	for _, s := range p.streams {
		s.last()
	}
	for _, s := range p.streams {
		<-s.done
	}
	select {
	case <-fed:
	case <-time.After(linger): // a reader that hangs
	}
	close(p.settled)
}

// failure is what failed before the program ended, nil when nothing did.
func (p *process) failure() error {
	select {
	case err := <-p.failed:
		return err
	default:
		return nil
	}
}

// signal reaches the program and what it started, unless that made a group of
// its own.
func (p *process) signal(s syscall.Signal) {
	_ = syscall.Kill(-cmp.Or(p.guard.group(), p.cmd.Process.Pid), s)
}

// stop ends the group: asked first, killed after the grace. It returns false when
// the program is still there, as one that hangs in the kernel is.
func (p *process) stop() bool {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.settled:
	case <-time.After(p.grace):
	}
	p.signal(syscall.SIGKILL)
	select {
	case <-p.settled:
		return true
	case <-time.After(p.grace):
	}
	// Whoever escaped the group, or does not take the output, is not waited for.
	for _, s := range p.streams {
		s.r.Close()
	}
	select {
	case <-p.exited:
		return true
	default:
		p.guard.release()
		go func() { _ = p.cmd.Wait() }()
		return false
	}
}

// end reaps the program and returns how it failed; nil when it did not.
func (p *process) end(e *Error) error {
	err := p.cmd.Wait()
	p.guard.release()
	e.ExitCode = p.cmd.ProcessState.ExitCode()
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Signal = status.Signal()
	}
	if err == nil && e.Err == nil {
		return nil
	}
	if exit := (*exec.ExitError)(nil); e.Err == nil && !errors.As(err, &exit) {
		e.Err = err
	}
	e.Tail = p.tail.String()
	return e
}

// stream is output of the program on its way to a writer.
type stream struct {
	r        *os.File
	w        io.Writer
	captured bool
	patience time.Duration // with captured output that does not go on at the end
	done     chan struct{}
	over     atomic.Bool // the program has ended
}

func (s *stream) copy(failed chan<- error) {
	defer close(s.done)
	defer s.r.Close()
	if l, ok := s.w.(*lines); ok {
		defer l.end()
	}
	buf := make([]byte, 64<<10)
	for {
		if s.captured && s.over.Load() {
			_ = s.r.SetReadDeadline(time.Now().Add(s.patience))
		}
		n, err := s.r.Read(buf)
		if n > 0 {
			if _, err := s.w.Write(buf[:n]); err != nil {
				failed <- err
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && s.captured:
			failed <- errOutputOpen
			return
		default:
			return
		}
	}
}

// last limits how long output is read that a process in the background keeps open
// open. Of captured output each byte counts, however slowly it is taken.
func (s *stream) last() {
	s.over.Store(true)
	wait := linger
	if s.captured {
		wait = s.patience
	}
	_ = s.r.SetReadDeadline(time.Now().Add(wait))
}
