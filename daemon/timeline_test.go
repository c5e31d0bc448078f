package daemon

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/daemon/report"
	"knowngood/storage/storagetest"
)

func TestTimeline(t *testing.T) {
	t.Run("needs an identity", func(t *testing.T) {
		w := newChecked(t, storagetest.NewMemory(), "{}", false)
		got := w.daemon().Timeline("none")
		if got.Missing != "" || len(got.Steps) > 0 {
			t.Errorf("of no environment there is %+v", got)
		}
		synctest.Test(t, func(t *testing.T) {
			w := newChecked(t, storagetest.NewMemory(), "{}", false)
			d := w.daemon()
			defer w.run(d)()
			synctest.Wait()
			if got := d.Timeline("web"); len(got.Steps) > 0 || !strings.Contains(got.Missing, "has no identity") || !strings.Contains(got.Missing, "knowngood timeline "+w.config.Host+"/web") {
				t.Errorf("without an identity there is %+v", got)
			}
		})
	})

	t.Run("is read once for each snapshot", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newChecked(t, storagetest.NewMemory(), "{}", true)
			d := w.daemon()
			defer w.run(d)()
			time.Sleep(25 * time.Hour)
			w.write("new", "twelve bytes")
			time.Sleep(24 * time.Hour)

			read := func() []report.TimelineStep {
				t.Helper()
				if first := d.Timeline("web"); first.Missing != "the newest snapshots are being compared" {
					t.Errorf("at first there is %+v", first)
				}
				synctest.Wait()
				got := d.Timeline("web")
				if got.Missing != "" {
					t.Errorf("missing: %s", got.Missing)
				}
				return got.Steps
			}
			steps := read()
			if len(steps) < 2 {
				t.Fatalf("steps are %+v", steps)
			}
			last := steps[len(steps)-1]
			if steps[0].Before != "" || last.Before != steps[len(steps)-2].Snapshot || last.Added != 1 || last.Bytes != 12 || last.NewBytes != 12 || last.Removed != 0 || last.Time.IsZero() {
				t.Errorf("steps are %+v", steps)
			}

			asked := len(w.faulty.Log())
			d.Timeline("web")
			if synctest.Wait(); len(w.faulty.Log()) > asked {
				t.Errorf("the store is asked again: %v", w.faulty.Log()[asked:])
			}
			time.Sleep(24 * time.Hour)
			if again := read(); len(again) != len(steps)+1 {
				t.Errorf("after another snapshot steps are %+v", again)
			}
		})
	})
}
