package daemon

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7"

	"knowngood/configs"
	"knowngood/daemon/checking"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
	"knowngood/snapshot/check"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

// checkedWorld is a world with several packs, whose daemon checks them.
type checkedWorld struct {
	*world
	config *configs.Config
}

func newChecked(t *testing.T, store storage.Store, check string, identity bool) *checkedWorld {
	t.Helper()
	w := &checkedWorld{world: newWorldOn(t, store)}
	random := rand.New(rand.NewPCG(7, 8))
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		content := make([]byte, 1<<20)
		for i := range content {
			content[i] = byte(random.Uint32())
		}
		w.write(name, string(content))
	}
	w.config = w.world.config("  web: {schedule: \"0 6 * * *\", time_zone: UTC, sources: [{path: \"$SOURCE\"}]}\n")
	c, err := configs.Parse("test.yaml", []byte("check: "+check+"\n"), configs.LoadOptions{Advise: true})
	w.Check(err)
	w.config.Check = c.Check
	if identity {
		w.config.Identity = "/etc/knowngood/identity"
	}
	return w
}

func (w *checkedWorld) daemon() *Daemon {
	d := w.world.daemon(w.config)
	d.Unlocked = w.unlocked
	return d
}

func (w *checkedWorld) unlocked(ctx context.Context, _ *configs.Config, findings *authentic.Findings) (*repository.Repository, error) {
	r, err := repository.Open(ctx, w.faulty, repository.Options{Options: trust.Options{StateDir: w.State, URL: "test", Now: time.Now(), Fresh: time.Hour, Report: findings.Add}})
	if err == nil {
		r.Unlock(w.ID)
	}
	return r, err
}

// packs are the keys of the packs in the store.
func (w *checkedWorld) packs() (keys []string) {
	w.t.Helper()
	for o, err := range w.faulty.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixHosts}) {
		w.Check(err)
		if _, _, _, ok := layout.ParsePackKey(o.Key); ok && o.Size > 100_000 {
			keys = append(keys, o.Key)
		}
	}
	if len(keys) < 3 {
		w.t.Fatalf("there are only %d packs", len(keys))
	}
	return keys
}

func flip(b []byte) []byte { b[len(b)/2] ^= 1; return b }

// well asserts that the newest check began at some time of the last 24*time.Hour, and found
// nothing.
func (w *checkedWorld) well(d *Daemon) *report.Check {
	w.t.Helper()
	r := d.Report()
	if c := r.Check; c == nil || c.Damaged != 0 || c.Failures != 0 || c.Overdue || time.Since(c.Began) > 25*time.Hour || len(r.Warnings) > 0 {
		w.t.Fatalf("the check: %+v, last %+v, warnings %v", c, c.Last, r.Warnings)
	}
	return r.Check
}

// damaged asserts that the damage of a key shows everywhere.
func (w *checkedWorld) damaged(d *Daemon, key string) {
	w.t.Helper()
	r := d.Report()
	c := r.Check
	if c.Damaged != 1 || c.Last == nil || c.Last.Result != report.Failed || c.Last.Damaged != 1 || !strings.Contains(c.Last.Error, key) || !strings.Contains(strings.Join(c.Damage, "\n"), key) {
		w.t.Fatalf("the check: %+v, last %+v", c, c.Last)
	}
	if !slices.ContainsFunc(r.Warnings, func(x report.Warning) bool { return x.Degraded && strings.Contains(x.Text, key) }) {
		w.t.Errorf("warnings: %v", r.Warnings)
	}
	if level, text := r.Verdict(); level != report.Broken || !strings.Contains(text, "damaged: the check found that 1 object is missing or damaged") {
		w.t.Errorf("the verdict: %v, %s", level, text)
	}
}

