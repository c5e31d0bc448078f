// Package isolate makes cells: processes in which programs of a restored tree
// run, or in which a restored tree is parsed, that can reach nothing else of
// the machine. It needs no container runtime and knows nothing of knowngood's
// formats.
//
// A cell of the rung Namespaces has namespaces of its own and, as its root,
// an overlay above the tree. A cell of the rung Static runs no program: it only
// reads the tree. Before anything of the tree is touched the cell tries to break
// out in every way that is known to it; an attempt that succeeds ends it.
//
// Limits are held by the kernel: by control groups where they can be written, by
// resource limits elsewhere. Without any limit on processes that holds, there
// is no cell. When the process that started a cell dies, however it dies, the
// kernel kills everything in the cell; its mounts exist in its own namespace only.
package isolate

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The rungs of isolation.
const (
	Namespaces = "namespaces" // programs of the tree run in namespaces of their own
	Static     = "static"     // no program runs: the inside function reads the tree
)

// Spec is the cell that is wanted.
type Spec struct {
	Rung string
	// Tree is the restored tree, an absolute path. It is never written to, unless At is set.
	Tree string
	// At is the path in the cell at which the tree is then, above the base, and can be
	// changed; where it is empty the tree is the root. For Namespaces.
	At string
	// Network leaves the cell the network of the machine.
	Network bool
	// Base is what lies beneath the tree: "none", "host" (this machine's programs and
	// libraries), or the absolute path of another restored tree. Not for Static.
	Base string
	// Scratch is a directory for what is written in the cell. It is empty before;
	// the caller removes what is in it afterwards. In a static cell the
	// inside function can write there.
	Scratch string
	Limits  Limits
	// IDs are the users and groups of the tree and its base beyond 65535, in ascending
	// order. As root the cell has them, too, as many as the kernel maps.
	IDs []uint32
}

// Limits of a cell; 0 is no limit, except for Processes: 0 is 512.
type Limits struct {
	Memory    int64         // bytes, of all processes together, or of each where Proof.Limits is "rlimits"
	Disk      int64         // bytes that may be written in the cell
	CPUs      float64       // processors; without control groups rounded up
	Processes int           // processes and threads
	Nice      int           // at least; a parent that is nicer makes the cell so
	Time      time.Duration // until everything in the cell is killed
}

// Attempt is one way out of a cell that was tried from inside.
type Attempt struct {
	What    string
	Refused bool
}

// Proof is what a cell showed before anything of the tree was used.
type Proof struct {
	Attempts []Attempt
	// Limits is what holds them: "cgroup v2", "cgroup v1" or "rlimits".
	Limits string
}

// Usage is what the control groups of a cell counted; zero where there are none.
type Usage struct {
	OOMKills     int64 // processes killed for want of memory
	ProcessLimit int64 // times that a process could not be made
	PeakMemory   int64 // bytes
}

// Unreachable is the error of a rung that this machine cannot give.
type Unreachable struct {
	Rung string
	Why  string
}

func (u *Unreachable) Error() string {
	return fmt.Sprintf("the isolation %q cannot be had on this machine: %s", u.Rung, u.Why)
}

// Cell is a running cell. Close ends it.
type Cell struct {
	in, out *os.File
	socket  *os.File // keeps the cell alive
	stderr  Tail
	process *os.Process
	mappers [][]string // programs that map the users of the cell
	groups  *groups
	proof   Proof
	stop    func()
	once    sync.Once
	err     error         // of Close
	ended   chan struct{} // closed when every process of the cell is gone
	usage   Usage
}

// In is what the inside function reads, and Out what it writes. The caller bounds
// how much it reads. Both fail once the cell is closed.
func (c *Cell) In() io.WriteCloser { return c.in }

// Out is described at In.
func (c *Cell) Out() io.ReadCloser { return c.out }

// Proof returns what was tried from inside the cell.
func (c *Cell) Proof() Proof { return c.proof }

