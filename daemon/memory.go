package daemon

import (
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
)

// keep makes v what a state file holds. What cannot be written now is written
// by a later tick; mu is held.
func (d *Daemon) keep(s *jobfiles.Slots, v any) { d.written(&s.Failed, s.Path(), s.Write(v)) }

// read warns of a state file that was not read as it should; mu is held.
func (d *Daemon) read(s *jobfiles.Slots, err error) {
	if errors.Is(err, jobfiles.ErrSpoiled) { // it is good again with the next state
		d.warn("what the daemon remembers: "+err.Error(), false)
		return
	}
	d.written(&s.Failed, s.Path(), err)
}

// ended takes in that a run of a job came to its end; mu is held.
func (d *Daemon) ended(j *job, run report.Run) {
	d.written(&j.history.Failed, j.history.Path(), j.ended(run))
	d.keep(j.slots, &j.state)
}

// written says that a file of what the daemon remembers could not be written, or
// can again: once for each change. failed is what was said of it last; mu is
// held.
func (d *Daemon) written(failed *string, file string, err error) {
	text := ""
	if err != nil {
		text = "what the daemon remembers: " + err.Error()
	}
	if text == *failed {
		return
	}
	if *failed != "" {
		d.unwarn(*failed)
	}
	if *failed = text; err != nil {
		d.warn(text, false)
	} else {
		d.Log.Info("what the daemon remembers is written again", zap.String("file", file))
	}
}

// keepAgain writes what could not be written, once a minute; mu is held.
func (d *Daemon) keepAgain(now time.Time) {
	if since := now.Sub(d.keptAgain); since >= 0 && since < checkEvery {
		return
	}
	d.keptAgain = now
	for _, j := range d.jobs {
		if j.slots.Failed != "" {
			d.keep(j.slots, &j.state)
		}
	}
	if d.watch.slots.Failed != "" {
		d.keepTold()
	}
}

// unwarn takes back the warnings that begin so; mu is held.
func (d *Daemon) unwarn(text string) {
	d.warnings = slices.DeleteFunc(d.warnings, func(w report.Warning) bool { return strings.HasPrefix(w.Text, text) })
}
