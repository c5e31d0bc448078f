package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"knowngood/daemon/report"
)

func TestStateFiles(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"state files that could not be made are made when they can be":    stateFilesThatCouldNotBeMadeAreMadeWhenTheyCanBe,
		"a state that could not be read is warned of and not overwritten": aStateThatCouldNotBeReadIsWarnedOfAndNotOverwritten,
	} {
		t.Run(name, test)
	}
}

func stateFilesThatCouldNotBeMadeAreMadeWhenTheyCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		dir := filepath.Join(w.State, "daemon")
		w.Check(os.MkdirAll(filepath.Join(dir, "told.state"), 0o700))
		w.Check(os.WriteFile(filepath.Join(dir, "jobs"), nil, 0o600))
		d := w.daemon(w.config("  web: {schedule: '@every 1h', sources: [{path: $SOURCE}]}\n"))
		stop := w.run(d)
		time.Sleep(90 * time.Minute)
		var files []string
		for _, warning := range d.Report().Warnings {
			for _, name := range []string{"env-web.state", "env-web.runs", "told.state"} {
				if strings.HasPrefix(warning.Text, "the daemon's state: ") && strings.Contains(warning.Text, name) {
					files = append(files, name)
				}
			}
		}
		slices.Sort(files)
		if want := []string{"env-web.runs", "env-web.state", "told.state"}; !slices.Equal(files, want) || len(d.Report().Warnings) != 3 {
			t.Errorf("warnings of %v, want %v: %+v", files, want, d.Report().Warnings)
		}
		said := w.logs.Filter(func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, "the daemon's state: ") })
		if said.Len() != 3 {
			t.Errorf("it is logged %d times, want once for each file", said.Len())
		}

		w.Check(os.Remove(filepath.Join(dir, "told.state")))
		w.Check(os.Remove(filepath.Join(dir, "jobs")))
		time.Sleep(2 * checkEvery)
		j, spoiled, _ := openJob(w.State, "web")
		j.slots.Close()
		if spoiled != nil || j.state.Totals[report.Success] != 1 || j.state.Last == nil {
			t.Errorf("the state is %+v, %v", j.state, spoiled)
		}
		if _, err := os.Stat(filepath.Join(dir, "told.state")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // past runs are written with the next one
		if list := d.Report().Warnings; len(list) > 0 {
			t.Errorf("they can be written, and the warnings are %+v", list)
		}
		if n := w.logs.FilterMessage("the daemon's state is written again").Len(); n != 3 {
			t.Errorf("that they can be written is logged %d times", n)
		}
		stop()
	})
}

// moveAway puts a folder where a file is, so that it cannot be opened; back undoes
// it.
func (w *world) moveAway(path string) (back func()) {
	w.t.Helper()
	w.Check(os.Rename(path, path+".away"))
	w.Check(os.Mkdir(path, 0o700))
	return func() {
		w.t.Helper()
		w.Check(os.Remove(path))
		w.Check(os.Rename(path+".away", path))
	}
}

// As when files could not be opened for a moment.
func aStateThatCouldNotBeReadIsWarnedOfAndNotOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.config("  web: {schedule: '@every 1h', sources: [{path: $SOURCE}]}\n")
		stop := w.run(w.daemon(c))
		time.Sleep(90 * time.Minute)
		stop()
		dir := filepath.Join(w.State, "daemon")
		files := []string{filepath.Join(dir, "told.state"), filepath.Join(dir, "jobs", "env-web.state")}
		var back []func()
		for _, file := range files {
			back = append(back, w.moveAway(file))
		}
		d := w.daemon(c)
		stop = w.run(d)
		time.Sleep(checkEvery + time.Second) // it reads them again at full minutes
		check := func(when, what string) {
			t.Helper()
			for _, file := range files {
				if !slices.ContainsFunc(d.Report().Warnings, func(w report.Warning) bool { return strings.Contains(w.Text, file) && strings.Contains(w.Text, what) }) {
					t.Errorf("%s no warning is of %s: %+v", when, file, d.Report().Warnings)
				}
			}
		}
		check("while they cannot be read", "is a directory")
		for _, b := range back {
			b()
		}
		time.Sleep(90 * time.Minute)
		check("when they can be read", "restart the daemon")
		stop()
		d = w.daemon(c)
		stop = w.run(d)
		time.Sleep(time.Second)
		if e, list := w.environment(d, "web"), d.Report().Warnings; e.Totals[report.Success] == 0 || len(list) > 0 {
			t.Errorf("after a restart the runs are %v, the warnings %+v", e.Totals, list)
		}
		stop()
	})
}
