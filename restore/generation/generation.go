// Package generation keeps versions of an environment's tree beside each other on the disk,
// and exchanges which one is live (docs/GENERATIONS.md).
//
// It promises that whenever this process or the machine dies, one complete generation is
// live; that the next call of Open finishes or takes back what was under way; that a flip is
// one rename, so that nobody sees the root missing or mixed; and that a rollback happens once.
//
// It refuses a root on the way to which others than root and the running user could put
// something, and a tree that is not as its record has it.
package generation

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/internal/command"
	"knowngood/snapshot/live"
)

// namePattern matches the directories of generations.
var namePattern = regexp.MustCompile(`^([0-9]+|adopted|patched)-[0-9a-f]{8}$`)

const (
	newName    = "new"
	oldName    = "old" // while it is removed
	linkName   = "flip"
	recordName = ".files"
)

// Options of a set of generations.
type Options struct {
	Environment string
	Config      *configs.Environment // with a root, or InPlace
	// InPlace, when set, is about sources that a command changes where they are.
	InPlace *InPlace
	Now     func() time.Time
	// Note gets what a person should know; text of programs is printable.
	Note func(format string, args ...any)
	// Boot skips commands while what was under way is finished: nothing runs yet.
	Boot bool
	// Point, when set, is called at each moment at which a test may end the process.
	Point func(name string)
}

// Set is the generations of one environment, locked by this process until Close.
type Set struct {
	journal
	watch *os.File // held while this process watches a trial
}

// Open locks the generations of an environment, and finishes what another process left
// under way. The error is ErrNotAdopted where there are none, and ErrBusy while another
// process changes them.
func Open(ctx context.Context, o *Options) (*Set, error) {
	s, err := opened(ctx, o)
	if err == nil && !s.state.adopted() {
		s.Close()
		return nil, s.notAdopted()
	}
	return s, err
}

// opened locks, and finishes what was under way. The state is nil where there is none.
func opened(ctx context.Context, o *Options) (*Set, error) {
	s, err := open(o)
	switch {
	case err != nil:
	case s.state != nil:
		err = s.recover(ctx)
	case s.lock != nil && s.InPlace == nil && s.begun():
		err = forget(&s.journal)
	}
	if err != nil && s != nil {
		s.Close()
	}
	return s, err
}

func (o *Options) notAdopted() error {
	if o.InPlace != nil {
		return fmt.Errorf("environment %s has no root, and no patch was made of it: %w", o.Environment, ErrNotAdopted)
	}
	return fmt.Errorf("%s of environment %s: %w (knowngood generations %[2]s --adopt)", o.Config.Root, o.Environment, ErrNotAdopted)
}

// what is what this is about, for people.
func (o *Options) what() string {
	if o.InPlace != nil {
		return "environment " + o.Environment
	}
	return o.Config.Root
}

// open locks without looking at what was under way. The state is nil where there is none.
func open(o *Options) (*Set, error) {
	p, err := at(o)
	if err != nil {
		return nil, err
	}
	s := &Set{journal: journal{places: *p}}
	if err = live.Ours(s.dir); err == nil {
		err = s.acquire()
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}

// unlocked only reads the state.
func unlocked(o *Options) (*Set, error) {
	p, err := at(o)
	if err != nil {
		return nil, err
	}
	state, err := readState(p.dir)
	return &Set{journal: journal{places: *p, state: state}}, err
}

// Close unlocks. What is not locked, or not any more, stays so.
func (s *Set) Close() {
	s.lock.Close()
	s.watch.Close()
}

func (o *Options) point(name string) {
	if o.Point != nil {
		o.Point(name)
	}
}

// Live is the live generation.
func (s *Set) Live() (*Generation, error) {
	if g := s.state.find(s.liveName()); g != nil {
		return g, nil
	}
	next := fmt.Sprintf("None that is good is there. Move away what is there, and begin again: mv %s %[1]s.old; knowngood restore %s@latest:%s --target %[3]s; knowngood generations %[2]s --adopt", s.dir, s.Environment, s.root)
	if exists(s.path("data")) {
		next += ". The carried data is then in " + s.dir + ".old/data"
	}
	if last := s.state.last(func(g *Generation) bool { return exists(s.path(g.Name)) }); last != nil {
		put := "ln -s " + live.DirName(s.root) + "/" + last.Name
		if s.state.Method == "exchange" {
			put = "mv -T " + s.path(last.Name)
		}
		next = "Move away what is there, and put back the one that was live last: " + put + " " + s.root
	}
	return nil, fmt.Errorf("%s is none of its generations, which are in %s: somebody removed or replaced it. %s", s.root, s.dir, next)
}

func (o *Options) run(ctx context.Context, what string, hooks []configs.Hook, all bool) error {
	return RunHooks(ctx, what, hooks, []string{"KNOWNGOOD_ENVIRONMENT=" + o.Environment, "KNOWNGOOD_ROOT=" + o.Config.Root}, all)
}

// RunHooks runs commands in their order, with more variables. It goes on after one that fails
// when all is set.
func RunHooks(ctx context.Context, what string, hooks []configs.Hook, env []string, all bool) (err error) {
	for _, h := range hooks {
		c := command.Command{Argv: h.Command, Timeout: cmp.Or(time.Duration(h.Timeout), commandTimeout), Outside: h.Outside, Env: env}
		if cerr := c.Run(ctx); cerr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", what, cerr))
			if !all {
				return err
			}
		}
	}
	return err
}

// commandTimeout is that of a command that has none in the configuration.
const commandTimeout = 5 * time.Minute

// BootID identifies the boot of the machine; empty where the kernel does not show it.
func BootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// nameOf is the name of the generation of a snapshot.
func nameOf(number uint64, id [32]byte) string {
	return fmt.Sprintf("%d-%s", number, hex.EncodeToString(id[:4]))
}
