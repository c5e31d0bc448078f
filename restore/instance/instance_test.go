package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/durable"
	"knowngood/restore/generation"
)

// open opens the instances of a world, of which count run.
func (w *world) open(o *Options, count int) *Set {
	w.t.Helper()
	s, err := Open(w.t.Context(), o, true)
	w.must(err)
	w.t.Cleanup(s.Close)
	tree, err := w.tree(w.t.Context(), s, 1)
	w.must(err)
	_, err = s.Spawn(w.t.Context(), tree, 0)
	w.must(err)
	w.must(s.Scale(w.t.Context(), count))
	return s
}

func refused(t *testing.T, err error, want ...string) {
	t.Helper()
	for _, text := range want {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("the error is %v, want one with %q", err, text)
		}
	}
}

func TestInstances(t *testing.T) {
	t.Run("what one instance writes no other shows", func(t *testing.T) {
		for _, overlay := range []bool{false, true} {
			t.Run(fmt.Sprintf("overlay: %v", overlay), func(t *testing.T) {
				w := newWorld(t, t.TempDir(), overlay)
				s := w.open(w.options(), 2)
				w.must(os.WriteFile(filepath.Join(w.set(), "1/d0/0"), []byte("written"), 0o644))
				w.must(os.Remove(filepath.Join(w.set(), "1/d1/1")))
				if b, err := os.ReadFile(filepath.Join(w.set(), "2/d0/0")); err != nil || string(b) != "version 1" {
					t.Errorf("the other instance has %q, %v", b, err)
				}
				w.must(s.Scale(t.Context(), 3)) // the tree is as it was recorded
				if b, err := os.ReadFile(filepath.Join(w.set(), "3/d1/1")); err != nil || string(b) != "version 1" {
					t.Errorf("a new instance has %q, %v", b, err)
				}
			})
		}
	})

	// The machine was started again: nothing runs and nothing is mounted.
	t.Run("after a boot instances are mounted and started again", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), true)
		s := w.open(w.options(), 2)
		w.must(os.WriteFile(filepath.Join(w.set(), "2/written"), nil, 0o644))
		s.state.find(1).Status = Draining
		for _, in := range s.state.Instances {
			in.Boot = "another"
		}
		w.must(s.save("boot"))
		s.Close()
		w.unmount()
		w.must(os.Remove(w.at("running/1")))
		w.must(os.Remove(w.at("running/2")))

		s, err := Open(t.Context(), w.options(), false)
		w.must(err)
		defer s.Close()
		if versions, running := w.instances(); len(versions) != 1 || running != 1 {
			t.Errorf("there are %v, %d run", versions, running)
		}
		if _, err := os.Stat(filepath.Join(w.set(), "2/written")); err != nil {
			t.Errorf("what instance 2 wrote is gone: %v", err)
		}
	})

	t.Run("one that does not come up is removed", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 1)
		s.Config.Timeout = configs.Duration(300 * time.Millisecond)
		s.Probes = []configs.Probe{{Name: "no", Timeout: configs.Duration(time.Second), File: &configs.FileProbe{Path: "{path}/missing"}}}
		err := s.Scale(t.Context(), 2)
		refused(t, err, "instance 2 did not come up: its probes did not pass within 300ms")
		if !errors.Is(err, ErrProbe) {
			t.Errorf("the error is %v", err)
		}
		if versions, running := w.instances(); len(versions) != 1 || running != 1 {
			t.Errorf("there are %v, %d run", versions, running)
		}
		s.Probes, s.Config.Start = nil, shell("echo why >&2; exit 3")
		refused(t, s.Scale(t.Context(), 2), "exit status 3: why")
		w.instances()
	})

	t.Run("the newest is drained and retired first", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 3)
		w.must(s.Scale(t.Context(), 1))
		if b, err := os.ReadFile(w.at("drained")); err != nil || string(b) != "3\n2\n" {
			t.Errorf("drained were %q, %v", b, err)
		}
		s.Config.BeforeRetire = shell("echo busy >&2; exit 1")
		refused(t, s.Scale(t.Context(), 0), "instance 1 was not retired", "busy")
		if _, running := w.instances(); running != 1 {
			t.Error("the instance that could not be drained does not run any more")
		}
	})

	t.Run("one that is used stays until nothing uses it", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 1)
		sleeper := exec.Command("sleep", "60")
		sleeper.Dir = filepath.Join(w.set(), "1/d0")
		w.must(sleeper.Start())
		refused(t, s.Scale(t.Context(), 0), "instance 1 is still used by process", "sleep")
		s.Close()
		if _, err := os.Stat(sleeper.Dir + "/0"); err != nil {
			t.Errorf("what is used was removed: %v", err)
		}
		w.must(sleeper.Process.Kill())
		sleeper.Wait()
		w.must(act(t.Context(), w, w.options(), "look"))
		if versions, _ := w.instances(); len(versions) != 0 {
			t.Errorf("there are %v", versions)
		}
	})

	// What somebody mounted into an instance is never entered by what removes it.
	t.Run("a mount in an instance is not removed", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), true)
		s := w.open(w.options(), 1)
		precious := w.at("precious")
		w.must(os.MkdirAll(precious, 0o755))
		w.must(os.WriteFile(precious+"/file", nil, 0o644))
		w.must(unix.Mount(precious, filepath.Join(w.set(), "1/d0"), "", unix.MS_BIND, ""))
		refused(t, s.Scale(t.Context(), 0), "is mounted on "+filepath.Join(w.set(), "1/d0"))
		if _, err := os.Stat(precious + "/file"); err != nil {
			t.Fatal(err)
		}
		w.must(unix.Unmount(filepath.Join(w.set(), "1/d0"), 0))
		s.Close()
		w.must(act(t.Context(), w, w.options(), "look"))
		w.instances()
	})

	t.Run("a changed tree makes no instance", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 1)
		w.must(os.WriteFile(filepath.Join(s.treePath(s.View().Current.Name), "d0/0"), []byte("changed"), 0o644))
		refused(t, s.Scale(t.Context(), 2), "no instance is made from a tree that is not as it was recorded", `changed "d0/0"`)
		w.instances()

		// The same size and time, and other content.
		o := w.options()
		o.Dir = w.at("others")
		s = w.open(o, 1)
		file := filepath.Join(s.treePath(s.View().Current.Name), "d1/1")
		info, err := os.Stat(file)
		w.must(err)
		w.must(os.WriteFile(file, []byte("VERSION 1"), 0o644))
		w.must(os.Chtimes(file, info.ModTime(), info.ModTime()))
		refused(t, s.Scale(t.Context(), 2), `changed "d1/1"`)
	})

	// A state that could not be read again would leave all of them for good.
	t.Run("more instances than a state holds are refused", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 1)
		_, err := s.Spawn(t.Context(), s.View().Current, maxInstances+1)
		refused(t, err, "can have 10000")
		in := *s.state.Instances[0]
		in.Way, in.Number = "clone by reflinks", maxInstances
		b, err := json.MarshalIndent(&in, "    ", "  ")
		if err != nil || (len(b)+10)*maxInstances > durable.MaxState*3/4 {
			t.Errorf("an instance takes %d bytes, %v", len(b), err)
		}
		one := s.state.Instances[0]
		s.state.Instances = nil
		for n := range maxInstances {
			in := *one
			in.Number, in.Way = n+1, "clone by reflinks"
			in.setFailed(errors.New(strings.Repeat("\x01", 1000)), maxInstances)
			s.state.Instances = append(s.state.Instances, &in)
		}
		w.must(s.save("all failed, for reasons of any length"))
		if _, err := Look(s.dir); err != nil {
			t.Error(err)
		}
	})

	t.Run("directories that are refused", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		open := func(dir, environment string) error {
			o := w.options()
			o.Dir, o.Environment = dir, environment
			s, err := Open(t.Context(), o, true)
			if err == nil {
				s.Close()
			}
			return err
		}
		refused(t, open(w.at("source1"), "web"), "holds", "directory of their own")
		w.must(os.Mkdir(w.at("open"), 0o700))
		w.must(os.Chmod(w.at("open"), 0o777))
		refused(t, open(w.at("open/instances"), "web"), "can be written by others")
		s := w.open(w.options(), 1)
		if err := open(w.set(), "web"); !errors.Is(err, ErrBusy) {
			t.Errorf("a second one gets %v", err)
		}
		s.Close()
		refused(t, open(filepath.Join(w.set(), "7"), "other"), "lies in "+w.set()+", which has instances")
		refused(t, open(w.set(), "other"), `has instances of environment "web"`)
		refused(t, act(t.Context(), w, w.options(), "remove"), "knowngood scale web --to 0")
		for name, text := range map[string]string{
			"a tree":      `{"version":1,"environment":"web","current":"","trees":[{"name":"../../etc","snapshot":"","id":"","under":"","paths":0,"built":"2026-01-01T00:00:00Z"}],"instances":[]}`,
			"an instance": `{"version":1,"environment":"web","current":"","trees":[],"instances":[{"number":-1,"tree":"","way":"","state":"removing","made":"2026-01-01T00:00:00Z","boot":""}]}`,
			"a version":   `{"version":2}`,
			"a key":       `{"version":1,"more":1}`,
			"no JSON":     `x`,
		} {
			w.must(os.WriteFile(filepath.Join(w.set(), stateFile), []byte(text), 0o600))
			if err := open(w.set(), "web"); err == nil {
				t.Errorf("a state with %s is taken", name)
			}
		}
	})

	t.Run("what the state does not name is removed", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		w.open(w.options(), 1).Close()
		for _, dir := range []string{"7/d0", "upper/7/work", "trees/9-00000000/d0", "other"} {
			w.must(os.MkdirAll(filepath.Join(w.set(), dir), 0o755))
		}
		for _, file := range []string{"7.env", ".instances.json.123", "trees/9-00000000.files", "trees/.record-1"} {
			w.must(os.WriteFile(filepath.Join(w.set(), file), nil, 0o644))
		}
		w.must(act(t.Context(), w, w.options(), "look"))
		w.must(os.Remove(filepath.Join(w.set(), "other"))) // which could be somebody's
		w.instances()
	})
}

