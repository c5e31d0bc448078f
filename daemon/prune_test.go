package daemon

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// stored are the packs in the store.
func (w *world) stored() (n int) {
	w.t.Helper()
	for o, err := range w.faulty.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixHosts}) {
		w.Check(err)
		if _, _, _, ok := layout.ParsePackKey(o.Key); ok {
			n++
		}
	}
	return n
}

func TestPrune(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"what the policy forgets is freed beside the captures":           whatThePolicyForgetsIsFreedBesideTheCaptures,
		"a nightly prune repacks with the identity of the configuration": aNightlyPruneRepacksWithTheIdentityOfTheConfiguration,
		"a prune during which something is always forgotten gives up":    aPruneDuringWhichSomethingIsAlwaysForgottenGivesUp,
	} {
		t.Run(name, test)
	}
}

// Three weeks of captures of content that never comes again, with a policy
// that keeps little and a nightly prune: what is stored stays bounded, and all
// that is kept is whole.
func whatThePolicyForgetsIsFreedBesideTheCaptures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config(`  web: {schedule: "0 */2 * * *", time_zone: UTC, sources: [{path: $SOURCE}], keep: {last: 3}}
`)
		c.Prune = &configs.Prune{Schedule: "@daily", TimeZone: "UTC", Announce: configs.Duration(48 * time.Hour)}
		d := w.daemon(c)
		stop := w.run(d)
		time.Sleep(time.Hour) // captures come at even hours, changes at odd ones
		random := rand.New(rand.NewPCG(3, 4))
		most := 0
		for day := range 21 {
			for hour := range 12 {
				content := make([]byte, 20_000)
				for i := range content {
					content[i] = byte(random.Uint32())
				}
				w.write(fmt.Sprintf("file-%d", hour%3), string(content))
				time.Sleep(2 * time.Hour)
			}
			if day > 7 {
				most = max(most, w.stored())
			}
		}
		r := d.Report()
		stop()
		if r.Prune == nil || r.Prune.LastSuccess == nil || r.Prune.Failures > 0 || r.Prune.Totals[report.Success] < 20 || r.Prune.LastSuccess.FreedBytes == 0 {
			for _, l := range w.logs.FilterMessage("prune failed").All() {
				t.Log(l.ContextMap()["error"])
			}
			t.Fatalf("the prune job: %+v", r.Prune)
		}
		// A day makes 12 packs; young ones and announced ones stay 48 hours each.
		if total := 21 * 12; most > total/2 {
			t.Errorf("up to %d packs are stored, %d were written in all", most, total)
		}
		w.Clean()
		w.Restores("web", w.source, treetest.Snapshot(t, w.source))
	})
}

// One pack holds what stays and what does not. With an identity the nightly
// prune rewrites it, and the captures after it do not refer to the old one.
func aNightlyPruneRepacksWithTheIdentityOfTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		random := rand.New(rand.NewPCG(5, 6))
		fill := func(name string, n int) {
			content := make([]byte, n)
			for i := range content {
				content[i] = byte(random.Uint32())
			}
			w.write(name, string(content))
		}
		fill("stays", 50_000)
		fill("temporary", 1_500_000) // more than a pack: the first is full, and has no manifest
		c := w.config(`  web: {schedule: "0 */2 * * *", time_zone: UTC, sources: [{path: $SOURCE}], keep: {last: 2}}
`)
		c.Prune = &configs.Prune{Schedule: "@daily", TimeZone: "UTC", Announce: configs.Duration(48 * time.Hour), MaxRepack: 1 << 30}
		c.Identity = "/etc/knowngood/identity"
		d := w.daemon(c)
		d.Unlocked = func(ctx context.Context, c *configs.Config, findings *authentic.Findings) (*repository.Repository, error) {
			r, err := repository.Open(ctx, w.faulty, repository.Options{Options: trust.Options{StateDir: w.State, URL: "test", Now: time.Now(), Fresh: time.Hour, Report: findings.Add}})
			if err == nil {
				r.Unlock(w.ID)
			}
			return r, err
		}
		stop := w.run(d)
		time.Sleep(3 * time.Hour)
		w.write("temporary", "nothing much")
		bytes := func() (n int64) {
			for o, err := range w.faulty.List(w.Ctx, storage.ListOptions{Prefix: layout.PrefixHosts}) {
				w.Check(err)
				if _, _, _, ok := layout.ParsePackKey(o.Key); ok {
					n += o.Size
				}
			}
			return n
		}
		if n := bytes(); n < 1_500_000 {
			t.Fatalf("only %d bytes are stored", n)
		}
		time.Sleep(9 * 24 * time.Hour)
		if n := bytes(); n > 200_000 {
			t.Errorf("%d bytes of packs are left", n)
		}
		r := d.Report()
		stop()
		if r.Prune.Failures > 0 || r.Prune.Totals[report.Success] < 8 {
			t.Errorf("the prune job: %+v", r.Prune)
		}
		for _, e := range w.logs.FilterMessage("pruned").All() {
			if spared := e.ContextMap()["spared_bytes"]; spared != uint64(0) {
				t.Errorf("%v bytes were rewritten in vain", spared)
			}
		}
		w.Clean()
		w.Restores("web", w.source, treetest.Snapshot(t, w.source))
	})
}