// Stderr returns the last 4 KiB of what the inside function wrote to standard error.
func (c *Cell) Stderr() string { return strings.TrimSpace(c.stderr.String()) }

// Usage returns the counters of now, or of the end for a closed cell.
func (c *Cell) Usage() Usage {
	select {
	case <-c.ended:
		return c.usage
	default:
		return c.groups.usage()
	}
}

// Close kills everything in the cell and returns when all of it is gone,
// its mounts and control groups included. Further calls only return the same.
func (c *Cell) Close() error {
	c.once.Do(func() {
		c.stop()
		_ = c.process.Kill() // it may have ended
		<-c.ended
		c.usage = c.groups.usage()
		c.err = c.groups.remove()
		closeAll(c.in, c.out, c.socket)
	})
	return c.err
}

// order is what the parent sends to a new cell, beside open mounts.
type order struct {
	Spec   Spec
	Mounts []string // names of the descriptors that come along
	User   bool     // there is a user namespace
	Held   bool     // control groups hold the limits
	Host   host
}

// host describes what a cell must not reach.
type host struct {
	TCP, Abstract string // addresses that the parent listens on
	PID           int    // of the parent
	Root          string // device and inode of its root directory
}

// report is what a new cell answers.
type report struct {
	Attempts []Attempt
	Built    bool
	Error    string
}

// Start runs argv, arguments for this same program (argv[0] is only a name), as the
// first process of a new cell. That process must call Enter. Start returns when the
// cell is built and proven. The error is an *Unreachable when this machine cannot
// give the rung. The cell ends with ctx, and after Limits.Time.
func Start(ctx context.Context, argv []string, spec Spec) (*Cell, error) {
	if spec.Limits.Processes <= 0 {
		spec.Limits.Processes = 512
	}
	if spec.Rung == Static {
		return start(ctx, argv, spec, alone)
	}
	if spec.Rung != Namespaces {
		return nil, fmt.Errorf("no isolation is called %q", spec.Rung)
	}
	if !trueRoot() {
		return start(ctx, argv, spec, unprivileged)
	}

	c, err := start(ctx, argv, spec, ranged)
	var idmap *idmapError
	if errors.As(err, &idmap) {
		if c, err2 := start(ctx, argv, spec, initial); err2 == nil {
			return c, nil
		}
		return nil, &Unreachable{spec.Rung, err.Error()}
	}
	return c, err
}

// mode is how a cell relates to the users of the machine.
type mode int

const (
	alone        mode = iota // static: no namespaces
	unprivileged             // a user namespace of an ordinary user
	ranged                   // root's: a user namespace of 65536 IDs that nobody else has, and those of Spec.IDs
	initial                  // root's, where mounts cannot be mapped: no user namespace
)

// trueRoot reports whether this is root, and not only in a user namespace.
func trueRoot() bool {
	m, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(m))
	return err == nil && os.Geteuid() == 0 && len(f) == 3 && f[2] == "4294967295"
}

// environment is all that a cell has of one.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LANG=C.UTF-8"}

const stageVar = "KNOWNGOOD_CELL" // which part of a cell a process is

