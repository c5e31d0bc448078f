package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/command"
)

func TestDrills(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"a drill gives way to a capture where there is no room for both": aDrillGivesWayWhereThereIsNoRoom,
		"one drill runs at a time":                                       oneDrillRunsAtATime,
		"what a drill came to is reported":                               whatADrillCameToIsReported,
		"a drill host needs no enrolment":                                aDrillHostNeedsNoEnrolment,
		"without an identity nothing is drilled":                         withoutAnIdentityNothingIsDrilled,
	} {
		t.Run(name, test)
	}
}

const passed = `{"type":"result","drills":[{"environment":"host/web","snapshot":"host/web@1","passed":true,"level":"probed","rto_seconds":1,"exit_code":0}],"never_proven":[]}`

// drill is the report on a job that drills.
func (w *world) drill(d *Daemon, name string) report.Drill {
	w.t.Helper()
	for _, x := range d.Report().Drills {
		if x.Name == name {
			return x
		}
	}
	w.t.Fatalf("the report has no drill %s", name)
	return report.Drill{}
}

func aDrillGivesWayWhereThereIsNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config(`  web: {schedule: "0,30 * * * *", time_zone: UTC, sources: [{path: $SOURCE}], drill: {schedule: "10 * * * *"}}
`)
		c.Identity = "/identity"
		d := w.daemon(c)
		var room atomic.Bool
		room.Store(true)
		d.jobs.o.Room = func(string) bool { return room.Load() }
		var begun, stopped atomic.Int32
		d.Drill = func(ctx context.Context, job string, sweep bool) ([]byte, error) {
			begun.Add(1)
			select {
			case <-time.After(25 * time.Minute):
				return []byte(passed), nil
			case <-ctx.Done():
				stopped.Add(1)
				return nil, context.Cause(ctx)
			}
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour + 5*time.Minute)))
		stop := w.run(d)
		defer stop()
		time.Sleep(40 * time.Minute) // a capture at :30, a drill from :10 to :35
		if x := w.drill(d, "web"); stopped.Load() != 0 || x.Last == nil || x.Last.Result != report.Success {
			t.Fatalf("beside a capture, with room: %+v", x.Last)
		}
		room.Store(false)
		time.Sleep(50 * time.Minute) // to :35: begun at :10, ended at :30, begun again after the capture
		x := w.drill(d, "web")
		if begun.Load() != 3 || stopped.Load() != 1 || x.Last.Result != report.Interrupted || !strings.Contains(x.Last.Error, "gave way") || x.Running == nil || x.Failures != 0 {
			t.Errorf("beside a capture, without room: begun %d times, stopped %d times: %+v", begun.Load(), stopped.Load(), x.Last)
		}
		if e := w.environment(d, "web"); e.Last.Result != report.Success || e.Last.Started.Minute() != 30 {
			t.Errorf("the capture: %+v", e.Last)
		}
		time.Sleep(21 * time.Minute) // to :56
		if x := w.drill(d, "web"); x.Last.Result != report.Success || x.Last.Started.Minute() < 30 {
			t.Errorf("after the capture: %+v", x.Last)
		}
	})
}

func oneDrillRunsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		text := ""
		for _, name := range []string{"a", "b", "c"} {
			text += "  " + name + ": {sources: [{path: $SOURCE}], drill: {schedule: \"0 * * * *\"}}\n"
		}
		c := w.config(text)
		c.Identity = "/identity"
		d := w.daemon(c)
		var under, most atomic.Int32
		counts := map[string]*atomic.Int32{"a": {}, "b": {}, "c": {}}
		d.Drill = func(ctx context.Context, job string, sweep bool) ([]byte, error) {
			defer under.Add(-1)
			if n := under.Add(1); n > most.Load() {
				most.Store(n)
			}
			counts[job].Add(1)
			time.Sleep(25 * time.Minute) // more than an hour has room for
			return []byte(passed), nil
		}
		stop := w.run(d)
		time.Sleep(24*time.Hour + 15*time.Minute)
		stop()
		if most.Load() != 1 {
			t.Errorf("%d drills at a time", most.Load())
		}
		for name, n := range counts {
			if n.Load() < 17 || n.Load() > 21 {
				t.Errorf("%s was drilled %d times", name, n.Load())
			}
		}
	})
}

