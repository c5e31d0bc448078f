package notify

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/daemon/report"
)

// Watch decides which messages are sent, and when: the beginning of a condition once,
// a condition that continues again after Repeat, and its end if its beginning was
// sent. It sends nothing itself, reads no clock, and is not safe for concurrent use.
type Watch struct {
	Host   string
	Repeat time.Duration // 0: never again
	State  State         // to be kept over a restart
}

// State is what Watch remembers.
type State struct {
	Failing  map[string]*Condition `json:"failing,omitempty"` // by environment
	Lacking  map[string]*Condition `json:"lacking,omitempty"` // what could not be read
	Suspect  map[string]*Condition `json:"suspect,omitempty"` // sources that collapsed
	Late     map[string]*Condition `json:"late,omitempty"`    // RPO broken
	Unproven map[string]*Condition `json:"unproven,omitempty"`
	Trial    map[string]*Condition `json:"trial,omitempty"` // overdue
	// Instances are lacking, or nobody knows.
	Instances map[string]*Condition `json:"instances,omitempty"`
	Prune     *Condition            `json:"prune,omitempty"`
	Degraded  *Condition            `json:"degraded,omitempty"`
	Check     *Condition            `json:"check,omitempty"`   // it fails
	Overdue   *Condition            `json:"overdue,omitempty"` // the check
	Damaged   *Condition            `json:"damaged,omitempty"` // by what the check found
	Damage    map[string]*Condition `json:"damage,omitempty"`  // by the hash of its text

	// Of drills, by the name of the job.
	DrillFailed map[string]*Condition `json:"drill_failed,omitempty"`
	DrillNotRun map[string]*Condition `json:"drill_not_run,omitempty"`
	RTO         map[string]*Condition `json:"rto,omitempty"`

	Drift map[string]*Condition `json:"drift,omitempty"` // by the name of the job
}

// Size is the number of conditions.
func (s *State) Size() int {
	n := len(s.Failing) + len(s.Lacking) + len(s.Suspect) + len(s.Late) + len(s.Unproven) + len(s.Trial) + len(s.Instances) + len(s.Damage) + len(s.DrillFailed) + len(s.DrillNotRun) + len(s.RTO) + len(s.Drift)
	for _, t := range []*Condition{s.Prune, s.Degraded, s.Check, s.Overdue, s.Damaged} {
		if t != nil {
			n++
		}
	}
	return n
}

// Condition is something that a person should know while it lasts.
type Condition struct {
	Since time.Time `json:"since"`
	Last  time.Time `json:"last"` // time that a message was sent
	Seen  time.Time `json:"seen"`
	Times int       `json:"times"` // that one was sent
}

// maxDamage is how many texts of damage are remembered.
const maxDamage = 200

// begin records that a condition holds at a time, and reports whether a message is
// due.
func (w *Watch) begin(t **Condition, now time.Time) bool {
	*t = cmp.Or(*t, &Condition{Since: now})
	c := *t
	c.Seen = now
	if c.Last.After(now) { // the clock was set back
		c.Last = now
	}
	if c.Times > 0 && (w.Repeat <= 0 || now.Sub(c.Last) < w.Repeat) {
		return false
	}
	c.Last = now
	c.Times++
	return true
}

// in is begin on an entry of a map.
func (w *Watch) in(m *map[string]*Condition, key string, now time.Time) (*Condition, bool) {
	if *m == nil {
		*m = map[string]*Condition{}
	}
	t := (*m)[key]
	due := w.begin(&t, now)
	(*m)[key] = t
	return t, due
}

func (w *Watch) message(kind Kind, env string, now time.Time, t *Condition, title, text string) Message {
	subject := w.Host
	if env != "" {
		subject += "/" + env
	}
	m := Message{Kind: kind, Host: w.Host, Environment: env, Time: now, Title: subject + ": " + title, Text: subject + ": " + text, Since: t.Since}
	if kind != Recovery && kind != RPOMet {
		m.Repeated = t.Times - 1
	}
	return m
}

