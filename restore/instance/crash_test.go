package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/durable"
	"knowngood/internal/enginetest"
	"knowngood/internal/posix"
	"knowngood/internal/treetest"
	"knowngood/restore/generation"
)

// crash is an action that is killed at each of its points.
type crash struct {
	before []string
	act    string
	// Versions of the instances once the action was done, and how many run.
	end     []int
	running int
}

var crashes = map[string]crash{
	"spawn":                     {nil, "spawn-2", []int{1, 1}, 0},
	"scale up":                  {[]string{"scale-1"}, "scale-2", []int{1, 1}, 2},
	"scale down":                {[]string{"scale-2"}, "scale-1", []int{1}, 1},
	"start what was spawned":    {[]string{"spawn-1"}, "scale-1", []int{1}, 1},
	"switch":                    {[]string{"scale-2"}, "roll-2", []int{2, 2}, 2},
	"switch that goes back":     {[]string{"scale-2"}, "fails", []int{1, 1}, 2},
	"rollback":                  {[]string{"scale-2", "roll-2"}, "rollback", []int{1, 1}, 2},
	"replace what failed":       {[]string{"scale-2", "die-1"}, "heal-2", []int{1, 1}, 2},
	"remove what never started": {[]string{"spawn-2"}, "remove", nil, 0},
}

// After kill -9 at each point of each action, the next command finds every instance
// complete, counted and running, or gone with all of it; and the action works then.
func TestKilledAtEachPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("it repeats in other processes what others do")
	}
	for _, name := range []string{"spawn", "start what was spawned", "replace what failed"} {
		t.Run(name, func(t *testing.T) { t.Parallel(); killedAtEachPoint(t, name, false) })
	}
	t.Run("scale down with overlays", func(t *testing.T) { t.Parallel(); killedAtEachPoint(t, "scale down", true) })
}

func TestSlow(t *testing.T) {
	if !enginetest.Slow() {
		t.Skip("KNOWNGOOD_SLOW=1 runs it")
	}
	for name := range crashes {
		for way, overlay := range map[string]bool{"copies": false, "overlays": true} {
			if overlay && !slices.Contains([]string{"spawn", "scale up", "switch"}, name) {
				continue // as with copies
			}
			t.Run("killed at each point: "+name+" with "+way, func(t *testing.T) { t.Parallel(); killedAtEachPoint(t, name, overlay) })
			if !overlay || name != "switch" {
				t.Run("power cut at each point: "+name+" with "+way, func(t *testing.T) { t.Parallel(); powerCutAtEachPoint(t, name, overlay) })
			}
		}
	}
	t.Run("reflinks on xfs", func(t *testing.T) { sharesOn(t, "xfs", "reflinks") })
	t.Run("snapshots on btrfs", func(t *testing.T) { sharesOn(t, "btrfs", "btrfs snapshot") })
}

func killedAtEachPoint(t *testing.T, name string, overlay bool) {
	c := crashes[name]
	points := 0
	for n := 1; ; n++ {
		w := newWorld(t, t.TempDir(), overlay)
		for _, what := range c.before {
			if _, out := w.elsewhere(what, 0); out != "" {
				t.Fatalf("%s: %s", what, out)
			}
		}
		killed, out := w.elsewhere(c.act, n)
		if killed != "" {
			points++
			w.next(&c, killed)
			w.repeat(&c, killed)
		}
		if versions, running := w.instances(); !slices.Equal(versions, c.end) || running != c.running {
			t.Errorf("killed at %q: in the end there are %v, %d run, want %v, %d: %s", killed, versions, running, c.end, c.running, out)
		}
		w.unmount()
		if killed == "" || t.Failed() {
			break
		}
	}
	if points < 4 {
		t.Errorf("only %d points were met", points)
	}
	t.Logf("%d points", points)
}

// next is the next command after a crash.
func (w *world) next(c *crash, killed string) {
	w.t.Helper()
	if err := act(context.Background(), w, w.options(), "look"); err != nil && !errors.Is(err, ErrNone) {
		w.t.Fatalf("killed at %q, the next command fails: %v", killed, err)
	}
	versions, running := w.instances()
	if len(versions) > 3 || len(c.before) > 0 && c.before[0] == "scale-2" && len(versions) < 1 {
		w.t.Errorf("killed at %q: there are %v", killed, versions)
	}
	if (c.act == "roll-2" || c.act == "rollback") && (fmt.Sprint(versions) != "[1 1]" && fmt.Sprint(versions) != "[2 2]" || running != 2) {
		w.t.Errorf("killed at %q, the switch left %v, and %d run", killed, versions, running)
	}
}

