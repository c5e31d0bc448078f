package daemon

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/daemon/report"
)

func TestReport(t *testing.T) {
	t.Run("has what is configured and what a listing proved", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			d := w.daemon(w.config("  web:\n    schedule: \"0 */6 * * *\"\n    time_zone: UTC\n    keep: {daily: 7}\n    sources:\n      - path: $SOURCE\n      - {command: [echo, secret], as: db/out}\n"))
			if r := d.Report(); r.Lock != nil {
				t.Errorf("the lock is known before the repository is: %+v", r.Lock)
			}
			began := time.Now()
			stop := w.run(d)
			time.Sleep(50 * time.Hour)
			r, e, now := d.Report(), w.environment(d, "web"), time.Now()
			stop()

			if want := []report.Source{{Path: w.source}, {Path: "db/out", Command: true}}; !reflect.DeepEqual(e.Sources, want) || e.Retention != "7 daily" {
				t.Errorf("sources %v, retention %q", e.Sources, e.Retention)
			}
			if r.Lock == nil || r.Lock.Mode != "none" {
				t.Errorf("the lock: %+v", r.Lock)
			}
			if level, text := r.Verdict(); level != report.Attention || !strings.Contains(text, "an attacker who takes over a host can destroy its history") {
				t.Errorf("on a store without versions: %v, %s", level, text)
			}
			if len(e.Runs) < 8 {
				t.Fatalf("%d runs", len(e.Runs))
			}
			// Each listing serves the runs of a day; none is said to be newer than it is.
			listings := map[time.Time]bool{}
			for _, run := range e.Runs {
				if run.Verified.Before(began) || run.Verified.After(run.Finished) || run.Finished.Sub(run.Verified) > 24*time.Hour {
					t.Errorf("the run that ended at %v was verified at %v", run.Finished, run.Verified)
				}
				listings[run.Verified] = true
			}
			if len(listings) < 2 || len(listings) > 4 {
				t.Errorf("%d listings in %v", len(listings), now.Sub(began))
			}
		})
	})
}
