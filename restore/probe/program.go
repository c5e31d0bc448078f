package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"knowngood/configs"
	"knowngood/restore/isolate"
	"knowngood/storage/attest"
)

// program runs a command of the tree; its exit code and its output decide.
func program(ctx context.Context, _ *env, p *configs.Probe) Answer {
	out := &isolate.Tail{Most: maxOutput, Want: p.Output}
	return judge(ctx, p, out, run(ctx, p.Command, p.User, out))
}

// scan runs a scanner, which a cell of its own shows the restored tree at
// TreeInScan. Links of the tree on the way to the path are followed within the tree:
// the scanner would follow them to files of this machine.
func scan(ctx context.Context, _ *env, p *configs.Probe) Answer {
	r, err := openRoot(TreeInScan)
	if err != nil {
		return failed(err.Error())
	}
	defer r.Close()
	at, err := r.resolve(p.Scan.Path)
	if err != nil {
		return failed(err.Error())
	}
	argv := append(p.Scan.Command[:len(p.Scan.Command):len(p.Scan.Command)], filepath.Join(TreeInScan, at))
	out := &isolate.Tail{Most: maxOutput}
	return judge(ctx, p, out, run(ctx, argv, "", out))
}

// TreeInScan is where a scanner finds the restored tree.
const TreeInScan = "/restored"

func judge(ctx context.Context, p *configs.Probe, out *isolate.Tail, err error) Answer {
	var a Answer
	code, exit := 0, (*exec.ExitError)(nil)
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	cause := causeOf(err)
	switch {
	case cause != "":
		a = notTested(cause, err.Error())
	case ctx.Err() != nil:
		a = failed(fmt.Sprintf("it took longer than %v", p.Timeout))
	case err != nil && exit == nil, code < 0:
		a = failed(err.Error())
	case code != int(p.ExitCode):
		a = failed(fmt.Sprintf("exit code %d", code))
	case p.Output != "" && !out.Found():
		a = failed(fmt.Sprintf("its output lacks %q", p.Output))
	default:
		a = passed(fmt.Sprintf("exit code %d", p.ExitCode))
	}
	a.Output = out.String()
	return a
}

// errNoUser is about a user that the tree and its base do not have.
var errNoUser = errors.New("there is no such user")

// errOneUser is about a cell that has no further users, as one of an ordinary user's.
var errOneUser = errors.New("the cell lacks that user")

// begin starts a command. That the kernel refuses its user is an errOneUser.
func begin(cmd *exec.Cmd) error {
	err := cmd.Start()
	if cmd.SysProcAttr.Credential != nil && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL)) {
		err = fmt.Errorf("%w: %v", errOneUser, err)
	}
	return err
}

// causeOf is why a program could not be tried at all; "" when it was.
func causeOf(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		return NoProgram
	case errors.Is(err, syscall.ENOSPC):
		return NoRoom
	case errors.Is(err, errNoUser):
		return NoUser
	case errors.Is(err, errOneUser):
		return NoRun
	}
	return ""
}

// run runs a program to its end.
func run(ctx context.Context, argv []string, as string, out *isolate.Tail) error {
	cmd, err := command(argv, as, out)
	if err != nil {
		return err
	}
	return finish(ctx, cmd)
}

// finish runs a command to its end.
func finish(ctx context.Context, cmd *exec.Cmd) error {
	// Each thread of a cell has rules of Landlock of its own, which let it signal only
	// what it started itself: the one that starts the command must also end it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	if err := begin(cmd); err != nil {
		return err
	}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	defer kill() // what it left behind
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return withoutOutput(err)
	case <-ctx.Done():
		kill()
		return withoutOutput(<-ended)
	}
}

// withoutOutput is how a program ended, of which a process in the background still
// holds the output.
func withoutOutput(err error) error {
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

// command is a program as a user of the cell, in a group of its own.
func command(argv []string, as string, out *isolate.Tail) (*exec.Cmd, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.WaitDelay = time.Second // for output that a process in the background keeps open
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	home := "/"
	if as != "" {
		var err error
		if cmd.SysProcAttr.Credential, home, err = credential(as); err != nil {
			return nil, err
		}
	}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=" + home}
	if as != "" {
		cmd.Env = append(cmd.Env, "USER="+as, "LOGNAME="+as)
	}
	return cmd, nil
}

// credential is what a user of the cell may, and the home directory.
func credential(name string) (*syscall.Credential, string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %s", errNoUser, name)
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return nil, "", err
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	groups, _ := u.GroupIds() // those that cannot be read are not had
	for _, g := range groups {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil {
			c.Groups = append(c.Groups, uint32(n))
		}
	}
	return c, u.HomeDir, nil
}

// pause is how long to wait between two looks at whether a service is ready.
const pause = 50 * time.Millisecond

// start starts a service and waits until it is ready. It goes on until the cell
// ends.
func start(ctx context.Context, e *env, s *configs.Service) Answer {
	out := &isolate.Tail{Most: maxOutput}
	cmd, err := command(s.Command, s.User, out)
	if err == nil {
		err = begin(cmd)
	}
	if cause := causeOf(err); cause != "" {
		return notTested(cause, err.Error())
	}
	if err != nil {
		return failed(err.Error())
	}
	r := &running{ended: make(chan struct{}), out: out}
	go func() {
		r.err = withoutOutput(cmd.Wait())
		close(r.ended)
	}()
	e.services[s.Name] = r
	answer := e.await(ctx, s, r)
	answer.Output = out.String()
	return answer
}

// running is a service that was started.
type running struct {
	ended chan struct{} // closed when its program has ended
	err   error         // how, then
	out   *isolate.Tail
}

// state is failed when the program of a service has ended with an error. One that
// ended with success may have left its server in the background.
func (r *running) state() Answer {
	select {
	case <-r.ended:
		if r.err != nil {
			return failed(fmt.Sprintf("it ended: %v", r.err))
		}
		return passed("its program ended with success")
	default:
		return passed("it runs")
	}
}

// settling is how long a service must run that has no way to show that it is ready.
const settling = time.Second

// await waits until a service is ready.
func (e *env) await(ctx context.Context, s *configs.Service, r *running) Answer {
	began := time.Now()
	for {
		ready, why := time.Since(began) >= min(settling, time.Duration(s.Timeout)/2), ""
		if s.Ready != nil {
			ready, why = e.ready(ctx, s)
		}
		switch a := r.state(); {
		case a.Status != attest.Passed, ready && s.Ready == nil:
			return a
		case ready:
			return passed(why)
		}
		select {
		case <-ctx.Done():
			return failed(fmt.Sprintf("it was not ready within %v: %s", s.Timeout, why))
		case <-time.After(pause):
		}
	}
}

func (e *env) ready(ctx context.Context, s *configs.Service) (bool, string) {
	r := s.Ready
	var a Answer
	switch {
	case r.TCP != "":
		a = dial(ctx, r.TCP)
	case r.HTTP != nil:
		a = get(ctx, r.HTTP)
	case r.File != "":
		if _, err := e.root.stat(r.File); err != nil {
			return false, fmt.Sprintf("%s: %v", r.File, err)
		}
		return true, r.File + " is there"
	default:
		out := &isolate.Tail{Most: maxOutput}
		if err := run(ctx, r.Command, s.User, out); err != nil {
			return false, fmt.Sprintf("%v %s", err, out)
		}
		return true, "its command succeeded"
	}
	return a.Status == attest.Passed, a.Detail
}