func TestCheck(t *testing.T) {
	t.Run("on a host that only writes finds a pack that is gone, until its content is stored again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := storagetest.NewMemory()
			w := newChecked(t, m, `{schedule: "0 5 * * *", time_zone: UTC}`, false)
			w.faulty.Add(storagetest.Rule{Op: storagetest.Get, Prefix: layout.PrefixKeys, Fault: storagetest.FailBefore(storage.ErrDenied)}) // as its policy has it
			d := w.daemon()
			stop := w.run(d)
			time.Sleep(30 * time.Hour)
			if c := w.well(d); c.Data != nil {
				t.Errorf("data is read: %+v", c.Data)
			}
			time.Sleep(nextAt(3))
			key := w.packs()[0]
			m.Forget(key)
			time.Sleep(nextAt(5) + time.Minute)
			w.damaged(d, key)
			time.Sleep(25 * time.Hour) // the capture at 6 heals it
			if c := d.Report().Check; c.Damaged != 0 || c.Failures != 0 || time.Since(c.Began) > 24*time.Hour {
				t.Errorf("after the next capture: %+v", c)
			}
			stop()
			w.faulty.Clear()
			if found, err := check.Run(t.Context(), w.Bare(), check.Options{}); err != nil || len(found.Damage) > 0 {
				t.Errorf("%v, %+v", err, found)
			}
		})
	})

	t.Run("on a host that only writes reads data when it is asked to, and judges by hashes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := storagetest.NewMemory()
			w := newChecked(t, m, `{schedule: "0 5 * * *", time_zone: UTC, read_data: all}`, false)
			d := w.daemon()
			stop := w.run(d)
			time.Sleep(30 * time.Hour)
			if c := w.well(d); c.Data == nil || time.Since(c.Data.Oldest) > 25*time.Hour || c.Last.ReadBytes < 5<<20 {
				t.Errorf("the data: %+v", c.Data)
			}
			time.Sleep(nextAt(3))
			key := w.packs()[1]
			m.Edit(key, flip)
			time.Sleep(nextAt(5) + time.Minute)
			w.damaged(d, key)
			time.Sleep(25 * time.Hour)
			r := d.Report()
			if r.Check.Damaged != 0 || len(r.Check.Notes) != 1 || !strings.Contains(r.Check.Notes[0], "affects nothing") || !strings.Contains(r.Check.Notes[0], key) {
				t.Errorf("after the next capture: %+v", r.Check)
			}
			stop()
		})
	})

	t.Run("reads all data in turn, and finds a damaged pack within the cycle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := storagetest.NewMemory()
			w := newChecked(t, m, `{schedule: "0 5 * * *", time_zone: UTC, cycle: 4d}`, true)
			d := w.daemon()
			stop := w.run(d)
			time.Sleep(5 * 24 * time.Hour)
			if c := w.well(d); c.Data == nil || time.Since(c.Data.Oldest) > 5*24*time.Hour || c.Data.CycleSeconds != (4*24*time.Hour).Seconds() || c.Data.PassPart != 0.25 { // of the second pass: how many packs that is, chance decides
				t.Errorf("the data: %+v", c.Data)
			}
			time.Sleep(nextAt(3))
			key := w.packs()[2]
			m.Edit(key, flip)
			found := 0
			for n := range 5 {
				time.Sleep(nextAt(5) + time.Minute)
				if d.Report().Check.Damaged > 0 {
					found = n + 1
					break
				}
			}
			if found == 0 {
				t.Fatal("it is not found")
			}
			w.damaged(d, key)
			if text := d.Report().Check.Damage[0]; !strings.Contains(text, "affects web@") {
				t.Errorf("it does not say what is hurt: %s", text)
			}
			time.Sleep(25 * time.Hour)
			if c := d.Report().Check; c.Damaged != 0 || c.Failures != 0 {
				t.Errorf("after the next capture: %+v", c)
			}
			stop()
		})
	})

	t.Run("is never shown as passed when it failed or did not run", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newChecked(t, storagetest.NewMemory(), `{schedule: "0 5 * * *", time_zone: UTC}`, false)
			d := w.daemon()
			var broken atomic.Bool
			d.Open = func(ctx context.Context, c *configs.Config, findings *authentic.Findings) (*repository.Repository, error) {
				if broken.Load() {
					return nil, storage.ErrUnreachable
				}
				return w.open(ctx, c, findings)
			}
			stop := w.run(d)
			time.Sleep(30 * time.Hour)
			began := w.well(d).Began
			broken.Store(true) // captures have the repository open
			time.Sleep(25 * time.Hour)
			r := d.Report()
			if c := r.Check; c.Failures != 1 || !c.Began.Equal(began) || c.Overdue || c.Last.Error == "" {
				t.Errorf("after a failure: %+v", c)
			}
			if level, text := r.Verdict(); level != report.Attention || !strings.Contains(text, "check of what is stored failed") {
				t.Errorf("the verdict: %v, %s", level, text)
			}
			time.Sleep(4 * 24 * time.Hour)
			if c := d.Report().Check; !c.Overdue || !c.Began.Equal(began) {
				t.Errorf("after four: %+v", c)
			}
			broken.Store(false)
			time.Sleep(24 * time.Hour)
			w.well(d)
			stop()
		})
	})

	t.Run("goes on where it was when the daemon ends in the middle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newChecked(t, storagetest.NewMemory(), `{schedule: "0 5 * * *", time_zone: UTC, read_data: all}`, true)
			d := w.daemon()
			stop := w.run(d)
			time.Sleep(nextAt(4))
			w.Check(d.Start(t.Context(), "web"))
			time.Sleep(time.Minute)
			keys := w.packs()
			slices.Sort(keys)
			last := keys[len(keys)-1]
			w.faulty.Add(storagetest.Rule{Op: storagetest.Get, Prefix: last, Nth: 1, Fault: storagetest.Stalled(0)})
			time.Sleep(nextAt(5) + time.Minute)
			if c := d.Report().Check; c.Running == nil || c.Data.PassPart == 0 || !c.Data.Oldest.IsZero() {
				t.Fatalf("in the middle: %+v, %+v", c, c.Data)
			}
			stop()

			w.faulty.Clear()
			before := len(w.faulty.Log())
			d = w.daemon()
			stop = w.run(d)
			time.Sleep(3 * time.Minute)
			c := w.well(d)
			if c.Data.Oldest.IsZero() {
				t.Errorf("after a restart: %+v, last %+v", c.Data, c.Last)
			}
			if c.Last.ReadBytes >= c.Data.Bytes || c.Last.ReadBytes == 0 {
				t.Errorf("it read %d bytes after the restart, of %d packs, in %d requests", c.Last.ReadBytes, len(keys), len(w.faulty.Log())-before)
			}
			stop()
		})
	})

	t.Run("by hand counts too, and does not hide what it did not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := storagetest.NewMemory()
			w := newChecked(t, m, `{schedule: off}`, true)
			d := w.daemon()
			stop := w.run(d)
			time.Sleep(7 * time.Hour)
			if c := d.Report().Check; c == nil || !c.Began.IsZero() || c.Schedule != "" || c.Overdue {
				t.Fatalf("without a schedule: %+v", c)
			}
			repo, _ := d.repo.current()
			record := func(h checking.ByHand) *report.Check {
				h.Repository, h.Began = repo.ID().String(), time.Now()
				w.Check(h.Record(w.State))
				time.Sleep(2 * time.Minute)
				return d.Report().Check
			}
			if c := record(checking.ByHand{Command: "check", Structure: true}); c.Began.IsZero() || c.Command != "check" || c.Damaged != 0 || c.Data == nil || !c.Data.Oldest.IsZero() {
				t.Errorf("after a check: %+v", c)
			}
			if c := record(checking.ByHand{Command: "snapshot --verify=data", Data: true}); c.Command != "check" || time.Since(c.Data.Oldest) > 3*time.Minute {
				t.Errorf("after a capture: %+v, %+v", c, c.Data)
			}
			if c := record(checking.ByHand{Command: "check", Structure: true, Finding: checking.Finding{Damaged: 1, First: []string{"a pack"}}}); c.Damaged != 1 {
				t.Errorf("after a check that found damage: %+v", c)
			}
			stop()
			known := map[string]any{}
			slots, err := jobfiles.OpenSlots(jobfiles.Jobs(w.State), "checked.state", 96<<10, &known)
			w.Check(err)
			known["suspects"] = []string{w.packs()[0]}
			w.Check(slots.Write(known))
			slots.Close()
			d = w.daemon()
			stop = w.run(d)
			time.Sleep(time.Minute)
			if c := record(checking.ByHand{Command: "check", Structure: true}); c.Damaged != 1 {
				t.Errorf("after a check that read no data: %+v", c)
			}
			if c := record(checking.ByHand{Command: "check --read-data", Structure: true, Data: true}); c.Damaged != 0 {
				t.Errorf("after a check that read everything: %+v", c)
			}
			stop()
			stop = w.run(w.daemon())
			time.Sleep(time.Minute)
			stop()
		})
	})

	t.Run("tells of damage once, and when it is over", func(t *testing.T) {
		at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
		w := notify.Watch{Host: "h", Repeat: 24 * time.Hour}
		kinds := func(messages []notify.Message) (out []string) {
			for _, m := range messages {
				out = append(out, string(m.Kind)+" "+m.Title)
			}
			return out
		}
		well := &report.Check{Began: at}
		bad := &report.Check{Began: at, Damaged: 2, Damage: []string{"hosts/h/packs/1: missing"}, Job: report.Job{Failures: 1, Last: &report.Run{Result: report.Failed, Damaged: 2, Error: "x"}}}
		late := &report.Check{Began: at, Overdue: true, Job: report.Job{Failures: 4, Last: &report.Run{Result: report.Failed, Error: "store cannot be reached"}}}
		for i, step := range []struct {
			c    *report.Check
			want []string
		}{
			{well, nil},
			{bad, []string{"damage h: the check found damage"}},
			{bad, nil},
			{well, []string{"recovery h: the check finds no damage any more"}},
			{late, []string{"degraded h: the check is overdue", "failure h: the check failed"}},
			{well, []string{"recovery h: what is stored is checked in time again", "recovery h: checks succeed again"}},
		} {
			if got := kinds(w.Verified(at.Add(time.Duration(i)*time.Minute), step.c)); !slices.Equal(got, step.want) {
				t.Errorf("step %d: %q", i, got)
			}
		}
	})
}

