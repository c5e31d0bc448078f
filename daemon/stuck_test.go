package daemon

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/internal/enginetest"
	"knowngood/storage/layout"
	"knowngood/storage/storagetest"
)

// hanging is a store that never answers.
func hanging() storagetest.Fault { return storagetest.Delayed(10_000 * time.Hour) }

func TestStuckRuns(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"a prune that hangs is ended and gives its place back": aPruneThatHangsIsEndedAndGivesItsPlaceBack,
		"a snapshot is committed though its retention hangs":   aSnapshotIsCommittedThoughItsRetentionHangs,
	} {
		t.Run(name, test)
	}
}

func aPruneThatHangsIsEndedAndGivesItsPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config("  web: {sources: [{path: $SOURCE}]}\n")
		c.MaxRuns = 1
		c.Prune = &configs.Prune{Schedule: "@every 100h"}
		d := w.daemon(c)
		stop := w.run(d)
		time.Sleep(time.Minute)
		w.faulty.Add(storagetest.Rule{Fault: hanging()})
		for d.Report().Prune.Running == nil {
			time.Sleep(time.Minute)
		}
		time.Sleep(stuckPrune - 2*time.Minute)
		if r := d.Report().Prune; r.Running == nil || r.Running.Phase != "prune" {
			t.Errorf("before its time is out: %+v", r)
		}
		time.Sleep(time.Hour)
		if r := d.Report().Prune; r.Running != nil || r.Last == nil || !strings.Contains(r.Last.Error, "did nothing for 24h0m0s, and was ended") {
			t.Errorf("%+v, %+v", r.Running, r.Last)
		}
		w.faulty.Clear()
		w.Check(d.Start(t.Context(), "web"))
		time.Sleep(time.Minute)
		if e := w.environment(d, "web"); e.Last == nil || e.Last.Result != report.Success {
			t.Errorf("after it: %+v", e.Last)
		}
		stop()
	})
}

func aSnapshotIsCommittedThoughItsRetentionHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.daemon(w.config("  web: {sources: [{path: $SOURCE}], keep: {last: 1}}\n"))
		stop := w.run(d)
		time.Sleep(time.Minute)
		w.faulty.Add(storagetest.Rule{Op: storagetest.Put, Prefix: layout.PrefixTombstones(enginetest.Host, "web"), Fault: hanging()})
		w.Check(d.Start(t.Context(), "web"))
		time.Sleep(time.Minute)
		w.Check(d.Start(t.Context(), "web")) // after which the one before is forgotten
		time.Sleep(runner.Stuck - time.Hour)
		if e := w.environment(d, "web"); e.Running == nil || e.Running.Phase != "retention" {
			t.Fatalf("before its time is out: %+v, %+v", e.Running, e.Last)
		}
		time.Sleep(2 * time.Hour)
		if e := w.environment(d, "web"); e.Running != nil || e.Last == nil || e.Last.Result != report.Success || e.Last.Snapshot != "web@2" {
			t.Errorf("%+v, %+v", e.Running, e.Last)
		}
		stop()
	})
}
