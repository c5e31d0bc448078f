package report

import (
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

func env(name string, rpo, age time.Duration, failures int) Environment {
	e := Environment{Name: name, RPOSeconds: rpo.Seconds(), AgeSeconds: -1, Job: Job{Failures: failures}}
	if age >= 0 {
		e.Newest, e.AgeSeconds = now.Add(-age), age.Seconds()
		e.RPOBroken = rpo > 0 && age > rpo
	}
	return e
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"names the worst first":             theVerdictNamesWhatIsWorstFirst,
		"the worst environments rank first": theWorstEnvironmentsRankFirst,
		"a proof is one sentence":           aProofIsOneSentence,
		"spans are readable":                spansReadAsPeopleSayThem,
		"the next step fits the problem":    theNextStepFitsWhatIsAmiss,
	} {
		t.Run(name, test)
	}
}

func theVerdictNamesWhatIsWorstFirst(t *testing.T) {
	t.Parallel()
	const none = -1
	well, slow, free := env("web", time.Hour, time.Minute, 0), env("db", time.Hour, 3*time.Hour, 2), env("etc", 0, time.Hour, 0)
	failing, never := env("web", time.Hour, time.Minute, 1), env("new", time.Hour, none, 0)
	partial := env("home", time.Hour, time.Minute, 0)
	partial.Last = &Run{Result: Partial, Problems: 3}
	collapsed := env("srv", time.Hour, time.Minute, 0)
	collapsed.Suspect = &Suspicion{Snapshot: "srv@4", Reasons: []string{"/srv shrank", "/mnt is not mounted"}}
	died := env("web", time.Hour, time.Minute, 1)
	died.Last = &Run{Result: Failed, Died: true}
	first, again := env("new", time.Hour, none, 0), env("new", time.Hour, none, 1)
	first.Running, again.Running = &Progress{}, &Progress{}
	proven := func(p Proof) Environment {
		e := env("web", time.Hour, time.Minute, 0)
		p.Newest, p.Wanted = "web@43", !p.Wanted
		e.Proof = &p
		return e
	}
	const month, limit = 30 * 86400.0, 7 * 86400.0
	good := Proof{Snapshot: "web@42", Level: "probed", Machine: "drill-1", AgeSeconds: month}
	old := good
	old.LimitSeconds = limit
	scaled, fewer := well, well
	fewer.Instances = &Instances{Snapshot: "web@1", Wanted: 4, Ready: 3}
	scaled.Instances = &Instances{Snapshot: "web@1", Wanted: 4, Failed: 3}
	for name, c := range map[string]struct {
		r     Report
		level Level
		want  string
	}{
		"all hold":                        {Report{Environments: []Environment{well, well}}, Well, "All 2 environments are within their RPO"},
		"one alone holds":                 {Report{Environments: []Environment{well}}, Well, "web is within its RPO"},
		"some have none":                  {Report{Environments: []Environment{well, free}}, Well, "1 of 2 environments is within its RPO, the other has none"},
		"none has one":                    {Report{Environments: []Environment{free}}, Well, "1 environment has a snapshot; nothing was promised with an rpo"},
		"nothing is configured":           {Report{}, Attention, "No environments are configured"},
		"one is broken":                   {Report{Environments: []Environment{well, slow}}, Broken, "db broke its RPO: the newest good snapshot is 3 h old, 1 h was promised"},
		"two are broken":                  {Report{Environments: []Environment{well, slow, never}}, Broken, "2 of 3 environments broke their RPO; one of them: db broke"},
		"a promise without a snapshot":    {Report{Environments: []Environment{never}}, Broken, "new has no snapshot, and its RPO is 1 h"},
		"the first run is under way":      {Report{Environments: []Environment{first, well}}, Attention, "new has no snapshot yet: its first run is under way"},
		"the first run failed before":     {Report{Environments: []Environment{again}}, Broken, "new has no snapshot, and its RPO is 1 h"},
		"a run that died":                 {Report{Environments: []Environment{died}}, Attention, "web died in its last run"},
		"a source that collapsed":         {Report{Environments: []Environment{collapsed, well}}, Attention, "srv is suspect: /srv shrank; /mnt is not mounted; nothing is forgotten"},
		"a bad configuration":             {Report{Environments: []Environment{failing}, Warnings: []Warning{{Text: "open"}, {Text: "others can write it", Degraded: true}}}, Attention, "Degraded, though snapshots are taken: others can write it"},
		"a failure within the RPO":        {Report{Environments: []Environment{failing, free}}, Attention, "web failed in its last run"},
		"what could not be read":          {Report{Environments: []Environment{partial}}, Attention, "home lacks what could not be read: 3"},
		"an environment without snapshot": {Report{Environments: []Environment{env("x", 0, none, 0)}}, Attention, "x has no snapshot yet"},
		"degraded":                        {Report{Environments: []Environment{failing}, Degraded: "no route to host"}, Broken, "The daemon cannot do its work: no route to host"},
		"a broken RPO before degraded":    {Report{Environments: []Environment{slow}, Degraded: "x"}, Broken, "db broke its RPO"},
		"tampering before all":            {Report{Environments: []Environment{slow}, Warnings: []Warning{{Tampering: true}}}, Broken, "The repository was tampered with"},
		"a warning":                       {Report{Environments: []Environment{well}, Warnings: []Warning{{Text: "past"}, {Text: "web: 0 of 4 instances of web@1 are ready"}}}, Attention, "Snapshots are well; 2 warnings deserve a look, the newest: web: 0 of 4 instances of web@1 are ready"},
		"instances that failed":           {Report{Environments: []Environment{scaled, well}}, Attention, "web needs a look: 0 of 4 instances of web@1 are ready, 3 failed"},
		"instances that did not come up":  {Report{Environments: []Environment{fewer, well}}, Attention, "web needs a look: 3 of 4 instances of web@1 are ready"},
		"the check found damage":          {Report{Environments: []Environment{slow}, Check: &Check{Damaged: 1}}, Broken, "What is stored is damaged: the check found that 1 object is missing or damaged, see the warnings"},
		"locks end early":                 {Report{Environments: []Environment{slow}, Check: &Check{Damaged: 1, Short: 1}}, Broken, "What is stored is not locked as it should be: the check found that the locks of 1 snapshot end before the host says, see the warnings"},
		"the check fails":                 {Report{Environments: []Environment{well}, Check: &Check{Job: Job{Failures: 1}}}, Attention, "The check of what is stored failed in its last run"},
		"an unprotected store":            {Report{Environments: []Environment{well}, Storage: Storage{UnprotectedAt: now}}, Attention, "web is within its RPO; but an attacker who takes over a host can destroy its history in the store"},
		"an unprotected store, and worse": {Report{Environments: []Environment{slow}, Storage: Storage{UnprotectedAt: now}}, Broken, "db broke its RPO"},
		"a proof of any age":              {Report{Environments: []Environment{proven(good)}}, Well, "web is within its RPO"},
		"an old proof":                    {Report{Environments: []Environment{proven(old)}}, Attention, "web is not proven for 30 d: web@42 was the last, and known_good allows 7 d"},
		"no proof":                        {Report{Environments: []Environment{well, proven(Proof{Reason: "no drill has passed"})}}, Attention, "web is not proven: web@43: no drill has passed"},
		"no proof, and none is wanted":    {Report{Environments: []Environment{proven(Proof{Reason: "no drill has passed", Wanted: true})}}, Well, "web is within its RPO"},
		"it is not known what is proven":  {Report{Environments: []Environment{proven(Proof{Error: "access denied"})}}, Attention, "web may be proven or not: access denied"},
		"a broken RPO before a proof":     {Report{Environments: []Environment{slow, proven(Proof{})}}, Broken, "db broke its RPO"},
		"pruning fails":                   {Report{Environments: []Environment{well}, Prune: &Job{Failures: 2}}, Attention, "Pruning failed in its last 2 runs"},
	} {
		t.Run(name, func(t *testing.T) {
			level, text := c.r.Verdict()
			if level != c.level || !strings.HasPrefix(text, c.want) {
				t.Errorf("%v: %q, want %v: %q", level, text, c.level, c.want)
			}
		})
	}
}

