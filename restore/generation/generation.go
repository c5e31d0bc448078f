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
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/command"
	"knowngood/internal/durable"
	"knowngood/internal/posix"
	"knowngood/snapshot/live"
)

// namePattern matches the directories of generations.
var namePattern = regexp.MustCompile(`^([0-9]+|adopted|patched)-[0-9a-f]{8}$`)

const (
	newName    = "new"
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
	// Note, when set, gets what a person should know; text of programs is printable.
	Note func(format string, args ...any)
	// Boot skips commands while what was under way is finished: nothing runs yet.
	Boot bool
	// Point, when set, is called at each moment at which a test may end the process.
	Point func(name string)
}

// Set is the generations of one environment, locked by this process until Close.
type Set struct {
	*Options
	root   string // free of links above it
	parent string
	dir    string
	state  *state
	lock   *os.File
	watch  *os.File // held while this process watches a trial
}

// Open locks the generations of an environment, and finishes what another process left
// under way. The error is ErrNotAdopted where there are none, and ErrBusy while another
// process changes them.
func Open(ctx context.Context, o *Options) (*Set, error) {
	s, err := open(o)
	if err != nil {
		return nil, err
	}
	if s.state != nil {
		err = s.recover(ctx)
	}
	if err == nil && !s.adopted() {
		err = s.notAdopted()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Set) notAdopted() error {
	if s.InPlace != nil {
		return fmt.Errorf("environment %s has no root, and no patch was made of it: %w", s.Environment, ErrNotAdopted)
	}
	return fmt.Errorf("%s of environment %s: %w (knowngood generations %[2]s --adopt)", s.Config.Root, s.Environment, ErrNotAdopted)
}

// what is what this is about, for people.
func (s *Set) what() string {
	if s.InPlace != nil {
		return "environment " + s.Environment
	}
	return s.Config.Root
}

// open locks without looking at what was under way. The state is nil where there is none.
func open(o *Options) (*Set, error) {
	s, err := at(o)
	if err != nil {
		return nil, err
	}
	if err = live.Ours(s.dir); err == nil {
		err = s.acquire()
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}

// at finds the places.
func at(o *Options) (*Set, error) {
	if o.InPlace != nil {
		s := &Set{Options: o}
		if !exists(o.InPlace.Dir) {
			return s, s.notAdopted()
		}
		parent, err := live.Parent(o.InPlace.Dir)
		s.dir = filepath.Join(parent, filepath.Base(o.InPlace.Dir))
		return s, err
	}
	parent, err := live.Parent(o.Config.Root)
	if err != nil {
		return nil, err
	}
	return &Set{Options: o, parent: parent, root: filepath.Join(parent, filepath.Base(o.Config.Root)), dir: filepath.Join(parent, live.DirName(o.Config.Root))}, nil
}

// unlocked only reads the state.
func unlocked(o *Options) (*Set, error) {
	s, err := at(o)
	if err == nil {
		s.state, err = readState(s.dir)
	}
	return s, err
}

// acquire takes the lock, and reads the state under it.
func (s *Set) acquire() (err error) {
	if s.lock, err = HoldFile(filepath.Join(s.dir, "lock")); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w by another process: wait for it, or see what it does with knowngood generations %s", s.what(), ErrBusy, s.Environment)
	} else if err != nil {
		return err
	}
	if s.state, err = readState(s.dir); err == nil && s.state != nil && s.state.Method != s.Config.Switch.Method {
		err = fmt.Errorf("%s was adopted with method %s, and the configuration has %s: release it first (knowngood generations %s --release)", s.Config.Root, s.state.Method, s.Config.Switch.Method, s.Environment)
	}
	if err != nil {
		s.Close()
	}
	return err
}

// HoldFile locks a file for as long as it is open, and waits a moment for it: a program that
// is being started has a copy of the lock until it runs. EWOULDBLOCK: another process has it.
func HoldFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for range 20 {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		f.Close()
	}
	return f, err
}

