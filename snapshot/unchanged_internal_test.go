package snapshot

import (
	"fmt"
	"testing"
	"time"

	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

func TestUnchanged(t *testing.T) {
	t.Run("settled", testSettled)
	t.Run("reread turns", rereadTurns)
}

func testSettled(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 28, 12, 0, 0, 500_000_000, time.UTC)
	now := began.Add(time.Hour)
	ago := func(d time.Duration) manifest.Time {
		at := began.Add(-d)
		return manifest.Time{Sec: at.Unix(), Nsec: uint32(at.Nanosecond())}
	}
	whole := func(d time.Duration) manifest.Time { at := ago(d); at.Nsec = 0; return at }
	for name, test := range map[string]struct {
		ctime, mtime manifest.Time
		kind         manifest.Type
		window       time.Duration
		want         bool
	}{
		"left alone for longer than the window":                           {ago(41 * time.Second), ago(41 * time.Second), manifest.File, 40 * time.Second, true},
		"changed within the window":                                       {ago(39 * time.Second), ago(time.Hour), manifest.File, 40 * time.Second, false},
		"changed while that run was under way":                            {ago(-time.Minute), ago(time.Hour), manifest.File, time.Nanosecond, false},
		"stamped by a clock that ticks":                                   {ago(40 * time.Millisecond), ago(time.Hour), manifest.File, time.Nanosecond, false},
		"older than a tick":                                               {ago(60 * time.Millisecond), ago(time.Hour), manifest.File, time.Nanosecond, true},
		"whole seconds, a second ago":                                     {whole(time.Second), whole(time.Second), manifest.File, time.Nanosecond, false},
		"whole seconds, three seconds ago":                                {whole(3 * time.Second), whole(3 * time.Second), manifest.File, time.Nanosecond, true},
		"a time of creation as ctime, changed within the window":          {ago(time.Hour), ago(39 * time.Second), manifest.File, 40 * time.Second, false},
		"a time of creation as ctime, whole seconds":                      {ago(time.Hour), whole(time.Second), manifest.File, time.Nanosecond, false},
		"a time of change that was set in the future":                     {ago(time.Hour), ago(-48 * time.Hour), manifest.File, 40 * time.Second, true},
		"a directory, which is not written through mappings":              {ago(time.Second), ago(time.Second), manifest.Dir, 40 * time.Second, true},
		"a directory that changed while the run was under way":            {ago(-time.Second), ago(-time.Second), manifest.Dir, 40 * time.Second, false},
		"a ctime in the future, as the clock was set back since it began": {ago(-48 * time.Hour), ago(time.Hour), manifest.File, 40 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &merger{capture: &capture{Options: Options{WritebackWindow: test.window}, started: now}}
			n := &walk.Node{}
			n.Stat.Type, n.Stat.Ctime, n.Stat.Mtime = test.kind, test.ctime, test.mtime
			if got := m.settled(n, began.UnixNano()); got != test.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func rereadTurns(t *testing.T) {
	t.Parallel()
	const period = 30 * 24 * time.Hour
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	turns := func(path string, every time.Duration, runs ...time.Time) (n int) {
		for i := 1; i < len(runs); i++ {
			m := &merger{capture: &capture{Options: Options{RereadEvery: every}, started: runs[i]}}
			if m.due(hash(path), runs[i-1].UnixNano()) {
				n++
			}
		}
		return n
	}
	var quarterHours []time.Time
	for at := begin; !at.After(begin.Add(period)); at = at.Add(15 * time.Minute) {
		quarterHours = append(quarterHours, at)
	}

	t.Run("come once in every period, and spread over its runs", func(t *testing.T) {
		const paths = 2000
		inRun := make([]int, len(quarterHours))
		for i := range paths {
			path := fmt.Sprintf("srv/web/%d/index.html", i)
			if n := turns(path, period, quarterHours...); n != 1 {
				t.Fatalf("%s has %d turns", path, n)
			}
			for r := 1; r < len(quarterHours); r++ {
				inRun[r] += turns(path, period, quarterHours[r-1:r+1]...)
			}
		}
		for r, n := range inRun {
			if n > 12 { // of 0.7
				t.Errorf("run %d has %d turns", r, n)
			}
		}
	})
	t.Run("are made up for after a longer time without runs", func(t *testing.T) {
		for _, path := range []string{"a", "b/c", ""} {
			if n := turns(path, period, begin, begin.Add(period)); n != 1 {
				t.Errorf("%q has %d turns", path, n)
			}
		}
	})
	t.Run("are the same for all names of an inode", func(t *testing.T) {
		due := 0
		for i := range 100 {
			m := &merger{capture: &capture{Options: Options{RereadEvery: period}, started: begin.Add(period / 2)}}
			group := &linkGroup{name: hash(fmt.Sprint("group", i))}
			var holds [2]bool
			for j, path := range []string{fmt.Sprint("a", i), fmt.Sprint("b", i)} {
				n := &walk.Node{Path: path}
				n.Stat.Type = manifest.Fifo
				holds[j] = m.stillHolds(n, group, &manifest.Entry{Path: path, Type: manifest.Fifo, Stat: &manifest.Stat{}}, begin.UnixNano())
			}
			if holds[0] != holds[1] {
				t.Fatalf("group %d has two turns", i)
			}
			if !holds[0] {
				due++
			}
		}
		if due == 0 || due == 100 {
			t.Errorf("%d of 100 have their turn in half a period", due)
		}
	})
	t.Run("do not come without a period", func(t *testing.T) {
		if n := turns("a", 0, quarterHours...); n != 0 {
			t.Errorf("%d turns", n)
		}
	})
	t.Run("do not come back when the clock does", func(t *testing.T) {
		if n := turns("a", period, begin.Add(period), begin); n != 0 {
			t.Errorf("%d turns", n)
		}
	})
}
