package notify

import (
	"slices"
	"strings"

	"knowngood/daemon/report"
)

// Drilled reports a run of a job that drills, of environments of this host or of
// others.
func (w *Watch) Drilled(name string, run report.Run, failures int) (messages []Message) {
	if run.Result == report.Interrupted || run.Result == report.Skipped {
		return nil
	}
	env := name
	if strings.Contains(name, "/") { // those of other hosts, which the text names
		env = ""
	}
	var failing, missing, late []string
	for i := range run.Drilled {
		d := &run.Drilled[i]
		switch {
		case !d.Ran():
			missing = append(missing, d.Text())
		case !d.Passed:
			failing = append(failing, d.Text())
		}
		if d.RTOMissed() {
			late = append(late, d.Text())
		}
	}
	if len(run.Drilled) == 0 {
		missing = append(missing, run.Error)
	}
	tell := func(m *map[string]*Condition, kind Kind, found []string, title, over string) {
		t := (*m)[name]
		switch {
		case len(found) > 0:
			t, due := w.in(m, name, run.Finished)
			if due {
				x := failed(w.message(kind, env, run.Finished, t, title, title+": "+sentence(strings.Join(found, "; "))), run, failures)
				messages = append(messages, x)
			}
		case t != nil && len(run.Drilled) > 0:
			delete(*m, name)
			messages = append(messages, failed(w.message(Recovery, env, run.Finished, t, over, over+". It was otherwise since "+clock(t.Since)+"."), run, 0))
		}
	}
	kind := DrillFailed
	if slices.ContainsFunc(run.Drilled, func(d report.Drilled) bool { return d.Damaged() }) {
		kind = Damage
	}
	tell(&w.State.DrillFailed, kind, failing, "the drill failed", "drills pass again")
	tell(&w.State.DrillNotRun, DrillNotRun, missing, "the drill could not run", "drills run again")
	tell(&w.State.RTO, RTO, late, "the RTO is missed", "restores are within the RTO again")
	return messages
}

// Drifted reports a run of a job that compares with the known-good state.
func (w *Watch) Drifted(name string, run report.Run, failures int) []Message {
	if run.Result == report.Interrupted || run.Result == report.Skipped {
		return nil
	}
	env := name
	if strings.Contains(name, "/") {
		env = ""
	}
	title := "could not be compared with the known-good state"
	var found []string
	for i := range run.Drifted {
		d := &run.Drifted[i]
		if d.ExitCode != 0 {
			found = append(found, d.Text())
		}
		if d.Paths > 0 {
			title = "not as the known-good state"
		}
	}
	if len(run.Drifted) == 0 {
		found = append(found, run.Error)
	}
	if len(found) > 0 {
		t, due := w.in(&w.State.Drift, name, run.Finished)
		if !due {
			return nil
		}
		return []Message{failed(w.message(Drift, env, run.Finished, t, title, title+": "+sentence(strings.Join(found, "; "))), run, failures)}
	}
	t := w.State.Drift[name]
	if t == nil {
		return nil
	}
	delete(w.State.Drift, name)
	const over = "as the known-good state again"
	return []Message{failed(w.message(Recovery, env, run.Finished, t, over, over+". It was otherwise since "+clock(t.Since)+"."), run, 0)}
}
