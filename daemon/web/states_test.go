package web

import (
	"fmt"
	"html"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
)

// states are all that an environment can be in, the worst first as the page has
// them, and those that are as bad by name.
var states = []string{"failed", "never", "overdue", "died", "first", "partial", "suspect", "good", "interrupted"}

// inState is an environment in a state.
func inState(state, name string) report.Environment {
	good := func(n int) []report.Run {
		return history(name, n, 15*time.Minute, 1.4e9, always)
	}
	// ends is good runs with another one at the end.
	ends := func(change func(r *report.Run)) report.Environment {
		runs := good(40)
		last := &runs[len(runs)-1]
		last.Snapshot, last.Files, last.Bytes, last.NewBytes, last.StoredBytes = "", 0, 0, 0, 0
		change(last)
		return environment(name, time.Hour, runs)
	}
	var e report.Environment
	switch state {
	case "never":
		e = environment(name, time.Hour, nil)
		e.Kept = 0
	case "first":
		e = environment(name, time.Hour, nil)
		e.Kept = 0
		e.Running = &report.Progress{Started: now.Add(-3*time.Hour - 5*time.Minute), Phase: "capture", Attempt: 1, Files: 1, Bytes: 3e11}
	case "by-hand": // before the daemon was started
		e = environment(name, time.Hour, good(40))
		e.Runs = nil
	case "good":
		e = environment(name, time.Hour, good(40))
	case "overdue":
		runs := good(40)
		for i := range runs {
			runs[i].Started, runs[i].Finished = runs[i].Started.Add(-9*time.Hour), runs[i].Finished.Add(-9*time.Hour)
		}
		e = environment(name, time.Hour, runs)
	case "failed":
		e = environment(name, time.Hour, history(name, 40, 15*time.Minute, 1.4e9, func(i int) report.Result {
			if i >= 33 {
				return report.Failed
			}
			return report.Success
		}))
	case "died":
		e = ends(func(r *report.Run) {
			r.Result, r.Died, r.Error = report.Failed, true, "the run died: the program or the machine ended in the middle of it"
		})
	case "interrupted":
		e = ends(func(r *report.Run) {
			r.Result, r.Error = report.Interrupted, "the daemon was stopped; the next run goes on from here"
		})
	case "suspect":
		e = ends(func(r *report.Run) {
			r.Result, r.Snapshot, r.Files, r.Bytes = report.Suspect, name+"@139", 3, 4096
			r.Suspect = []string{"/srv/web has 3 of 1,207 files and 4.0 KiB of 3.1 GiB, compared with " + name + "@138"}
		})
		e.Suspect = &report.Suspicion{Since: e.Last.Started, Snapshot: name + "@139", Good: name + "@138", Reasons: e.Last.Suspect}
	case "retrying":
		e = environment(name, time.Hour, good(40))
		e.Running = &report.Progress{Started: now.Add(-time.Minute), Phase: "retry", Attempt: 2, Error: "put packs/3f: store cannot be reached", Retry: now.Add(30 * time.Second)}
	case "partial":
		e = ends(func(r *report.Run) {
			r.Result, r.Snapshot, r.Files, r.Bytes, r.Problems = report.Partial, name+"@139", 150000, 1.4e9, 2
		})
	default:
		panic(state)
	}
	e.Schedule, e.TimeZone, e.Next = "*/15 * * * *", "Europe/Berlin", now.Add(5*time.Minute+12*time.Second)
	e.Sources = []report.Source{{Path: "/srv/" + name}, {Path: "/etc"}, {Path: "db/" + name + ".dump", Command: true}}
	e.Retention = "24 hourly, 7 daily, 12 monthly"
	if s := e.LastSuccess; s != nil {
		s.Verified, e.ProtectedUntil = s.Started.Add(-5*time.Hour), now.Add(29*24*time.Hour)
	}
	return e
}

// host is a host of environments in states.
func host(states ...string) report.Report {
	r := sample()
	r.Warnings, r.Environments = []report.Warning{}, nil
	r.Lock = &report.Lock{Mode: "compliance", KeepSeconds: 30 * 24 * 3600}
	for i, s := range states {
		name := s
		if len(states) > 9 {
			name = fmt.Sprintf("%s-%02d", s, i)
		}
		r.Environments = append(r.Environments, inState(s, name))
	}
	return r
}