// repeat does what was interrupted, once more. What it was about may be done.
func (w *world) repeat(c *crash, killed string) {
	w.t.Helper()
	if st, err := readState(w.set()); c.act == "rollback" && (err != nil || st.Previous == "") {
		return
	}
	err := act(context.Background(), w, w.options(), c.act)
	if err != nil && !(c.act == "fails" && errors.Is(err, generation.ErrBack)) {
		w.t.Errorf("ended at %q, %s fails the next time: %v", killed, c.act, err)
	}
}

// What was written to the disk at each point, and nothing else, is mounted again by a machine
// that was started again: nothing runs and nothing is mounted there.
func powerCutAtEachPoint(t *testing.T, name string, overlay bool) {
	c := crashes[name]
	for n, killed := 1, "at all"; killed != ""; n++ {
		at, running := t.TempDir(), t.TempDir()
		image := disk(t, "ext4", at)
		w := newWorld(t, filepath.Join(at, "w"), overlay)
		w.must(os.Remove(w.at("running")))
		w.must(os.Symlink(running, w.at("running")))
		for _, what := range c.before {
			w.elsewhere(what, 0)
		}
		unix.Sync()
		out := ""
		if killed, out = w.elsewhere(c.act, n, "KNOWNGOOD_TEST_END=cp --sparse=always "+image+" "+image+".cut"); killed != "" {
			w.unmount()
			w.must(treetest.Unmount(at))
			mount(t, image+".cut", at)
			w.reboot(running)
			w.next(&c, killed)
			w.repeat(&c, killed)
		}
		if versions, runs := w.instances(); !slices.Equal(versions, c.end) || runs != c.running {
			t.Errorf("cut at %q: in the end there are %v, %d run, want %v, %d: %s", killed, versions, runs, c.end, c.running, out)
		}
		w.unmount()
		w.must(treetest.Unmount(at))
		w.must(errors.Join(os.Remove(image), os.RemoveAll(image+".cut")))
		if t.Failed() {
			return
		}
		if killed == "" {
			t.Logf("%d points", n-1)
		}
	}
}

// reboot makes the state one of another boot, in which nothing runs yet.
func (w *world) reboot(running string) {
	w.t.Helper()
	names, err := os.ReadDir(running)
	w.must(err)
	for _, n := range names {
		w.must(os.Remove(filepath.Join(running, n.Name())))
	}
	st, err := readState(w.set())
	w.must(err)
	if st == nil {
		return
	}
	for _, in := range st.Instances {
		in.Boot = "another"
	}
	w.must(durable.WriteState(filepath.Join(w.set(), stateFile), st, false))
}

// sharesOn makes instances on a file system that shares content, and measures what they take.
func sharesOn(t *testing.T, kind, way string) {
	dir := t.TempDir()
	disk(t, kind, dir)
	w := newWorld(t, filepath.Join(dir, "w"), false)
	const size = 8 << 20
	w.must(os.WriteFile(w.at("source1/large"), bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o644))
	s, err := Open(t.Context(), w.options(), true)
	w.must(err)
	defer s.Close()
	tree, err := w.tree(t.Context(), s, 1)
	w.must(err)
	used := func() uint64 {
		w.must(posix.SyncFS(s.dir))
		var st unix.Statfs_t
		w.must(unix.Statfs(dir, &st))
		return (st.Blocks - st.Bfree) * uint64(st.Bsize)
	}
	before := used()
	added, err := s.Spawn(t.Context(), tree, 4)
	w.must(err)
	for _, in := range added {
		if in.Way != way {
			t.Errorf("instance %d was made by %s, want %s", in.Number, in.Way, way)
		}
	}
	if more := used() - before; more > size/4 {
		t.Errorf("4 instances of %d bytes take %d bytes more", size, more)
	}
	w.instances()
	w.must(os.WriteFile(filepath.Join(s.Path(added[0]), "large"), []byte("other"), 0o644))
	if info, err := os.Stat(filepath.Join(s.Path(added[1]), "large")); err != nil || info.Size() != size {
		t.Errorf("another instance shows what one wrote: %v", err)
	}
	w.must(s.Remove())
}

// disk is a file system in a file, mounted at a directory.
func disk(t *testing.T, kind, at string) (image string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	image = filepath.Join(t.TempDir(), "image")
	for _, argv := range [][]string{{"truncate", "-s", map[string]string{"ext4": "24M", "xfs": "320M", "btrfs": "320M"}[kind], image}, {"mkfs." + kind, "-q", image}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v, %s", argv, err, out)
		}
	}
	mount(t, image, at)
	return image
}

func mount(t *testing.T, image, at string) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		t.Skipf("mount: %v, %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
}
