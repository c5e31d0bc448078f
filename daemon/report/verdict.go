package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
)

// Level is how bad it is; a higher one is worse.
type Level int

// Levels. Broken: what was promised does not hold, or the repository cannot be
// trusted or used. Attention: it still holds, and will not if nobody looks; or
// the first run is under way, and nothing is wrong with it so far.
const (
	Well Level = iota
	Attention
	Broken
)

func (l Level) String() string {
	return [...]string{"well", "attention", "broken"}[l]
}

// Broken reports whether the environment's RPO does not hold: a promise of which
// there is no snapshot is a broken one.
func (e *Environment) Broken() bool {
	return e.RPOBroken || e.RPOSeconds > 0 && e.Newest.IsZero()
}

// FirstRun reports whether a run is under way of an environment that has no
// snapshot yet.
func (e *Environment) FirstRun() bool {
	return e.Running != nil && e.Newest.IsZero() && e.Suspect == nil
}

// RPO is how old the newest good snapshot may be; 0 when nothing was promised.
func (e *Environment) RPO() time.Duration { return seconds(e.RPOSeconds) }

// Verdict on one environment, in words that continue after its name.
func (e *Environment) Verdict() (Level, string) {
	failing := ""
	switch {
	case e.Failures == 1 && e.Last != nil && e.Last.Died:
		failing = "died in its last run"
	case e.Failures == 1:
		failing = "failed in its last run"
	case e.Failures > 1:
		failing = fmt.Sprintf("failed in its last %d runs", e.Failures)
	}
	switch {
	case e.FirstRun() && e.Failures == 0:
		return Attention, "has no snapshot yet: its first run is under way"
	case e.Broken() && e.Newest.IsZero():
		return Broken, fmt.Sprintf("has no snapshot, and its RPO is %s", Span(e.RPO()))
	case e.Broken():
		return Broken, fmt.Sprintf("broke its RPO: the newest good snapshot is %s old, %s was promised", Span(seconds(e.AgeSeconds)), Span(e.RPO()))
	case failing != "":
		return Attention, failing
	case e.Suspect != nil:
		return Attention, "is suspect: " + strings.Join(e.Suspect.Reasons, "; ") + "; nothing is forgotten meanwhile"
	case e.Newest.IsZero():
		return Attention, "has no snapshot yet"
	case len(e.Uncaptured) > 0:
		more := ""
		if n := len(e.Uncaptured) - 1; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		return Attention, fmt.Sprintf("has no %s%s in its newest good snapshot", e.Uncaptured[0], more)
	case e.Instances.Lacking():
		return Attention, "needs a look: " + e.Instances.count()
	case e.Last != nil && e.Last.Result == Partial:
		return Attention, fmt.Sprintf("lacks what could not be read: %d in its last run", e.Last.Problems)
	case e.Proof.Lacks() != "":
		return Attention, e.Proof.Lacks()
	case e.RPOSeconds == 0:
		return Well, "has no RPO"
	}
	return Well, "is within its RPO"
}

// Verdict on everything, in one sentence that begins with what is worst.
func (r *Report) Verdict() (Level, string) {
	level, text := r.verdict()
	if level == Well && r.Storage.Unprotected() {
		return Attention, text + "; but an attacker who takes over a host can destroy its history in the store"
	}
	return level, text
}

