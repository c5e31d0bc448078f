package instance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
)

func TestLifecycle(t *testing.T) {
	t.Run("a pipe in place of the lock keeps nobody who looks waiting", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		w.open(w.options(), 1).Close()
		lock := filepath.Join(w.set(), lockFile)
		w.must(os.Remove(lock))
		w.must(unix.Mkfifo(lock, 0o600))
		if v, err := Look(w.set()); err != nil || v.Ready != 1 {
			t.Errorf("there are %+v, %v", v, err)
		}
	})
	// A dead instance does not count, and is replaced once another one came up.
	t.Run("one that died does not count and is replaced", func(t *testing.T) {
		t.Parallel() // it waits
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 3)
		s.Config.Timeout = configs.Duration(3 * time.Second)
		dies := func(number string) {
			t.Helper()
			w.must(os.Remove(w.at("running/" + number)))
			w.must(s.Check(t.Context()))
			v := s.View()
			if in := s.state.find(2); v.Ready != 2 || v.Failed != 1 || in.Status != Failed || in.Why == "" || !in.Probed.Before(s.state.find(1).Probed) {
				t.Errorf("of three there are %d ready and %d failed; 2 is %+v", v.Ready, v.Failed, in)
			}
		}
		dies("2")
		config := *s.Config
		s.Config.Start = shell("exit 3") // what it died of takes any new one, too
		refused(t, s.Scale(t.Context(), 3), "instance 2 failed, and stays until another one comes up: instance 4 did not come up")
		if len(s.state.Instances) != 3 {
			t.Errorf("there are %d instances", len(s.state.Instances))
		}
		w.must(os.WriteFile(w.at("running/2"), []byte(w.set()+"/2\n"), 0o644))
		w.must(s.Check(t.Context()))
		if v := s.View(); v.Ready != 3 || s.state.find(2).Why != "" {
			t.Errorf("one that passes again does not count: %+v", v)
		}
		dies("2")
		s.Config = &config
		w.must(s.Scale(t.Context(), 3))
		if s.state.find(2) != nil || s.state.find(4) == nil {
			t.Errorf("the one that failed is there, or no other one: %+v", s.View())
		}
		if versions, running := w.instances(); len(versions) != 3 || running != 3 {
			t.Errorf("there are %v, %d run", versions, running)
		}

		w.must(os.Remove(w.at("running/1"))) // the oldest, and the first to go
		w.must(s.Check(t.Context()))
		w.must(s.Scale(t.Context(), 2))
		if v := s.View(); s.state.find(1) != nil || v.Ready != 2 || v.Failed != 0 {
			t.Errorf("less are wanted, and left are %+v", v)
		}
	})

	t.Run("one that no probe is asked of counts and is never ready", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		o := w.options()
		probes := o.Probes
		o.Probes = nil
		s := w.open(o, 2)
		counts := func(status Status, checked bool) {
			t.Helper()
			w.must(s.Check(t.Context()))
			if v := s.View(); len(s.state.in(status)) != 2 || v.Ready+v.NotProbed != 2 || (v.Ready > 0) != checked || v.CheckedAt.IsZero() == checked {
				t.Errorf("there are %+v, and 2 should be %s", v, status)
			}
		}
		counts(Started, false)
		w.must(os.Remove(w.at("running/1")))
		counts(Started, false) // nobody knows better
		w.must(os.WriteFile(w.at("running/1"), []byte(w.set()+"/1\n"), 0o644))
		s.Probes = probes
		counts(Ready, true)
		s.Probes = nil
		counts(Started, false)
		s.Probes = probes
		tree, err := w.tree(t.Context(), s, 2)
		w.must(err)
		w.must(s.Roll(t.Context(), tree))
		if v := s.View(); v.Ready != 2 || v.CheckedAt.IsZero() {
			t.Errorf("after a switch that asked all there are %+v", v)
		}
	})

	t.Run("a rollback goes to the tree before once", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 2)
		_, err := s.Rollback(t.Context())
		refused(t, err, "no tree of the snapshot before: it is kept for one rollback after each switch. Choose a snapshot: knowngood switch web REF")
		tree, err := w.tree(t.Context(), s, 2)
		w.must(err)
		w.must(s.Roll(t.Context(), tree))
		to, err := s.Rollback(t.Context())
		w.must(err)
		if to.Snapshot != "web@1" || s.View().Current != to {
			t.Errorf("it went back to %+v, and new ones are of %+v", to, s.View().Current)
		}
		if versions, running := w.instances(); !slices.Equal(versions, []int{1, 1}) || running != 2 {
			t.Errorf("there are %v, %d run", versions, running)
		}
		_, err = s.Rollback(t.Context()) // what it came from is no way back
		refused(t, err, "no tree of the snapshot before")
	})

	// An overlay that the state does not name is one of a state that was lost.
	t.Run("an overlay left mounted is found", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), true)
		s := w.open(w.options(), 2)
		b, err := os.ReadFile(s.path(stateFile))
		w.must(err)
		w.must(s.Scale(t.Context(), 3))
		s.Close()
		w.must(os.Remove(w.at("running/3")))
		w.must(os.WriteFile(s.path(stateFile), b, 0o600))
		w.must(act(t.Context(), w, w.options(), "look"))
		w.instances() // as many as are mounted, and nothing else

		w.unmount() // and one that was unmounted is mounted again
		w.must(act(t.Context(), w, w.options(), "look"))
		if versions, running := w.instances(); len(versions) != 2 || running != 2 {
			t.Errorf("there are %v, %d run", versions, running)
		}
	})

	t.Run("a full disk does not forbid retiring", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		needsOverlay(t)
		o := w.options()
		disk := w.at("disk")
		w.must(os.Mkdir(disk, 0o755))
		w.must(unix.Mount("test", disk, "tmpfs", 0, "size=2m"))
		o.Dir = filepath.Join(disk, "instances")
		s := w.open(o, 2)
		file, err := os.Create(filepath.Join(disk, "others"))
		w.must(err)
		if _, err := file.Write(make([]byte, 3<<20)); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		file.Close()
		w.must(s.Scale(t.Context(), 1))
		if v := s.View(); v.Ready != 1 {
			t.Errorf("there are %+v", v)
		}
		s.Close()
	})

	t.Run("those that start are waited for together", func(t *testing.T) {
		w := newWorld(t, t.TempDir(), false)
		s := w.open(w.options(), 0)
		all := make(chan struct{})
		var asked atomic.Int32
		s.Ask = func(ctx context.Context, probes []configs.Probe) error { // none passes before all are asked
			if asked.Add(1) == 3 {
				close(all)
			}
			select {
			case <-all:
				return askAll(ctx, probes)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		w.must(s.Scale(t.Context(), 3))
		w.instances()
	})
}