func start(ctx context.Context, argv []string, spec Spec, m mode) (_ *Cell, err error) {
	c := &Cell{stderr: Tail{Most: 4 << 10}, ended: make(chan struct{}), stop: func() {}}
	var theirs []*os.File
	defer func() {
		closeAll(theirs...)
		if err == nil {
			return
		}
		if c.process != nil {
			err = errors.Join(err, c.Close())
		} else {
			err = errors.Join(err, c.groups.remove())
			closeAll(c.in, c.out, c.socket)
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()

	c.groups, err = newGroups(spec.Limits)
	if err != nil {
		return nil, fmt.Errorf("making control groups: %w", err)
	}
	c.proof.Limits = c.groups.kind()
	if m == initial && !c.groups.holds("pids") {
		return nil, &Unreachable{spec.Rung, "root's processes can only be limited by a control group, and none can be written"}
	}
	o := order{Spec: spec, User: m == ranged || m == unprivileged, Held: c.groups.holds("memory")}
	closeHost, err := o.Host.listen()
	if err != nil {
		return nil, err
	}
	defer closeHost()

	var cmd *exec.Cmd
	if cmd, theirs, err = c.command(argv, m, spec.Network); err != nil {
		return nil, fmt.Errorf("starting the cell: %w", err)
	}
	first := firstID()
	if err := c.launch(cmd, spec.Limits, m, first, spec.IDs); err != nil {
		return nil, &Unreachable{spec.Rung, fmt.Sprintf("starting a process: %v", err)}
	}
	kill := func() { _ = c.process.Kill() } // it may have ended
	stopCtx := context.AfterFunc(ctx, kill)
	c.stop = func() { stopCtx() }
	if spec.Limits.Time > 0 {
		late := time.AfterFunc(spec.Limits.Time, kill)
		c.stop = func() { stopCtx(); late.Stop() }
	}

	closeAll(theirs...)
	theirs = nil
	if err := c.settle(o, m, first); err != nil {
		return nil, err
	}
	return c, nil
}

// closeAll closes files, of which some may not be there.
func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// settle limits the process that has started, gives it its order, and waits until
// the cell is proven.
func (c *Cell) settle(o order, m mode, first int) error {
	if err := c.groups.add(c.process.Pid); err != nil {
		return fmt.Errorf("putting the cell into its control groups: %w: %s", err, c.Stderr())
	}
	for _, m := range c.mappers {
		argv := slices.Insert(slices.Clone(m), 1, strconv.Itoa(c.process.Pid))
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return &Unreachable{o.Spec.Rung, fmt.Sprintf("mapping users: %s: %v: %s", argv[0], err, out)}
		}
	}
	mounts, err := mountsFor(&o, m, first, c.process.Pid)
	defer func() {
		for _, fd := range mounts {
			_ = unix.Close(fd)
		}
	}()
	if err != nil {
		return err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if m != alone {
		if _, err := c.socket.Write([]byte("go")); err != nil {
			return fmt.Errorf("starting the cell: %w", err)
		}
	}
	var rights []byte
	if len(mounts) > 0 {
		rights = unix.UnixRights(mounts...)
	}
	if err := unix.Sendmsg(int(c.socket.Fd()), text, rights, nil, 0); err != nil {
		return fmt.Errorf("giving the cell its order: %w", err)
	}

	var r report
	buf := make([]byte, 64<<10)
	n, err := c.socket.Read(buf)
	if err == nil {
		err = json.Unmarshal(buf[:n], &r)
	}
	if err != nil {
		<-time.After(10 * time.Millisecond) // for its last words
		return fmt.Errorf("the cell ended before it was built: %w: %s", err, c.Stderr())
	}
	c.proof.Attempts = r.Attempts
	switch {
	case r.Error == "":
		return nil
	case r.Built:
		return fmt.Errorf("the cell does not hold: %s", r.Error)
	default:
		return &Unreachable{o.Spec.Rung, r.Error}
	}
}

// listen opens what a cell must not reach, until close is called.
func (h *host) listen() (closeAll func(), err error) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the proof of the cell: %w", err)
	}
	h.Abstract = "@knowngood-cell-" + rand.Text()
	abstract, err := net.Listen("unix", h.Abstract)
	if err != nil {
		_ = tcp.Close()
		return nil, fmt.Errorf("listening for the proof of the cell: %w", err)
	}
	h.TCP, h.PID, h.Root = tcp.Addr().String(), os.Getpid(), identify("/")
	return func() { _ = tcp.Close(); _ = abstract.Close() }, nil
}

// identify returns the device and the inode of a path; empty when there is none.
func identify(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