// verdict is Verdict without what is known of the store.
func (r *Report) verdict() (Level, string) {
	if slices.ContainsFunc(r.Warnings, func(w Warning) bool { return w.Tampering }) {
		return Broken, "The repository was tampered with, see the warnings"
	}
	if r.Check != nil && r.Check.Damaged > 0 {
		what := "damaged"
		if r.Check.Short == r.Check.Damaged {
			what = "not locked as it should be"
		}
		return Broken, "What is stored is " + what + ": the check " + second(r.Check.Verdict(r.Now)) + ", see the warnings"
	}
	degraded := slices.IndexFunc(r.Warnings, func(w Warning) bool { return w.Degraded })
	envs, bad := r.Ranked(), 0
	worst, unpromised := Well, 0
	for i := range envs {
		level, _ := envs[i].Verdict()
		if i == 0 {
			worst = level
		}
		if level == worst {
			bad++
		}
		if envs[i].RPOSeconds == 0 {
			unpromised++
		}
	}
	switch {
	case worst == Broken && bad == 1:
		return Broken, sentence(&envs[0])
	case worst == Broken:
		return Broken, fmt.Sprintf("%d of %d environments broke their RPO; one of them: %s", bad, len(envs), sentence(&envs[0]))
	case r.Degraded != "":
		return Broken, "The daemon cannot do its work: " + r.Degraded
	case degraded >= 0:
		return Attention, "Degraded, though snapshots are taken: " + r.Warnings[degraded].Text
	case len(envs) == 0 && len(r.Drills) == 0:
		return Attention, "No environments are configured"
	case worst == Attention && bad == 1:
		return Attention, sentence(&envs[0])
	case worst == Attention:
		return Attention, fmt.Sprintf("%d of %d environments need attention; one of them: %s", bad, len(envs), sentence(&envs[0]))
	case r.Prune != nil && r.Prune.Failures > 0:
		return Attention, fmt.Sprintf("Pruning failed in its last %s", english.Plural(r.Prune.Failures, "run", "runs"))
	case r.Check != nil && r.Check.Failures > 0:
		return Attention, "The check of what is stored " + second(r.Check.Verdict(r.Now))
	case len(r.Warnings) > 0:
		return Attention, fmt.Sprintf("Snapshots are well; %s a look, the newest: %s", english.Plural(len(r.Warnings), "warning deserves", "warnings deserve"), r.Warnings[len(r.Warnings)-1].Text)
	case len(envs) == 0:
		return Well, english.Plural(len(r.Drills), "drill is", "drills are") + " configured, and none failed"
	case unpromised == len(envs):
		return Well, fmt.Sprintf("%s a snapshot; nothing was promised with an rpo", english.Plural(len(envs), "environment has", "environments have"))
	case unpromised > 0:
		return Well, fmt.Sprintf("%d of %d environments %s, the %s", len(envs)-unpromised, len(envs),
			english.PluralWord(len(envs)-unpromised, "is within its RPO", "are within their RPO"), english.PluralWord(unpromised, "other has none", "others have none"))
	case len(envs) == 1:
		return Well, sentence(&envs[0])
	}
	return Well, fmt.Sprintf("All %d environments are within their RPO", len(envs))
}

// Ranked are the environments, the worst first, and by name among equals.
func (r *Report) Ranked() []Environment {
	out := slices.Clone(r.Environments)
	slices.SortStableFunc(out, func(a, b Environment) int {
		la, _ := a.Verdict()
		lb, _ := b.Verdict()
		if la != lb {
			return int(lb - la)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// Span is a duration as people read it: 45 s, 12 min, 3 h 5 min, 9 d 4 h.
func Span(d time.Duration) string {
	two := func(a time.Duration, unit string, b time.Duration, small string) string {
		if b == 0 {
			return fmt.Sprintf("%d %s", a, unit)
		}
		return fmt.Sprintf("%d %s %d %s", a, unit, b, small)
	}
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "-" + Span(-d)
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 2*day:
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "min")
	}
	return two(d/day, "d", d%day/time.Hour, "h")
}

// Took is how long something took, more exactly than Span: 2.50 s, 41 s, 3 min 12 s.
func Took(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	d = d.Round(time.Second)
	if d > time.Minute && d < time.Hour && d%time.Minute > 0 {
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	}
	return Span(d)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func second(_ Level, text string) string { return text }

func sentence(e *Environment) string {
	_, text := e.Verdict()
	return e.Name + " " + text
}
