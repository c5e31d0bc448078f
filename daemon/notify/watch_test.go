package notify

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
)

var start = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

// event is something that a Watch learns at a time counted from the start.
type event struct {
	at   time.Duration
	tell func(w *Watch, now time.Time) []Message
}

func run(result report.Result, failures int) func(*Watch, time.Time) []Message {
	return func(w *Watch, now time.Time) []Message {
		return w.Ran("web", report.Run{Result: result, Finished: now, Error: "no space left", Snapshot: "web@42", Problems: 3,
			Suspect: []string{"/srv/web has 0 of 3 files", "/mnt is no mount point"}}, failures)
	}
}

func prune(result report.Result) func(*Watch, time.Time) []Message {
	return func(w *Watch, now time.Time) []Message {
		return w.Pruned(report.Run{Result: result, Finished: now, Error: "access denied"}, 1)
	}
}

// age is a check that finds a snapshot of this age; 0 is none.
func age(old, rpo time.Duration) func(*Watch, time.Time) []Message {
	return func(w *Watch, now time.Time) []Message {
		e := report.Environment{Name: "web", AgeSeconds: old.Seconds(), RPOSeconds: rpo.Seconds(), Newest: now.Add(-old), RPOBroken: rpo > 0 && old > rpo}
		if old == 0 {
			e.AgeSeconds, e.Newest = -1, time.Time{}
		}
		return w.Checked(now, &e)
	}
}

func found(text string) func(*Watch, time.Time) []Message {
	return func(w *Watch, now time.Time) []Message {
		return w.Found(report.Warning{Time: now, Text: text, Tampering: strings.Contains(text, "changed")})
	}
}

func degraded(reason string) func(*Watch, time.Time) []Message {
	return func(w *Watch, now time.Time) []Message { return w.Degraded(now, reason) }
}

func keep(names ...string) func(*Watch, time.Time) []Message {
	return func(w *Watch, _ time.Time) []Message { w.Keep(names); return nil }
}

// proof is a proof of an age, none for 0, of an environment that was configured at the
// start.
func proof(of, limit time.Duration, wanted bool) func(*Watch, time.Time) []Message {
	return func(w *Watch, now time.Time) []Message {
		p := &report.Proof{Newest: "web@43", Reason: "no drill has passed", Wanted: wanted, LimitSeconds: limit.Seconds()}
		if of > 0 {
			p.Snapshot, p.Level, p.Machine, p.AgeSeconds, p.RTOSeconds, p.Reason = "web@42", "probed", "drill-1", of.Seconds(), 41, ""
		}
		return w.Proven(now, &report.Environment{Name: "web", Proof: p}, start)
	}
}

func noProof(text string) func(*Watch, time.Time) []Message {
	return func(w *Watch, now time.Time) []Message {
		e := &report.Environment{Name: "web"}
		if text != "" {
			e.Proof = &report.Proof{Wanted: true, Error: text}
		}
		return w.Proven(now, e, start)
	}
}

const (
	h = time.Hour
	d = 24 * h
)