// Close unlocks.
func (s *Set) Close() {
	for _, f := range []**os.File{&s.lock, &s.watch} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

func (s *Set) point(name string) {
	if s.Point != nil {
		s.Point(name)
	}
}

func (s *Set) note(format string, args ...any) {
	if s.Note != nil {
		s.Note(format, args...)
	}
}

func (s *Set) path(name string) string { return filepath.Join(s.dir, name) }

// topOf is where the tree of a generation is now.
func (s *Set) topOf(name string) string {
	if s.state.Method == "exchange" && name == s.liveName() {
		return s.root
	}
	return s.path(name)
}

// liveName is the generation that the file system shows at the root; empty for none.
func (s *Set) liveName() string {
	if s.InPlace != nil {
		for _, g := range s.state.newest() {
			if g.Status == Trial || g.Status == Committed {
				return g.Name
			}
		}
		return ""
	}
	if s.state.Method == "link" {
		name, err := live.Link(s.root)
		if err != nil || s.state.find(name) == nil {
			return ""
		}
		return name
	}
	st, err := posix.StatAt(unix.AT_FDCWD, s.root)
	if err != nil {
		return ""
	}
	for _, g := range s.state.Generations {
		if g.Inode == st.Ino {
			return g.Name
		}
	}
	return ""
}

// Live is the live generation.
func (s *Set) Live() (*Generation, error) {
	if g := s.state.find(s.liveName()); g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("%s is not one of its generations: somebody replaced it (ls -ld %[1]s; the generations are in %s)", s.root, s.dir)
}

// flip makes a generation the live one, in one rename, and makes that durable. In place it
// runs the command of a patch, or puts back what that changed.
func (s *Set) flip(ctx context.Context, name string) error {
	if s.InPlace != nil && name == s.state.Transaction.From {
		return s.putBack(ctx)
	} else if s.InPlace != nil {
		return cmp.Or(s.InPlace.Run(ctx), s.syncSources())
	}
	if err := s.ownNames(); err != nil {
		return err
	}
	if s.liveName() != name {
		s.point("before the rename")
		if err := s.rename(name); err != nil {
			return fmt.Errorf("flip %s to %s: %w", s.root, name, err)
		}
		s.point("after the rename")
	}
	if err := s.ownNames(); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(s.parent), durable.SyncDir(s.dir))
}

func (s *Set) rename(name string) error {
	if s.state.Method == "exchange" {
		return unix.Renameat2(unix.AT_FDCWD, s.path(name), unix.AT_FDCWD, s.root, unix.RENAME_EXCHANGE)
	}
	if err := os.Remove(s.path(linkName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(live.DirName(s.root)+"/"+name, s.path(linkName)); err != nil {
		return err
	}
	return os.Rename(s.path(linkName), s.root)
}

// ownNames gives a generation that was live under the name of the other one its own.
func (s *Set) ownNames() error {
	if s.state.Method != "exchange" {
		return nil
	}
	for _, at := range s.state.Generations {
		st, err := posix.StatAt(unix.AT_FDCWD, s.path(at.Name))
		if err != nil || st.Ino == at.Inode {
			continue
		}
		for _, g := range s.state.Generations {
			if g.Inode == st.Ino {
				if err := unix.Renameat2(unix.AT_FDCWD, s.path(at.Name), unix.AT_FDCWD, s.path(g.Name), unix.RENAME_NOREPLACE); err != nil {
					return fmt.Errorf("rename %s to %s: %w", s.path(at.Name), g.Name, err)
				}
				break
			}
		}
	}
	return nil
}

// tidy removes what is left of what was not finished: what the state does not name.
func (s *Set) tidy() error {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		name, isRecord := strings.CutSuffix(n.Name(), recordName)
		ours := namePattern.MatchString(name) || !isRecord && (name == newName || name == linkName) || strings.HasPrefix(name, ".record-") || strings.HasPrefix(name, "."+live.StateFile)
		copied := s.InPlace != nil && s.state.Transaction == nil && s.state.Problem == "" // it serves nothing any more
		if !ours || s.state.find(name) != nil && !copied {
			continue
		}
		if err := s.remove(n.Name()); err != nil {
			return err
		}
	}
	return nil
}

// remove removes something in the directory of generations.
func (s *Set) remove(name string) error { return posix.RemovePath(s.path(name)) }

func (s *Set) run(ctx context.Context, what string, hooks []configs.Hook, all bool) error {
	return RunHooks(ctx, what, hooks, []string{"KNOWNGOOD_ENVIRONMENT=" + s.Environment, "KNOWNGOOD_ROOT=" + s.Config.Root}, all)
}

// RunHooks runs commands in their order, with more variables. It goes on after one that fails
// when all is set.
func RunHooks(ctx context.Context, what string, hooks []configs.Hook, env []string, all bool) (err error) {
	for _, h := range hooks {
		timeout := time.Duration(h.Timeout)
		if timeout == 0 {
			timeout = commandTimeout
		}
		c := command.Command{Argv: h.Command, Timeout: timeout, Outside: h.Outside, Env: env}
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

// newest are the generations, the one that was built last first.
func (s *state) newest() []*Generation {
	all := slices.Clone(s.Generations)
	slices.Reverse(all)
	return all
}