func whatADrillCameToIsReported(t *testing.T) {
	const row = `{"environment":"web-7/web","snapshot":"web-7/web@42","passed":%v,"level":"probed","rto_seconds":%d,"rto_promised_seconds":60,"error":%q,"exit_code":%d}`
	result := func(rows ...string) string {
		return `{"type":"result","drills":[` + strings.Join(rows, ",") + `],"never_proven":["db-1/db: no drill of it has passed at level probed"]}`
	}
	for name, test := range map[string]struct {
		out     string
		err     error
		result  report.Result
		died    bool
		warning string
		level   report.Level
	}{
		"passed":           {out: result(fmt.Sprintf(row, true, 41, "", 0)), result: report.Success, warning: "1 environment is never proven: db-1/db: no drill of it has passed", level: report.Attention},
		"a probe failed":   {out: result(fmt.Sprintf(row, false, 41, "page: it is empty", 14)), err: errors.New("exit status 14"), result: report.Failed, warning: "drill: web-7/web@42 failed its drill: page: it is empty", level: report.Attention},
		"an RTO is missed": {out: result(fmt.Sprintf(row, true, 90, "", 3)), err: errors.New("exit status 3"), result: report.Partial, warning: "RTO 1 min 30 s, which misses the promised 1 min", level: report.Attention},
		"damage":           {out: result(fmt.Sprintf(row, true, 41, "", 0), fmt.Sprintf(row, false, 41, "pack a is gone", 13)), err: errors.New("exit status 13"), result: report.Failed, warning: "drill: web-7/web@42 cannot be restored as it was captured: pack a is gone", level: report.Broken},
		"it could not run": {out: `{"type":"error","error":"no space left","exit_code":1}`, err: errors.New("exit status 1"), result: report.Failed, warning: "the drill of web failed: the drill could not run: no space left", level: report.Attention},
		"it died":          {err: &command.Error{Argv0: "drill", ExitCode: -1, Signal: syscall.SIGKILL}, result: report.Failed, died: true, warning: "the drill of web died: the drill ended before it had a result: drill: ended by a signal: killed", level: report.Attention},
		"it printed junk":  {out: "junk\x00", result: report.Failed, warning: "ended without a result", level: report.Attention},
		"it printed null":  {out: "null", result: report.Failed, warning: "ended without a result", level: report.Attention},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c := w.config("  web: {sources: [{path: $SOURCE}], drill: {schedule: \"0 * * * *\"}}\n")
				c.Identity = "/identity"
				d := w.daemon(c)
				d.Drill = func(context.Context, string, bool) ([]byte, error) { return []byte(test.out), test.err }
				stop := w.run(d)
				defer stop()
				time.Sleep(time.Minute)
				if x := w.drill(d, "web"); x.Last != nil || x.Overdue {
					t.Errorf("before the first one: %+v", x)
				}
				time.Sleep(65 * time.Minute)
				x := w.drill(d, "web")
				if x.Last == nil || x.Last.Result != test.result || x.Last.Died != test.died {
					t.Fatalf("the run: %+v", x.Last)
				}
				r := d.Report()
				all := fmt.Sprint(r.Warnings)
				if !strings.Contains(all, test.warning) {
					t.Errorf("the warnings: %s", all)
				}
				// The environment has no snapshot, which needs attention, too.
				if level, text := r.Verdict(); level != test.level {
					t.Errorf("the verdict is %v: %s", level, text)
				}
				time.Sleep(28 * time.Hour)
				if x := w.drill(d, "web"); x.Overdue != (len(x.Last.Drilled) == 0) {
					t.Errorf("overdue is %v after %+v", x.Overdue, x.Last)
				}
			})
		})
	}
}

func aDrillHostNeedsNoEnrolment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config("")
		c.StateDir, c.Identity, c.Check = t.TempDir(), "/identity", &configs.Check{Schedule: "0 1 * * *", TimeZone: "UTC", ReadData: "auto"}
		w.State = c.StateDir // of a machine that is no host
		c.Drills = []configs.DrillEntry{{Host: "web-*", Environment: "*", TimeZone: "UTC", CatchUp: configs.Duration(time.Hour), Drill: configs.Drill{Schedule: "0 * * * *"}}}
		d := w.daemon(c)
		d.Drill = func(_ context.Context, job string, _ bool) ([]byte, error) {
			if job != "web-*/*" {
				t.Errorf("the job is %q", job)
			}
			return []byte(passed), nil
		}
		stop := w.run(d)
		defer stop()
		time.Sleep(26 * time.Hour)
		r := d.Report()
		if level, text := r.Verdict(); !strings.HasPrefix(text, "1 drill is configured, and none failed") {
			t.Errorf("%v: %s", level, text)
		}
		if x := w.drill(d, "web-*/*"); x.Totals[report.Success] < 25 {
			t.Errorf("the totals: %v", x.Totals)
		}
	})
}

func withoutAnIdentityNothingIsDrilled(t *testing.T) {
	w := newWorld(t)
	c := w.config("  web: {sources: [{path: $SOURCE}], drill: {schedule: \"0 * * * *\"}}\n")
	if len(c.Findings) != 1 || !strings.Contains(fmt.Sprint(c.Findings), "this host has no identity") {
		t.Errorf("the findings: %v", c.Findings)
	}
	d := w.daemon(c)
	stop := w.run(d)
	defer stop()
	if r := d.Report(); len(r.Drills) != 0 {
		t.Errorf("the drills: %+v", r.Drills)
	}
}