// tampered is a host of which somebody changed the repository, and whose daemon
// has an opinion on its configuration, too.
func tampered(r report.Report) report.Report {
	r.Warnings = []report.Warning{
		{Time: now.Add(-2 * time.Hour), Text: "hosts/web-7/packs/3f/3f09c1 was overwritten: its newest version is not what a snapshot names", Tampering: true},
		{Time: now.Add(-time.Hour), Text: "/etc/knowngood/config.yaml: the group can write it: chmod g-w /etc/knowngood/config.yaml", Degraded: true},
		{Time: now.Add(-time.Minute), Text: "past runs: no space left on device"},
	}
	return r
}

// misconfigured is a host whose daemon goes on with what it should not.
func misconfigured(r report.Report) report.Report {
	r.Warnings = []report.Warning{{Time: now.Add(-time.Hour), Text: "/etc/knowngood/config.yaml: the group can write it: chmod g-w /etc/knowngood/config.yaml", Degraded: true}}
	return r
}

// unusable is a host whose daemon cannot do its work.
func unusable(r report.Report) report.Report {
	r.Degraded, r.Lock = "the repository cannot be reached: dial tcp 192.0.2.1:443: connect: no route to host", nil
	return r
}

// twentyFour is a host of 24 environments in all states.
func twentyFour() report.Report {
	var all []string
	for i := range 24 {
		s := "good"
		if i < len(states) {
			s = states[i]
		}
		all = append(all, s)
	}
	return host(all...)
}

var (
	tag     = regexp.MustCompile(`<[^>]*>`)
	foreign = regexp.MustCompile(`(?s)<pre>.*?</pre>|<span class="said.*?</span>|<svg.*?</svg>|<title>.*?</title>`)
)

// markup is a page as it is sent.
func markup(t *testing.T, r report.Report, path string) string {
	t.Helper()
	f := &fake{r: r}
	w := ask(Handler(f, f), "GET", path, nil)
	if w.Code != 200 {
		t.Fatalf("%s: %d", path, w.Code)
	}
	return w.Body.String()
}

// visible is the text of a page, with plain spaces.
func visible(page string) string {
	text := html.UnescapeString(tag.ReplaceAllString(page, ""))
	return strings.ReplaceAll(text, "\u00a0", " ")
}

func TestPageStates(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"the page names each state":                                                  thePageNamesEachState,
		"the page begins with what is worst":                                         thePageBeginsWithWhatIsWorst,
		"an environment that fails has an error history instead of charts":           whatFailsHasAnErrorHistoryInPlaceOfCharts,
		"from eight environments on the page is a table":                             fromEightEnvironmentsOnThePageIsATable,
		"the page shows how each environment is configured and when it was verified": thePageShowsHowEachEnvironmentIsConfiguredAndWhenItWasVerified,
		"no line breaks between a number and its unit":                               noLineBreaksBetweenANumberAndItsUnit,
	} {
		t.Run(name, test)
	}
}