// Ran reports a run of an environment that ended, failures in a row included.
// A skipped run is not reported.
func (w *Watch) Ran(env string, run report.Run, failures int) []Message {
	now := run.Finished
	switch {
	case run.Result == report.Failed:
		t, due := w.in(&w.State.Failing, env, now)
		if !due {
			return nil
		}
		text := "the snapshot failed: " + sentence(run.Error)
		if failures > 1 {
			text += fmt.Sprintf(" It is failure %d in a row, since %s.", failures, clock(t.Since))
		}
		return []Message{failed(w.message(Failure, env, now, t, "snapshot failed", text), run, failures)}
	case !run.Result.Good() && run.Result != report.Suspect:
		return nil
	}

	var messages []Message
	if t := w.State.Failing[env]; t != nil {
		delete(w.State.Failing, env)
		text := fmt.Sprintf("snapshots succeed again: %s was taken. They had failed since %s.", run.Snapshot, clock(t.Since))
		messages = append(messages, failed(w.message(Recovery, env, now, t, "snapshots succeed again", text), run, 0))
	}
	if run.Result == report.Suspect {
		return append(messages, w.suspect(env, run)...)
	}
	if t := w.State.Suspect[env]; t != nil {
		delete(w.State.Suspect, env)
		text := fmt.Sprintf("snapshots are good again: %s is not suspect. They had been suspect since %s.", run.Snapshot, clock(t.Since))
		messages = append(messages, failed(w.message(Recovery, env, now, t, "snapshots are good again", text), run, 0))
	}
	if run.Result != report.Partial {
		delete(w.State.Lacking, env)
		return messages
	}
	if t, due := w.in(&w.State.Lacking, env, now); due {
		text := fmt.Sprintf("%s lacks what could not be read: %d %s, which `knowngood show %s` names.", run.Snapshot, run.Problems, english.PluralWord(int(run.Problems), "file or directory", "files or directories"), run.Snapshot)
		messages = append(messages, failed(w.message(Incomplete, env, now, t, "snapshot incomplete", text), run, 0))
	}
	return messages
}

// suspect reports a snapshot of which a source collapsed.
func (w *Watch) suspect(env string, run report.Run) []Message {
	t, due := w.in(&w.State.Suspect, env, run.Finished)
	if !due {
		return nil
	}
	text := fmt.Sprintf("%s is suspect: %s. It does not count for the RPO, and nothing of %s is forgotten, until the source is back. Where it is meant to be so, run `knowngood accept %s`.",
		run.Snapshot, strings.Join(run.Suspect, "; "), env, run.Snapshot)
	return []Message{failed(w.message(Suspect, env, run.Finished, t, "snapshot suspect", text), run, 0)}
}

// Pruned reports a run of the prune job.
func (w *Watch) Pruned(run report.Run, failures int) []Message {
	now := run.Finished
	switch {
	case run.Result == report.Failed:
		if !w.begin(&w.State.Prune, now) {
			return nil
		}
		return []Message{failed(w.message(Failure, "", now, w.State.Prune, "prune failed", "pruning failed, so nothing is freed: "+sentence(run.Error)), run, failures)}
	case run.Result.Good() && w.State.Prune != nil:
		t := w.State.Prune
		w.State.Prune = nil
		return []Message{failed(w.message(Recovery, "", now, t, "prune succeeds again", fmt.Sprintf("pruning succeeds again. It had failed since %s.", clock(t.Since))), run, 0)}
	}
	return nil
}