// nextAt is how long it takes until an hour of the 24*time.Hour, in UTC.
func nextAt(hour int) time.Duration {
	now := time.Now().UTC()
	at := time.Date(now.Year(), now.Month(), now.Day(), hour, 0, 0, 0, time.UTC)
	if !at.After(now) {
		at = at.AddDate(0, 0, 1)
	}
	return at.Sub(now)
}

// damageOn is a real store, and what damages an object in it.
type damageOn func(t *testing.T) (storage.Store, func(key string))

// A check in real time, on real stores.
func TestCheckOnRealStores(t *testing.T) {
	for name, make := range map[string]damageOn{
		"a directory": func(t *testing.T) (storage.Store, func(string)) {
			dir := t.TempDir()
			s, err := stores.Create(t.Context(), dir, stores.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s, func(key string) {
				path := filepath.Join(dir, filepath.FromSlash(key))
				b, err := os.ReadFile(path)
				if err == nil {
					err = errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, flip(b), 0o600))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		},
		"an S3 server": func(t *testing.T) (storage.Store, func(string)) {
			server := storagetest.MinIO(t)
			server.Bucket(t, "backups", storagetest.PlainBucket)
			server.Setenv(t)
			s, err := stores.Open(t.Context(), server.URL("backups", "prod"), stores.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s, func(key string) {
				body, err := s.Get(t.Context(), key, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				defer body.Close()
				var b bytes.Buffer
				if _, err := b.ReadFrom(body); err != nil {
					t.Fatal(err)
				}
				damaged := flip(b.Bytes())
				if _, err := server.Client(t).PutObject(t.Context(), "backups", "prod/"+key, bytes.NewReader(damaged), int64(len(damaged)), minio.PutObjectOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, damage := make(t)
			w := newChecked(t, store, `{schedule: "@yearly", read_data: all}`, true)
			w.MustCapture("web", w.source)
			d := w.daemon()
			stop := w.run(d)
			defer stop()
			run := func() *report.Run {
				t.Helper()
				until(t, "the daemon runs", func() bool { r := d.Report(); return r.Degraded == "" })
				d.jobs.mu.Lock()
				before := d.jobs.byName[checkJob].state.Last
				d.executor.begin(d.ctx, d.jobs.byName[checkJob], report.Run{Trigger: "hand"})
				d.jobs.mu.Unlock()
				until(t, "the check ends", func() bool { c := d.Report().Check; return c.Running == nil && c.Last != before })
				return d.Report().Check.Last
			}
			if last := run(); last.Result != report.Success || last.ReadBytes < 5<<20 {
				t.Fatalf("a check of what is whole: %+v", last)
			}
			w.well(d)
			key := w.packs()[0]
			damage(key)
			if last := run(); last.Result != report.Failed || last.Damaged != 1 {
				t.Fatalf("a check of a damaged pack: %+v", last)
			}
			w.damaged(d, key)

			w.MustCapture("web", w.source) // it was noted, and is stored again
			if last := run(); last.Result != report.Success {
				t.Fatalf("after the next capture: %+v", last)
			}
			found, err := check.Run(t.Context(), w.Bare(), check.Options{})
			if err != nil || len(found.Damage) > 0 {
				t.Errorf("%v, %+v", err, found)
			}
		})
	}
}
