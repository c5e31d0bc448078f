package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"path"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"knowngood/daemon/report"
	"knowngood/internal/printable"
)

//go:embed assets
var assets embed.FS

// compactFrom is from how many environments on the first page is a table; each
// has what is left out there on a page of its own.
const compactFrom = 8

// troublesShown bounds the list of what went wrong recently.
const troublesShown = 20

type pages struct {
	source Source
	t      *template.Template
	files  map[string][]byte
}

func newPages(s Source) *pages {
	p := &pages{source: s, files: map[string][]byte{}}
	sum := sha256.New()
	for _, name := range []string{"page.css", "page.js", "icon.svg"} {
		b, err := assets.ReadFile("assets/" + name)
		if err != nil {
			panic(err) // embedded
		}
		p.files[name] = b
		sum.Write(b)
	}
	version := fmt.Sprintf("%x", sum.Sum(nil)[:6])
	p.t = template.Must(template.New("page.html").Funcs(template.FuncMap{
		"asset":   func(name string) string { return "/assets/" + name + "?" + version },
		"bytes":   func(n uint64) string { return size(n) },
		"count":   func(n uint64) string { return humanize.Comma(int64(n)) },
		"results": results,
		"bar":     func(part float64, level, label string) barView { return barView{part, level, label} },
	}).ParseFS(assets, "assets/page.html"))
	return p
}

// results are all there are, the best first.
func results() []report.Result {
	return []report.Result{report.Success, report.Partial, report.Suspect, report.Failed, report.Interrupted, report.Skipped}
}

// view is what the template shows.
type view struct {
	R      report.Report
	Level  string
	Words  string
	Envs   []envView
	Single bool       // the page of one environment
	Steps  []stepView // of its timeline, the newest first
	// NoSteps is why these are not complete.
	NoSteps string
	// Compact is a table in place of environments in full.
	Compact  bool
	Prune    *jobView
	Check    *checkView
	Store    *storeView
	Lock     string
	Troubles []trouble
	Warnings []trouble // tampering first
	now      time.Time
}

// stepView is a step of a timeline.
type stepView struct {
	report.TimelineStep
	Began moment
}

// trouble is something that went wrong, in full.
type trouble struct {
	When      moment
	Who, Text string
	Env       bool // Who is an environment
	Tampering bool
	// Times that it went wrong in the same way, the first of them Since; Since
	// is not known for what did once.
	Times int
	Since moment
}

func (p *pages) overview(w http.ResponseWriter, _ *http.Request) {
	r := p.source.Report()
	v := newView(r)
	v.Compact = len(r.Environments) >= compactFrom
	for _, e := range r.Ranked() {
		v.Envs = append(v.Envs, newEnvView(e, &r, !v.Compact))
	}
	v.troubles(r.Environments)
	p.show(w, http.StatusOK, v)
}

func (p *pages) environment(w http.ResponseWriter, req *http.Request) {
	r := p.source.Report()
	v := newView(r)
	v.Single = true
	e := find(&r, req.PathValue("name"))
	if e == nil {
		v.Level, v.Words = report.Attention.String(), "There is no environment of this name"
		p.show(w, http.StatusNotFound, v)
		return
	}
	level, words := e.Verdict()
	words = e.Name + " " + words
	switch {
	case v.tampering():
		level, words = report.Broken, "The repository was tampered with, see the warnings; "+words
	case r.Degraded != "":
		level, words = report.Broken, "The daemon cannot do its work; "+words
	}
	v.Level, v.Words = level.String(), unbroken(words)
	v.Envs = []envView{newEnvView(*e, &r, true)}
	v.troubles([]report.Environment{*e})
	t := p.source.Timeline(e.Name)
	v.NoSteps = t.Missing
	for _, s := range slices.Backward(t.Steps) {
		v.Steps = append(v.Steps, stepView{s, v.at(s.Time)})
	}
	p.show(w, http.StatusOK, v)
}

func newView(r report.Report) *view {
	level, words := r.Verdict()
	v := &view{R: r, Level: level.String(), Words: unbroken(words), now: r.Now, Lock: lockText(r.Lock), Store: newStoreView(r.Storage, r.Now)}
	if r.Prune != nil {
		v.Prune = newJobView(*r.Prune, r.Now)
	}
	v.Check = newCheckView(r.Check, r.Now)
	for _, w := range slices.Backward(r.Warnings) {
		v.Warnings = append(v.Warnings, trouble{When: v.at(w.Time), Who: kindOf(w), Text: w.Text, Tampering: w.Tampering})
	}
	slices.SortStableFunc(v.Warnings, func(a, b trouble) int {
		switch {
		case a.Tampering == b.Tampering:
			return 0
		case a.Tampering:
			return -1
		}
		return 1
	})
	return v
}

// kindOf is a warning in a word.
func kindOf(w report.Warning) string {
	switch {
	case w.Tampering:
		return "tampering"
	case w.Degraded:
		return "degraded"
	}
	return "daemon"
}

// tampering reports whether somebody changed what is in the repository.
func (v *view) tampering() bool { return len(v.Warnings) > 0 && v.Warnings[0].Tampering }

// WarningLevel is how bad the worst of the warnings is.
func (v *view) WarningLevel() string {
	if v.tampering() {
		return report.Broken.String()
	}
	return report.Attention.String()
}

// Who the prune and the check are among what went wrong. No environment has a name
// with a space.
const pruning, checking = "the prune", "the check"

// troubles lists runs that went wrong, the newest first. What went wrong again
// and again is listed once.
func (v *view) troubles(envs []report.Environment) {
	type same struct{ who, text string }
	seen := map[same]int{}
	add := func(who string, r report.Run) {
		if r.Error == "" || r.Result == report.Interrupted {
			return
		}
		key := same{who, r.Error}
		if i, ok := seen[key]; ok {
			v.Troubles[i].Times++
			v.Troubles[i].Since = v.at(r.Finished)
			return
		}
		seen[key] = len(v.Troubles)
		v.Troubles = append(v.Troubles, trouble{When: v.at(r.Finished), Who: who, Env: who != pruning && who != checking, Text: r.Error, Times: 1})
	}
	for _, e := range envs {
		for _, r := range slices.Backward(e.Runs) {
			add(e.Name, r)
		}
	}
	if p := v.R.Prune; p != nil && p.Last != nil && !v.Single {
		add(pruning, *p.Last)
	}
	if c := v.R.Check; c != nil && c.Last != nil && !v.Single {
		add(checking, *c.Last)
	}
	slices.SortStableFunc(v.Troubles, func(a, b trouble) int { return b.When.t.Compare(a.When.t) })
	v.Troubles = v.Troubles[:min(len(v.Troubles), troublesShown)]
}

func (v *view) at(t time.Time) moment { return moment{t, v.now} }

// Started is when the daemon was started.
func (v *view) Started() moment { return v.at(v.R.Started) }

// Now is when the page was made.
func (v *view) Now() moment { return v.at(v.now) }

// show sends a page; one that cannot be made is an error, never half a page.
func (p *pages) show(w http.ResponseWriter, code int, v *view) {
	var b bytes.Buffer
	if err := p.t.Execute(&b, v); err != nil {
		plain(w, http.StatusInternalServerError, "the page could not be made: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	io.WriteString(w, printable.Text(b.String()))
}

func (p *pages) asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	b, ok := p.files[name]
	if !ok {
		plain(w, http.StatusNotFound, "there is no such file")
		return
	}
	types := map[string]string{".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
	w.Header().Set("Content-Type", types[path.Ext(name)]+"; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=31536000, immutable") // named with its hash
	w.Write(b)
}