func aProofIsOneSentence(t *testing.T) {
	t.Parallel()
	good := Proof{Snapshot: "web@42", Level: "probed", Machine: "drill-1", AgeSeconds: 6 * 3600, RTOSeconds: 41, Newest: "web@43"}
	self, bad := good, good
	self.SelfAttested, bad.Reason = true, "it is marked bad by the owner: broken into"
	for want, p := range map[string]Proof{
		"known-good: web@42, probed 6 h ago on drill-1, RTO 41 s":                                                            good,
		"known-good: web@42, probed 6 h ago on drill-1, RTO 41 s, self-attested":                                             self,
		"known-good: web@42, probed 6 h ago on drill-1, RTO 41 s; web@43 is not: it is marked bad by the owner: broken into": bad,
		"known-good: none; web@43: no drill has passed":                                                                      {Newest: "web@43", Reason: "no drill has passed"},
		"known-good: none, there is no snapshot":                                                                             {},
		"known-good: not known: access denied":                                                                               {Newest: "web@43", Error: "access denied"},
	} {
		if got := p.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	many := Proof{Bad: []Bad{{"web@9", "by drill-1"}, {"web@8", "by the owner"}}, BadCount: 4}
	if got := many.BadText(); got != "web@9: by drill-1\nweb@8: by the owner\nand 2 more" {
		t.Errorf("%q", got)
	}
}

func theWorstEnvironmentsRankFirst(t *testing.T) {
	t.Parallel()
	r := Report{Environments: []Environment{env("a", time.Hour, 0, 0), env("b", time.Hour, 0, 1), env("d", time.Hour, 2*time.Hour, 0), env("c", time.Hour, 2*time.Hour, 0)}}
	var names []string
	for _, e := range r.Ranked() {
		names = append(names, e.Name)
	}
	if got := strings.Join(names, " "); got != "c d b a" {
		t.Errorf("ranked %s", got)
	}
	if r.Environments[0].Name != "a" {
		t.Error("ranking changed the report")
	}
}

func spansReadAsPeopleSayThem(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 s", 59 * time.Second: "59 s", 90 * time.Second: "1 min", time.Hour: "1 h", 185 * time.Minute: "3 h 5 min",
		47 * time.Hour: "47 h", 48 * time.Hour: "2 d", 220 * time.Hour: "9 d 4 h", -time.Minute: "-1 min",
	} {
		if got := Span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0.00 s", 2500 * time.Millisecond: "2.50 s", 40600 * time.Millisecond: "41 s", time.Minute: "1 min", 192 * time.Second: "3 min 12 s", 185 * time.Minute: "3 h 5 min",
	} {
		if got := Took(d); got != want {
			t.Errorf("%v took %q, want %q", d, got, want)
		}
	}
}