func TestRoll(t *testing.T) {
	t.Run("an instance that comes up and dies does not take over", func(t *testing.T) {
		t.Parallel() // it waits
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 3)
		tree, err := w.tree(t.Context(), s, 2)
		w.must(err)
		s.Config.Timeout = configs.Duration(3 * time.Second)
		asked := 0
		s.Ask = func(ctx context.Context, probes []configs.Probe) error {
			if asked++; asked == 1 { // the new one came up, and dies
				defer os.RemoveAll(filepath.Join(w.at("running"), "4"))
			}
			return askAll(ctx, probes)
		}
		err = s.Roll(t.Context(), tree)
		refused(t, err, "instance 4 came up, and failed then: its probes did not pass")
		if !errors.Is(err, generation.ErrBack) || s.View().Current.Snapshot != "web@1" {
			t.Errorf("it ended with %v", err)
		}
		if versions, running := w.instances(); !slices.Equal(versions, []int{1, 1, 1}) || running != 3 {
			t.Errorf("there are %v, %d run", versions, running)
		}
	})

	t.Run("one that cannot go back ends once", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 2)
		tree, err := w.tree(t.Context(), s, 2)
		w.must(err)
		s.Config.BeforeRetire = shell("exit 1") // so the new one cannot be retired either
		err = s.Roll(t.Context(), tree)
		refused(t, err, "going back failed, which is not tried again")
		if errors.Is(err, generation.ErrBack) || s.state.Roll != nil || s.View().Problem == "" || s.View().Current.Snapshot != "web@1" {
			t.Errorf("%v; the state is %+v", err, s.state)
		}
		s.Close()
		w.must(act(t.Context(), w, w.options(), "look"))
		if versions, running := w.instances(); len(versions) != 3 || running != 3 {
			t.Errorf("there are %v, %d run", versions, running)
		}
	})
}