func thePageNamesEachState(t *testing.T) {
	t.Parallel()
	for state, c := range map[string]struct {
		level string
		wants []string
		lacks []string
	}{
		"never":       {"broken", []string{"never has no snapshot, and its RPO is 1 h.", "No runs yet", "Next: run it now: knowngood snapshot neverCopy", "it is run by itself at 2026-11-20 10:09 UTC"}, []string{"first run"}},
		"by-hand":     {"well", []string{"by-hand is within its RPO.", "success 14 min ago"}, []string{"No runs yet"}},
		"first":       {"attention", []string{"first has no snapshot yet: its first run is under way.", "capture for 3 h 5 min, 1 file, 279 GiB"}, []string{"Next: ", "broke", "No runs yet"}},
		"good":        {"well", []string{"good is within its RPO."}, []string{"Next: ", "Error history"}},
		"overdue":     {"broken", []string{"overdue broke its RPO: the newest good snapshot is 9 h 14 min old, 1 h was promised.", "No run failed: it did not run in time.", "Next: run it now: knowngood snapshot overdueCopy it is run by itself at "}, []string{"Error history"}},
		"failed":      {"broken", []string{"failed broke its RPO", "Next: fix the cause, then run: knowngood snapshot failed", "Error history", "failed, 5 attempts"}, nil},
		"died":        {"attention", []string{"died died in its last run.", "the run died: the program or the machine", "died, found ", "Next: fix the cause, then run: knowngood snapshot died", "Error history"}, nil},
		"interrupted": {"well", []string{"interrupted is within its RPO.", "The last run was stopped: the daemon was stopped", "Next: go on from there: knowngood snapshot interrupted"}, []string{"Error history"}},
		"retrying":    {"well", []string{"retrying is within its RPO.", "Of the run under way, attempt 2 failed, and the next begins at 10:05:00 UTC: put packs/3f: store cannot be reached"}, []string{"Next: ", "Error history"}},
		"suspect":     {"attention", []string{"suspect is suspect: /srv/web has 3 of 1,207 files", "nothing is forgotten meanwhile.", "Next: bring the source back, and the next run ends this; where it is meant to be so: knowngood accept suspect@139", "the last good snapshot is suspect@138"}, nil},
		"partial":     {"attention", []string{"partial lacks what could not be read: 2 in its last run.", "partial@139 lacks what could not be read: 2 paths.", "Next: see what it lacks: journalctl -u knowngood | grep partial"}, nil},
	} {
		for _, path := range []string{"/", "/environments/" + state} {
			page := markup(t, host(state), path)
			if !strings.Contains(page, `<article class="env `+c.level+`"`) || !strings.Contains(page, `<p class="verdict `+c.level+`">`) {
				t.Errorf("%s of %s is not %s", path, state, c.level)
			}
			text := visible(page)
			for _, want := range c.wants {
				if !strings.Contains(text, want) {
					t.Errorf("%s of %s lacks %q", path, state, want)
				}
			}
			for _, not := range c.lacks {
				if strings.Contains(text, not) {
					t.Errorf("%s of %s has %q", path, state, not)
				}
			}
		}
	}
}

// inOrder reports what is not in a page, or not after what comes before it.
func inOrder(t *testing.T, page string, wants ...string) {
	t.Helper()
	at := 0
	for _, want := range wants {
		i := strings.Index(page[at:], want)
		if i < 0 {
			t.Errorf("%q is not there, or not in its place", want)
			return
		}
		at += i
	}
}

func thePageBeginsWithWhatIsWorst(t *testing.T) {
	t.Parallel()
	inOrder(t, markup(t, tampered(host(states...)), "/"),
		"The repository was tampered with", "Tampering and warnings", "3f09c1", "no space left", "the group can write it",
		`id="env-failed"`, `id="env-never"`, `id="env-overdue"`, `id="env-died"`, `id="env-first"`, `id="env-partial"`, `id="env-suspect"`, `id="env-good"`, `id="env-interrupted"`, "Recent errors")
	inOrder(t, markup(t, misconfigured(host("good")), "/"), `verdict attention`, "Degraded, though snapshots are taken", `box attention`, "degraded</b>", `id="env-good"`)
	inOrder(t, markup(t, unusable(host("good")), "/"), `verdict broken`, "The daemon cannot do its work", "no route to host", `id="env-good"`, "<dt>Lock mode</dt><dd>not known")

	// The page of one environment is not green while the whole is not.
	inOrder(t, markup(t, tampered(host("good")), "/environments/good"), `verdict broken`, "The repository was tampered with, see the warnings; good is within its RPO", "3f09c1", `id="env-good"`)
	inOrder(t, markup(t, unusable(host("good")), "/environments/good"), `verdict broken`, "The daemon cannot do its work; good is within its RPO", "no route to host", `id="env-good"`)
}