var watched = []struct {
	name   string
	never  bool // Repeat is 0
	events []event
	want   []string // kind, when, and part of the text
}{
	{name: "success is not told", events: []event{{0, run(report.Success, 0)}, {2 * h, prune(report.Success)}, {3 * h, degraded("")}, {4 * h, age(h, 2*h)}, {5 * h, age(9*h, 0)}}},
	{name: "a failure is told once, and its end", events: []event{{0, run(report.Failed, 1)}, {h, run(report.Failed, 2)}, {2 * h, run(report.Success, 0)}, {3 * h, run(report.Success, 0)}},
		want: []string{"failure 0s web-7/web: the snapshot failed: no space left.", "recovery 2h0m0s web@42 was taken. They had failed since 2026-11-24 10:00 UTC"}},
	{name: "a partial snapshot is a recovery, a skipped run is none", events: []event{{0, run(report.Failed, 1)}, {h, run(report.Skipped, 1)}, {2 * h, run(report.Partial, 0)}},
		want: []string{"failure 0s ", "recovery 2h0m0s ", "incomplete 2h0m0s web-7/web: web@42 lacks what could not be read: 3 files"}},
	{name: "what a snapshot lacks is told once, and anew when it begins again", events: []event{{0, run(report.Partial, 0)}, {h, run(report.Partial, 0)}, {2 * h, run(report.Success, 0)}, {3 * h, run(report.Partial, 0)}},
		want: []string{"incomplete 0s ", "incomplete 3h0m0s "}},
	{name: "a suspect snapshot is told once, and its end", events: []event{{0, run(report.Suspect, 0)}, {h, run(report.Suspect, 0)}, {2 * h, run(report.Success, 0)}, {3 * h, run(report.Success, 0)}},
		want: []string{"suspect 0s web-7/web: web@42 is suspect: /srv/web has 0 of 3 files; /mnt is no mount point. It does not count", "recovery 2h0m0s web@42 is not suspect. They had been suspect since 2026-11-24 10:00 UTC"}},
	{name: "a suspect snapshot ends a failure, and a failure no suspicion", events: []event{{0, run(report.Failed, 1)}, {h, run(report.Suspect, 0)}, {2 * h, run(report.Failed, 1)}, {3 * h, run(report.Partial, 0)}},
		want: []string{"failure 0s ", "recovery 1h0m0s succeed again", "suspect 1h0m0s ", "failure 2h0m0s ", "recovery 3h0m0s succeed again", "recovery 3h0m0s good again", "incomplete 3h0m0s "}},
	{name: "what fails on is told again after a day", events: []event{{0, run(report.Failed, 1)}, {23 * h, run(report.Failed, 2)}, {24 * h, run(report.Failed, 3)}, {47 * h, run(report.Failed, 4)}, {50 * h, run(report.Failed, 5)}},
		want: []string{"failure 0s ", "failure 24h0m0s It is failure 3 in a row, since 2026-11-24 10:00 UTC.", "failure 50h0m0s failure 5"}},
	{name: "or never", never: true, events: []event{{0, run(report.Failed, 1)}, {900 * h, run(report.Failed, 9)}, {901 * h, run(report.Success, 0)}},
		want: []string{"failure 0s ", "recovery 901h0m0s "}},
	{name: "a new failure after a recovery is told at once", events: []event{{0, run(report.Failed, 1)}, {1, run(report.Success, 0)}, {2, run(report.Failed, 1)}},
		want: []string{"failure 0s ", "recovery 1ns ", "failure 2ns "}},
	{name: "a clock set back does not silence", events: []event{{1000 * h, run(report.Failed, 1)}, {0, run(report.Failed, 2)}, {24 * h, run(report.Failed, 3)}},
		want: []string{"failure 1000h0m0s ", "failure 24h0m0s "}},
	{name: "a broken RPO is told, again, and its end", events: []event{{0, age(2*h, h)}, {h, age(3*h, h)}, {24 * h, age(26*h, h)}, {25 * h, age(h/2, h)}, {26 * h, age(h/2, h)}},
		want: []string{"rpo 0s web-7/web: the newest good snapshot is 2 h old, and at most 1 h was promised (rpo).", "rpo 24h0m0s 26 h old", "rpo-met 25h0m0s 30 min old again, within the promised 1 h (rpo). It had been broken since 2026-11-24"}},
	{name: "a promise without a snapshot is broken", events: []event{{0, age(0, h)}}, want: []string{"rpo 0s there is no good snapshot"}},
	{name: "a promise taken back ends in silence", events: []event{{0, age(2*h, h)}, {h, age(3*h, 0)}, {2 * h, age(2*h, h)}}, want: []string{"rpo 0s ", "rpo 2h0m0s "}},
	{name: "damage is told once for each text, and again after a day", events: []event{{0, found("pack a was changed")}, {h, found("pack a was changed")}, {h, found("pack b is missing.")}, {25 * h, found("pack a was changed")}},
		want: []string{"damage 0s the repository was damaged or tampered with: pack a was changed.", "damage 1h0m0s web-7: needs attention: pack b is missing.", "damage 25h0m0s pack a"}},
	{name: "degraded is told, and its end", events: []event{{0, degraded("no route to host")}, {h, degraded("connection refused")}, {2 * h, degraded("")}, {3 * h, degraded("")}},
		want: []string{"degraded 0s web-7: the daemon cannot do its work: no route to host.", "recovery 2h0m0s the daemon works again. It had not worked since 2026-11-24 10:00 UTC"}},
	{name: "a prune that fails is told, and its end", events: []event{{0, prune(report.Failed)}, {h, prune(report.Failed)}, {2 * h, prune(report.Success)}},
		want: []string{"failure 0s web-7: pruning failed, so nothing is freed: access denied.", "recovery 2h0m0s pruning succeeds again"}},
	{name: "an environment that is configured no more is forgotten", events: []event{{0, run(report.Failed, 1)}, {0, age(2*h, h)}, {1, keep("db")}, {2, run(report.Success, 0)}, {3, age(h, h)}},
		want: []string{"failure 0s ", "rpo 0s "}},
	{name: "a proof that gets old is reported, again, and its end", events: []event{{h, proof(6*d, 7*d, true)}, {d, proof(8*d, 7*d, true)}, {d + h, proof(8*d, 7*d, true)}, {2 * d, proof(9*d, 7*d, true)}, {3 * d, proof(h, 7*d, true)}, {4 * d, proof(h, 7*d, true)}},
		want: []string{"unproven 24h0m0s web-7/web: it is not proven for 8 d: web@42 was the last, and known_good allows 7 d.", "unproven 48h0m0s ", "recovery 72h0m0s known-good: web@42, probed 1 h ago on drill-1, RTO 41 s."}},
	{name: "what is never proven is reported after 30 days", events: []event{{h, proof(0, 0, true)}, {29 * d, proof(0, 0, true)}, {30 * d, proof(0, 0, true)}}, want: []string{"unproven 720h0m0s web-7/web: it is not proven: web@43: no drill has passed."}},
	{name: "or after what the configuration allows", events: []event{{6 * d, proof(0, 7*d, true)}, {7 * d, proof(0, 7*d, true)}}, want: []string{"unproven 168h0m0s "}},
	{name: "a proof that nobody wants is not told", events: []event{{90 * d, proof(0, 0, false)}, {91 * d, proof(80*d, d, false)}, {92 * d, noProof("")}}},
	{name: "a proof that nobody wants any more ends in silence", events: []event{{30 * d, proof(0, 0, true)}, {31 * d, proof(0, 0, false)}, {32 * d, proof(0, 0, true)}}, want: []string{"unproven 720h0m0s ", "unproven 768h0m0s "}},
	{name: "what is not known is no end and no beginning", events: []event{{30 * d, noProof("no route to host")}, {31 * d, proof(0, 0, true)}, {31*d + h, noProof("x")}, {31*d + 2*h, proof(0, 0, true)}}, want: []string{"unproven 744h0m0s "}},
	{name: "one that still is is not", events: []event{{0, run(report.Failed, 1)}, {1, keep("db", "web")}, {2, run(report.Failed, 2)}}, want: []string{"failure 0s "}},
}