func TestWanted(t *testing.T) {
	t.Run("the number that is decided on", func(t *testing.T) {
		for name, c := range map[string]struct {
			alive, wanted, failed int
			age                   time.Duration // of the last change
			up, down              configs.Count
			to                    int
			stays                 bool
		}{
			"what is wanted":                           {2, 4, 0, time.Hour, 0, 0, 4, false},
			"less is wanted":                           {4, 3, 0, time.Hour, 0, 0, 3, false},
			"more than the most":                       {2, 100, 0, time.Hour, 0, 0, 6, false},
			"less than the least":                      {4, 0, 0, time.Hour, 0, 0, 2, false},
			"up in steps":                              {2, 6, 0, time.Hour, 1, 0, 3, false},
			"down in steps":                            {6, 2, 0, time.Hour, 0, 2, 4, false},
			"not while it cools down":                  {2, 4, 0, time.Minute, 0, 0, 2, true},
			"cooling down is no reason where all is":   {4, 4, 0, time.Minute, 0, 0, 4, false},
			"below the least, whatever it cools":       {0, 3, 0, time.Second, 0, 1, 3, false},
			"below the least, in steps":                {0, 6, 0, time.Second, 1, 1, 2, false},
			"below the least, in long steps":           {1, 6, 0, time.Second, 3, 1, 4, false},
			"a change in the future is of no use":      {2, 4, 0, -time.Hour, 0, 0, 4, false},
			"as old as the cooldown":                   {2, 4, 0, 2 * time.Minute, 0, 0, 4, false},
			"the first time, with a tree and no state": {0, 9, 0, 1e6 * time.Hour, 0, 0, 6, false},
			"less while one failed":                    {4, 3, 1, time.Hour, 0, 0, 4, true},
			"more while one failed":                    {4, 5, 1, time.Hour, 0, 0, 5, false},
		} {
			config := &configs.Scale{Min: 2, Max: 6, Up: c.up, Down: c.down, Cooldown: configs.Duration(2 * time.Minute)}
			if to, why := decide(config, c.alive, c.failed, c.age, c.wanted); to != c.to || (why != "") != c.stays {
				t.Errorf("%s: %d (%s), want %d", name, to, why, c.to)
			}
		}
	})

	t.Run("the number that is read", func(t *testing.T) {
		answer, status := "", 200
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); fmt.Fprint(w, answer) }))
		defer server.Close()
		s := &Set{fleet{stock{journal{Options: &Options{Environment: "web", Config: &configs.Scale{Min: 1, Max: 9}}, layout: layout{"/srv/web"}, state: &state{Instances: []*Instance{{Number: 3, Status: Ready}, {Number: 4, Status: Made}}}}}}}
		for text, want := range map[string]int{"3": 3, " 4\n": 4, "2.1": 3, "0": 0, "": -1, "-1": -1, "1e3": -1, "Inf": -1, "many": -1, "3 4": -1, "\x1b[31m": -1, strings.Repeat("1", 1000): -1} {
			for kind, target := range map[string]*configs.ScaleTarget{"command": {Command: []string{"printf", "%b", text}}, "http": {HTTP: server.URL}} {
				answer, s.Config.Target = text, target
				n, err := s.wanted(t.Context())
				if err != nil {
					n = -1
				}
				if n != want {
					t.Errorf("%s answers %q: %d, %v, want %d", kind, text, n, err, want)
				}
				if err != nil && strings.ContainsRune(err.Error(), '\x1b') {
					t.Errorf("%s: the error has an escape", kind)
				}
			}
		}
		answer, s.Config.Target = strings.Repeat(" ", maxAnswer-1)+"12", &configs.ScaleTarget{HTTP: server.URL}
		if n, err := s.wanted(t.Context()); err == nil {
			t.Errorf("a long answer that ends with 12 is %d", n)
		}
		answer, status = "3", 500
		if n, err := s.wanted(t.Context()); err == nil {
			t.Errorf("status 500 is %d", n)
		}
		s.Config.Target = &configs.ScaleTarget{Command: []string{"sleep", "60"}, Timeout: configs.Duration(50 * time.Millisecond)}
		_, _, _, err := s.Decide(t.Context())
		refused(t, err, "so nothing is changed", "longer than its timeout")
		s.Config.Target = &configs.ScaleTarget{Command: []string{"/bin/sh", "-c", `test "$KNOWNGOOD_INSTANCES:$KNOWNGOOD_SCALE_MIN:$KNOWNGOOD_SCALE_MAX:$KNOWNGOOD_INSTANCE_UNITS" = '3:1:9:knowngood-instance@srv-web-3.service' && echo 7`}}
		if n, err := s.wanted(t.Context()); n != 7 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}
