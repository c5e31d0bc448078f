package isolate

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ownTasks is how many threads a cell needs besides those of the programs in it.
const ownTasks = 64

const groupName = "knowngood-cell-"

// groups are the control groups of one cell: one of version 2 for all controllers,
// or of version 1 one for each, or none.
type groups struct {
	v2    bool
	dirs  map[string]string // by controller
	locks []*os.File        // held while the cell lives: who finds a group without a lock removes it
}

var controllers = []string{"pids", "memory", "cpu"}

// newGroups makes control groups below our own, or beside it. It is no error when
// there are none that can be written.
func newGroups(l Limits) (*groups, error) {
	g := &groups{dirs: map[string]string{}}
	own, err := os.ReadFile("/proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return g, nil
	} else if err != nil {
		return nil, err
	}
	paths := map[string]string{} // of our own groups, by controller, "" being version 2
	for line := range strings.Lines(string(own)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for _, c := range strings.Split(f[1], ",") {
				paths[c] = f[2]
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}

	name := groupName + rand.Text()
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		switch f[2] {
		case "cgroup2":
			g.joinV2(f[1], paths[""], name)
		case "cgroup":
			for _, c := range controllers {
				if strings.Contains(","+f[3]+",", ","+c+",") && g.dirs[c] == "" {
					if dir := filepath.Join(f[1], paths[c]); g.make(dir, name) {
						g.dirs[c] = filepath.Join(dir, name)
					}
				}
			}
		}
	}
	if err := g.limit(l); err != nil {
		return nil, errors.Join(err, g.remove())
	}
	return g, nil
}

// joinV2 makes a group below our own, or below the next one above it that hands
// its controllers down.
func (g *groups) joinV2(mount, own, name string) {
	for dir := filepath.Join(mount, own); strings.HasPrefix(dir, mount); dir = filepath.Dir(dir) {
		down, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		have := " " + strings.TrimSpace(string(down)) + " "
		if err == nil && strings.Contains(have, " pids ") && strings.Contains(have, " memory ") && g.make(dir, name) {
			g.v2 = true
			for _, c := range controllers {
				if strings.Contains(have, " "+c+" ") {
					g.dirs[c] = filepath.Join(dir, name)
				}
			}
			return
		}
	}
}

// make makes a group and locks it, and removes those that a killed process left.
func (g *groups) make(dir, name string) bool {
	old, _ := filepath.Glob(filepath.Join(dir, groupName+"*"))
	for _, o := range old {
		if f, err := lockDir(o); err == nil {
			_ = os.Remove(o) // fails while something is in it
			_ = f.Close()
		}
	}
	for range 3 { // between making and locking it, it can be taken for a leftover
		if os.Mkdir(filepath.Join(dir, name), 0o755) != nil {
			return false
		}
		f, err := lockDir(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if identify(filepath.Join(dir, name)) == "" {
			_ = f.Close()
			continue
		}
		g.locks = append(g.locks, f)
		return true
	}
	return false
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (g *groups) holds(controller string) bool { return g.dirs[controller] != "" }

func (g *groups) kind() string {
	switch {
	case !g.holds("pids") || !g.holds("memory"):
		return "rlimits"
	case g.v2:
		return "cgroup v2"
	default:
		return "cgroup v1"
	}
}

func (g *groups) limit(l Limits) error {
	set := func(controller, file string, value any) error {
		if !g.holds(controller) {
			return nil
		}
		return os.WriteFile(filepath.Join(g.dirs[controller], file), []byte(fmt.Sprint(value)), 0)
	}
	err := set("pids", "pids.max", l.Processes+ownTasks)
	const period = 100_000 // microseconds
	quota := max(int(l.CPUs*period), 1000)
	if l.Memory > 0 && g.v2 {
		err = errors.Join(err, set("memory", "memory.max", l.Memory))
		_ = set("memory", "memory.swap.max", 0) // there may be no swap
	} else if l.Memory > 0 {
		err = errors.Join(err, set("memory", "memory.limit_in_bytes", l.Memory))
		_ = set("memory", "memory.memsw.limit_in_bytes", l.Memory)
	}
	if l.CPUs > 0 && g.v2 {
		err = errors.Join(err, set("cpu", "cpu.max", fmt.Sprint(quota, " ", period)))
	} else if l.CPUs > 0 {
		err = errors.Join(err, set("cpu", "cpu.cfs_period_us", period), set("cpu", "cpu.cfs_quota_us", quota))
	}
	return err
}

// add puts a process into the groups. Where that is forbidden, there are none.
func (g *groups) add(pid int) error {
	for c, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("controller %s: %w", c, err)
		}
	}
	return nil
}

// usage reads the counters; what cannot be read is zero.
func (g *groups) usage() (u Usage) {
	memory, pids := g.dirs["memory"], g.dirs["pids"]
	if memory != "" && g.v2 {
		u.OOMKills, u.PeakMemory = counter(memory, "memory.events", "oom_kill"), counter(memory, "memory.peak", "")
	} else if memory != "" {
		u.OOMKills, u.PeakMemory = counter(memory, "memory.oom_control", "oom_kill"), counter(memory, "memory.max_usage_in_bytes", "")
	}
	if pids != "" {
		u.ProcessLimit = counter(pids, "pids.events", "max")
	}
	return u
}

// counter reads the number behind a name in a file of lines, or the only one.
func counter(dir, file, name string) int64 {
	f, err := os.Open(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) == 1 && name == "" || len(words) == 2 && words[0] == name {
			n, _ := strconv.ParseInt(words[len(words)-1], 10, 64)
			return n
		}
	}
	return 0
}

// remove removes the groups, whose processes are gone. The kernel may need a moment
// to notice.
func (g *groups) remove() (err error) {
	if g == nil {
		return nil
	}
	for _, dir := range g.dirs {
		for range 200 {
			if err = os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
				err = nil
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			err = fmt.Errorf("removing a control group: %w", err)
			break
		}
	}
	for _, f := range g.locks {
		_ = f.Close()
	}
	return err
}

// OwnGroup makes room for the groups of cells in the group of version 2 that systemd
// delegated to this process (Delegate=yes): it moves this process into one below, and
// has the controllers handed down. Where there are none nothing changes, and cells are
// limited as on any such machine.
func OwnGroup() error {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	_, path, v2 := strings.Cut("\n"+string(own), "\n0::")
	path, _, _ = strings.Cut(path, "\n")
	dir := filepath.Join("/sys/fs/cgroup", path)
	have, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if !v2 || path == "/" || !strings.Contains(string(have), "pids") {
		return nil
	}
	err = os.Mkdir(filepath.Join(dir, "main"), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "main", "cgroup.procs"), []byte("0"), 0)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+pids +memory +cpu"), 0)
	}
	return err
}