func TestWatch(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"reports what begins, continues and ends": watchTellsWhatBeginsGoesOnAndEnds,
		"messages carry what they are about":      messagesCarryWhatTheyAreAbout,
		"remembers a bounded number of texts":     watchRemembersABoundedNumberOfTexts,
	} {
		t.Run(name, test)
	}
}

// Between any two events the state goes through JSON, as over a restart.
func watchTellsWhatBeginsGoesOnAndEnds(t *testing.T) {
	t.Parallel()
	for _, test := range watched {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &Watch{Host: "web-7", Repeat: 24 * h}
			if test.never {
				w.Repeat = 0
			}
			var got []Message
			for _, e := range test.events {
				got = append(got, e.tell(w, start.Add(e.at))...)
				b, err := json.Marshal(w.State)
				if err != nil {
					t.Fatal(err)
				}
				w.State = State{}
				if err := json.Unmarshal(b, &w.State); err != nil {
					t.Fatal(err)
				}
			}
			if len(got) != len(test.want) {
				t.Fatalf("told %d times, want %d: %+v", len(got), len(test.want), got)
			}
			for i, m := range got {
				begin, part := fmt.Sprintf("%s %v ", m.Kind, m.Time.Sub(start)), test.want[i]
				if part, ok := strings.CutPrefix(part, begin); !ok || !strings.Contains(m.Text, part) {
					t.Errorf("%d: told %s%q, want %s", i, begin, m.Text, test.want[i])
				}
				if m.Title == "" || !strings.HasPrefix(m.Title, "web-7") || strings.Contains(m.Text, "..") {
					t.Errorf("%d: title %q, text %q", i, m.Title, m.Text)
				}
			}
		})
	}
}

func messagesCarryWhatTheyAreAbout(t *testing.T) {
	t.Parallel()
	w := &Watch{Host: "web-7", Repeat: h}
	run(report.Failed, 1)(w, start)
	m := run(report.Failed, 2)(w, start.Add(2*h))[0]
	if m.Environment != "web" || m.Failures != 2 || m.Repeated != 1 || !m.Since.Equal(start) || m.Run == nil || m.Run.Error != "no space left" {
		t.Errorf("failure %+v", m)
	}
	if m := age(2*h, h)(w, start)[0]; m.AgeSeconds != 7200 || m.RPOSeconds != 3600 {
		t.Errorf("rpo %+v", m)
	}
	if m := found("pack a was changed")(w, start)[0]; !m.Tampering || m.Environment != "" {
		t.Errorf("damage %+v", m)
	}
}

func watchRemembersABoundedNumberOfTexts(t *testing.T) {
	t.Parallel()
	w := &Watch{Host: "web-7", Repeat: 24 * h}
	for i := range 3 * maxDamage {
		if told := found(fmt.Sprint("text ", i))(w, start.Add(time.Duration(i))); len(told) != 1 {
			t.Fatalf("text %d was told %d times", i, len(told))
		}
	}
	if len(w.State.Damage) != maxDamage {
		t.Errorf("%d texts are remembered, want %d", len(w.State.Damage), maxDamage)
	}
	if told := found(fmt.Sprint("text ", 3*maxDamage-1))(w, start.Add(h)); len(told) != 0 {
		t.Error("the newest was forgotten")
	}
}