func theNextStepFitsWhatIsAmiss(t *testing.T) {
	t.Parallel()
	later := Job{Next: now.Add(time.Hour)}
	job := func(last *Run) Job { j := later; j.Last = last; return j }
	for want, e := range map[string]Environment{
		"fix the cause, then run: knowngood snapshot web; it is tried again by itself at 2026-11-20 11:00 UTC": {Name: "web", Job: job(&Run{Result: Failed, Error: "x"})},
		"go on from there: knowngood snapshot web; it is tried again by itself at 2026-11-20 11:00 UTC":        {Name: "web", Job: job(&Run{Result: Interrupted, Error: "x"})},
		"run it now: knowngood snapshot web; it is run by itself at 2026-11-20 11:00 UTC":                      {Name: "web", Job: later},
		"run it now: knowngood snapshot web": {Name: "web"},
	} {
		if got := e.NextStep().String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	e := Environment{Suspect: &Suspicion{Snapshot: "web@4", Good: "web@3"}}
	if got := e.AcceptStep().String(); !strings.HasSuffix(got, ": knowngood accept web@4; the last good snapshot is web@3") {
		t.Errorf("of a suspect one: %q", got)
	}
}

func TestVerification(t *testing.T) {
	t.Parallel()
	t.Run("is the newest one of listings, checks and drills that had the newest snapshot", testVerificationIsTheNewest)
}

func testVerificationIsTheNewest(t *testing.T) {
	t.Parallel()
	at := func(hour int) time.Time { return time.Date(2026, 11, 20, hour, 0, 0, 0, time.UTC) }
	environment := func(listed time.Time, proven string, drilled time.Time) *Environment {
		run := &Run{Snapshot: "web@2", Started: at(8), Finished: at(9), Verified: listed}
		return &Environment{Newest: run.Started, Job: Job{LastSuccess: run}, Proof: &Proof{Snapshot: proven, Proven: drilled}}
	}
	data := func(oldest time.Time, damaged int) *Check {
		return &Check{Began: at(12), Damaged: damaged, Data: &CheckedData{Oldest: oldest}}
	}
	for name, c := range map[string]struct {
		e    *Environment
		c    *Check
		at   time.Time
		want string
	}{
		"no snapshot":                       {&Environment{}, data(at(10), 0), time.Time{}, ""},
		"nothing but its run":               {environment(time.Time{}, "", time.Time{}), nil, time.Time{}, ""},
		"a listing":                         {environment(at(7), "", time.Time{}), nil, at(7), "by listing"},
		"a check that began in the run":     {environment(at(7), "", time.Time{}), &Check{Began: at(8).Add(time.Minute)}, at(7), "by listing"},
		"a check after it":                  {environment(at(7), "", time.Time{}), data(at(1), 0), at(12), "by a check of the structure"},
		"a check that found damage":         {environment(at(7), "", time.Time{}), data(at(12), 1), at(7), "by listing"},
		"its data was read with the run":    {environment(at(7), "", time.Time{}), &Check{Began: at(1), Data: &CheckedData{Oldest: at(8)}}, at(8), "by reading its data"},
		"its data was read after the check": {environment(at(7), "", time.Time{}), data(at(13), 0), at(13), "by reading its data"},
		"a drill of it":                     {environment(at(7), "web@2", at(14)), data(at(13), 0), at(14), "by a drill"},
		"a drill of an older one":           {environment(at(7), "web@1", at(14)), nil, at(7), "by listing"},
	} {
		if got, how := c.e.Verification(c.c); !got.Equal(c.at) || how != c.want {
			t.Errorf("%s: %v, %q, want %v, %q", name, got, how, c.at, c.want)
		}
	}
}