// Verified reports the state of the check of what is stored.
func (w *Watch) Verified(now time.Time, c *report.Check) (messages []Message) {
	add := func(t **Condition, goes bool, kind Kind, title, text, over string) {
		switch {
		case goes && w.begin(t, now):
			m := w.message(kind, "", now, *t, title, sentence(text))
			m.Run, m.Failures, m.Tampering = c.Last, c.Failures, kind == Damage && c.Tampered
			messages = append(messages, m)
		case !goes && *t != nil:
			if !c.Began.IsZero() { // else another repository is configured
				messages = append(messages, w.message(Recovery, "", now, *t, over, over+". It was otherwise since "+clock((*t).Since)+"."))
			}
			*t = nil
		}
	}
	failing, reason := c.Failures > 0 && c.Last != nil && c.Last.Damaged == 0, ""
	if failing {
		reason = c.Last.Error
	}
	found, late := "", ""
	for _, x := range c.Warnings(now) {
		if found == "" && c.Damaged > 0 {
			found = x.Text
		} else {
			late = x.Text
		}
	}
	add(&w.State.Damaged, c.Damaged > 0, Damage, "the check found damage", found, "the check finds no damage any more")
	add(&w.State.Overdue, c.Overdue, Degraded, "the check is overdue", late, "what is stored is checked in time again")
	add(&w.State.Check, failing, Failure, "the check failed", "what is stored could not be checked: "+reason, "checks succeed again")
	return messages
}

func failed(m Message, run report.Run, failures int) Message {
	m.Run, m.Failures = &run, failures
	return m
}

// Tried reports a trial that should have gone back.
func (w *Watch) Tried(now time.Time, e *report.Environment) []Message {
	if text := e.TrialOverdue(now); text != "" {
		t, due := w.in(&w.State.Trial, e.Name, now)
		if !due {
			return nil
		}
		return []Message{w.message(Degraded, e.Name, now, t, "a trial is overdue", sentence("it "+text))}
	}
	t := w.State.Trial[e.Name]
	if t == nil {
		return nil
	}
	delete(w.State.Trial, e.Name)
	return []Message{w.message(Recovery, e.Name, now, t, "its trial is over", "its trial is over, which was overdue since "+clock(t.Since)+".")}
}

// lackingAfter is how long instances lack before that is reported: until then the next scale
// may have replaced them, or asked them after a boot.
const lackingAfter = 5 * time.Minute

// Counted reports instances that are lacking for a while.
func (w *Watch) Counted(now time.Time, e *report.Environment) []Message {
	i, t := e.Instances, w.State.Instances[e.Name]
	switch {
	case i.Lacking() && t == nil:
		if w.State.Instances == nil {
			w.State.Instances = map[string]*Condition{}
		}
		w.State.Instances[e.Name] = &Condition{Since: now}
		return nil
	case i.Lacking():
		if now.Sub(t.Since).Abs() < lackingAfter || !w.begin(&t, now) {
			return nil
		}
		return []Message{w.message(Degraded, e.Name, now, t, "instances are lacking", sentence(e.Lack(now)))}
	case t == nil:
		return nil
	}
	delete(w.State.Instances, e.Name)
	if t.Times == 0 {
		return nil
	}
	text := "no instances are wanted any more"
	if i != nil {
		text = i.Text(now)
	}
	return []Message{w.message(Recovery, e.Name, now, t, "no instance is lacking any more", fmt.Sprintf("%s. Some were lacking since %s.", text, clock(t.Since)))}
}

// Checked reports the age of an environment's newest snapshot.
func (w *Watch) Checked(now time.Time, e *report.Environment) []Message {
	newest := "there is no good snapshot"
	if !e.Newest.IsZero() {
		newest = fmt.Sprintf("the newest good snapshot is %s old", report.Span(now.Sub(e.Newest)))
	}
	promised := report.Span(e.RPO())
	if e.Broken() {
		t, due := w.in(&w.State.Late, e.Name, now)
		if !due {
			return nil
		}
		text := fmt.Sprintf("%s, and at most %s was promised (rpo).", newest, promised)
		if e.Last != nil && e.Last.Result == report.Failed {
			text += fmt.Sprintf(" The last run failed: %s", sentence(e.Last.Error))
		}
		return []Message{aged(w.message(RPO, e.Name, now, t, "RPO broken", text), e)}
	}
	t := w.State.Late[e.Name]
	if t == nil {
		return nil
	}
	delete(w.State.Late, e.Name)
	if e.RPOSeconds == 0 { // nothing is promised any more
		return nil
	}
	text := fmt.Sprintf("%s again, within the promised %s (rpo). It had been broken since %s.", newest, promised, clock(t.Since))
	return []Message{aged(w.message(RPOMet, e.Name, now, t, "RPO met again", text), e)}
}