func aPruneDuringWhichSomethingIsAlwaysForgottenGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config("  web: {sources: [{path: $SOURCE}]}\n")
		c.Prune = &configs.Prune{Schedule: "@daily", TimeZone: "UTC", Announce: configs.Duration(48 * time.Hour)}
		d := w.daemon(c)
		stop := w.run(d)
		defer stop()
		time.Sleep(time.Minute)
		for n := range 3 {
			w.write("file", fmt.Sprint(n))
			w.Check(d.Start(t.Context(), "web"))
			time.Sleep(time.Hour)
		}
		change := func(x history.Change) {
			x.Now = time.Now()
			_, err := w.Open(w.State).Forget(t.Context(), enginetest.Host, "web", x)
			w.Check(err)
		}
		change(history.Change{Forget: statement.NumbersOf(1)})
		pruned := func(until func(*report.Run) bool) {
			t.Helper()
			for range 20 * 24 {
				if r := d.Report().Prune; r.Running == nil && r.Last != nil && until(r.Last) {
					return
				}
				time.Sleep(time.Hour)
			}
			t.Fatalf("20 days later: %+v", d.Report().Prune.Last)
		}
		stored := w.stored()
		time.Sleep(3 * 24 * time.Hour) // it is announced, and not due
		// A file in the place of the directory of remembered lists: each prune reads them.
		lists := w.Open(w.State).State.Dir().In("lists").String()
		w.Check(os.RemoveAll(lists))
		w.Check(os.WriteFile(lists, nil, 0o600))
		var changing sync.Mutex // taking back reads manifests, too
		forgotten := false
		w.faulty.Add(storagetest.Rule{Op: storagetest.Get, Prefix: "hosts/h/packs/", Fault: storagetest.Meanwhile(func() {
			if !changing.TryLock() {
				return
			}
			defer changing.Unlock()
			if forgotten = !forgotten; forgotten {
				change(history.Change{Forget: statement.NumbersOf(2)})
			} else {
				change(history.Change{Undo: statement.NumbersOf(2)})
			}
		})})
		pruned(func(r *report.Run) bool { return r.Result == report.Failed })
		if r := d.Report().Prune.Last; r.Attempts != 3 || !strings.Contains(r.Error, "given up after 3 attempts") || !strings.Contains(r.Error, "environment web: snapshots were forgotten or taken back meanwhile") {
			t.Errorf("%d attempts, %s", r.Attempts, r.Error)
		}
		if now := w.stored(); now != stored {
			t.Errorf("%d of %d packs are left", now, stored)
		}

		w.faulty.Clear()
		pruned(func(r *report.Run) bool { return r.FreedBytes > 0 })
		if r := d.Report().Prune.Last; r.Result != report.Success {
			t.Errorf("the next one: %+v", r)
		}
	})
}