func whatFailsHasAnErrorHistoryInPlaceOfCharts(t *testing.T) {
	t.Parallel()
	r := host("failed")
	runs := r.Environments[0].Runs
	runs[len(runs)-2].Error = "another reason " + strings.Repeat("x", 300) + "end"
	page := markup(t, r, "/")
	if strings.Contains(page, `class="chart"`) {
		t.Error("it has charts")
	}
	at := strings.Index(page, `<ol class="history"`)
	if at < 0 {
		t.Fatal("it has no history")
	}
	list := page[at : at+strings.Index(page[at:], "</ol>")]
	text := visible(list)
	if n := strings.Count(list, "<li>"); n != recentRuns {
		t.Errorf("it lists %d runs", n)
	}
	if n := strings.Count(text, "the same"); n != 4 {
		t.Errorf("%d runs of 7 are called the same", n)
	}
	inOrder(t, text, "failed, 5 attempts capture failed: put packs", "another reason xxx", "…", "capture failed: put packs", "the same", "success failed@132")
	if strings.Contains(text, "xend") {
		t.Error("a long error is in full")
	}
}

func fromEightEnvironmentsOnThePageIsATable(t *testing.T) {
	t.Parallel()
	seven, eight := markup(t, host(states[:7]...), "/"), markup(t, host(states[:8]...), "/")
	if strings.Contains(seven, `<table class="list">`) || strings.Count(seven, "<article") != 7 {
		t.Error("seven are no articles")
	}
	if !strings.Contains(eight, `<table class="list">`) || strings.Contains(eight, "<article") || strings.Count(eight, `<tr class=`) != 8 {
		t.Error("eight are no table")
	}
	for _, page := range []string{seven, eight, markup(t, host("failed"), "/environments/failed")} {
		for _, e := range states[:7] {
			if strings.Contains(page, `id="env-`+e+`"`) && strings.Count(page, `<a href="/environments/`+e+`">`+e+`</a>`) < 1 {
				t.Errorf("%s is no link", e)
			}
		}
		if strings.Count(page, `<b><a href="/environments/failed">failed</a></b>`) == 0 {
			t.Error("the environment of an error is no link")
		}
	}
	page := markup(t, twentyFour(), "/")
	var levels []string
	for _, m := range regexp.MustCompile(`<tr class="(\w+)" id`).FindAllStringSubmatch(page, -1) {
		levels = append(levels, m[1])
	}
	rank := map[string]int{"broken": 0, "attention": 1, "well": 2}
	if len(levels) != 24 || !slices.IsSortedFunc(levels, func(a, b string) int { return rank[a] - rank[b] }) {
		t.Errorf("the worst is not first: %v", levels)
	}
}

func thePageShowsHowEachEnvironmentIsConfiguredAndWhenItWasVerified(t *testing.T) {
	t.Parallel()
	r := host("good", "never")
	page := visible(markup(t, r, "/"))
	for _, want := range []string{
		"Schedule*/15 * * * * Europe/Berlin", "Sources/srv/good, /etc, db/good.dump (a command)", "Keeps24 hourly, 7 daily, 12 monthly",
		"Verified5 h 14 min ago by listing", "Verifiednot known", "Lock modecompliance, 30 d", "Lock mode: compliance, 30 d",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	e := &r.Environments[0]
	e.Schedule, e.Retention, r.Lock = "", "", &report.Lock{Mode: "none"}
	for i := range 30 {
		e.Sources = append(e.Sources, report.Source{Path: fmt.Sprintf("/srv/%d", i)})
	}
	page = visible(markup(t, r, "/environments/good"))
	for _, want := range []string{"Scheduleonly by hand", "Keepseverything", "Lock modenone", "/srv/4 and 25 more"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func noLineBreaksBetweenANumberAndItsUnit(t *testing.T) {
	t.Parallel()
	breakable := regexp.MustCompile(`.{0,20}\d (?:s|min|h|d|B|[KMGTPE]iB|%)\b.{0,20}`)
	for _, r := range []report.Report{sample(), tampered(host(states...)), twentyFour(), host(states[:7]...)} {
		paths := []string{"/"}
		for _, e := range r.Environments {
			paths = append(paths, "/environments/"+e.Name)
		}
		for _, path := range paths {
			text := tag.ReplaceAllString(foreign.ReplaceAllString(markup(t, r, path), ""), "")
			for _, found := range breakable.FindAllString(text, -1) {
				t.Errorf("%s: %q", path, found)
			}
			if !strings.Contains(text, "\u00a0") {
				t.Errorf("%s has no quantities", path)
			}
		}
	}
}