// unprovenAfter is how long an environment may be without a proof where the
// configuration does not limit it.
const unprovenAfter = 30 * 24 * time.Hour

// Proven reports that an environment, which was configured at a time, has no proof that
// counts, or an old one.
func (w *Watch) Proven(now time.Time, e *report.Environment, since time.Time) []Message {
	p := e.Proof
	if p == nil || p.Error != "" {
		return nil // it is not known
	}
	limit := cmp.Or(time.Duration(p.LimitSeconds*float64(time.Second)), unprovenAfter)
	switch t := w.State.Unproven[e.Name]; {
	case p.Lacks() == "" && t == nil:
		return nil
	case p.Lacks() == "":
		delete(w.State.Unproven, e.Name)
		if !p.Wanted {
			return nil
		}
		return []Message{w.message(Recovery, e.Name, now, t, "proven again", sentence(p.String()))}
	case t == nil && p.Snapshot == "" && now.Sub(since) < limit:
		return nil // there was no time yet for a drill
	}
	t, due := w.in(&w.State.Unproven, e.Name, now)
	if !due {
		return nil
	}
	return []Message{w.message(Unproven, e.Name, now, t, "not proven", sentence("it "+p.Lacks())+" Without a drill that passes nobody knows whether it can be restored.")}
}

func aged(m Message, e *report.Environment) Message {
	m.AgeSeconds, m.RPOSeconds = e.AgeSeconds, e.RPOSeconds
	return m
}

// Found reports damage, tampering or whatever else needs a person: each text by
// itself, and again after Repeat if it is still found.
func (w *Watch) Found(warning report.Warning) []Message {
	now := warning.Time
	hash := sha256.Sum256([]byte(warning.Text))
	t, due := w.in(&w.State.Damage, hex.EncodeToString(hash[:8]), now)
	w.forgetDamage()
	if !due {
		return nil
	}
	title := "needs attention"
	if warning.Tampering {
		title = "the repository was damaged or tampered with"
	}
	m := w.message(Damage, "", now, t, title, title+": "+sentence(warning.Text))
	m.Tampering = warning.Tampering
	return []Message{m}
}

// forgetDamage drops what was not seen for longest when there is too much.
func (w *Watch) forgetDamage() {
	for len(w.State.Damage) > maxDamage {
		oldest := ""
		for key, t := range w.State.Damage {
			if o := w.State.Damage[oldest]; o == nil || t.Seen.Before(o.Seen) {
				oldest = key
			}
		}
		delete(w.State.Damage, oldest)
	}
}

// Degraded reports why the daemon as a whole cannot do its work; an empty reason
// means that it can.
func (w *Watch) Degraded(now time.Time, reason string) []Message {
	if reason != "" {
		if !w.begin(&w.State.Degraded, now) {
			return nil
		}
		return []Message{w.message(Degraded, "", now, w.State.Degraded, "the daemon cannot do its work", "the daemon cannot do its work: "+sentence(reason))}
	}
	t := w.State.Degraded
	if t == nil {
		return nil
	}
	w.State.Degraded = nil
	return []Message{w.message(Recovery, "", now, t, "the daemon works again", fmt.Sprintf("the daemon works again. It had not worked since %s.", clock(t.Since)))}
}

// Keep forgets environments that are not configured any more.
func (w *Watch) Keep(environments []string) {
	for _, m := range []map[string]*Condition{w.State.Failing, w.State.Lacking, w.State.Suspect, w.State.Late, w.State.Unproven, w.State.Trial, w.State.Instances, w.State.DrillFailed, w.State.DrillNotRun, w.State.RTO, w.State.Drift} {
		for name := range m {
			if !slices.Contains(environments, name) {
				delete(m, name)
			}
		}
	}
}

// sentence ends in one full stop.
func sentence(text string) string { return strings.TrimRight(text, ". \n") + "." }

func clock(t time.Time) string { return t.Format("2006-01-02 15:04 MST") }
