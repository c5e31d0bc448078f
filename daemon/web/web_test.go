package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"knowngood/daemon/report"
)

// ask sends a request as if over TCP, or over a Unix socket.
func ask(h http.Handler, method, path string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost"+path, nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func unixSocket(r *http.Request) {
	*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Net: "unix"})))
}

func TestHandler(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"every endpoint answers":                                    everyEndpointAnswers,
		"the report passes through the API unchanged":               theReportComesThroughTheAPIAsItIs,
		"errors are JSON with the reason":                           errorsAreJSONAndSayWhy,
		"a daemon that is not ready gives the reason":               aDaemonThatIsNotReadySaysWhy,
		"nobody acts over TCP or from a page elsewhere":             nobodyActsOverTCPOrFromAPageElsewhere,
		"only names of this machine are answered":                   onlyNamesOfThisMachineAreAnswered,
		"answers forbid what they do not need":                      answersForbidWhatTheyDoNotNeed,
		"text of the report stays text":                             textOfTheReportStaysText,
		"hostile texts in the report are made printable":            hostileTextsOfTheReportAreShownAsWhatTheyAre,
		"the page shows what an operator needs":                     thePageSaysWhatAnOperatorAsks,
		"many environments have their charts on pages of their own": manyEnvironmentsHaveTheirChartsOnPagesOfTheirOwn,
		"the page of an environment has its timeline":               thePageOfAnEnvironmentHasItsTimeline,
		"long errors are shown in full once each":                   longErrorsAreShownInFullOnceEach,
	} {
		t.Run(name, test)
	}
}

func everyEndpointAnswers(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	h := Handler(f, f)
	for path, want := range map[string]string{
		"/healthz":                      "ok",
		"/readyz":                       "ready",
		"/metrics":                      `knowngood_rpo_broken{environment="db"} 1`,
		"/api/v1/report":                `"host":"web-7"`,
		"/api/v1/environments":          `"name":"etc"`,
		"/api/v1/environments/web":      `"last":{"trigger":"schedule"`,
		"/api/v1/environments/web/runs": `"error":"capture web: put packs`,
		"/":                             "db broke its RPO",
		"/environments/web":             "has generation 42-3f9a1c2b on trial until ",
		"/assets/page.css":              "prefers-color-scheme",
		"/assets/page.js":               "use strict",
	} {
		w := ask(h, "GET", path, nil)
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d without %q: %.300s", path, w.Code, want, w.Body)
		}
		if strings.HasPrefix(path, "/api/") && (w.Header().Get("Content-Type") != "application/json" || !json.Valid(w.Body.Bytes())) {
			t.Errorf("%s is no JSON", path)
		}
	}
	if w := ask(h, "GET", "/api/v1/environments", nil); strings.Contains(w.Body.String(), `"runs"`) {
		t.Error("the list of environments holds all their runs")
	}
}

func theReportComesThroughTheAPIAsItIs(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	var got report.Report
	if err := json.Unmarshal(ask(Handler(f, f), "GET", "/api/v1/report", nil).Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(f.r)
	again, _ := json.Marshal(got)
	if string(want) != string(again) {
		t.Errorf("it changed on its way:\n%s\n%s", want, again)
	}
}

func errorsAreJSONAndSayWhy(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample(), start: func(env string) error {
		switch env {
		case "web":
			return ErrRunning
		case "db":
			return errors.New("the daemon is stopping")
		}
		return fmt.Errorf("%w: %s", ErrUnknown, env)
	}}
	h := Handler(f, f)
	for _, c := range []struct {
		method, path string
		change       func(*http.Request)
		code         int
		want         string
	}{
		{"GET", "/api/v1/environments/nope", nil, 404, "no such environment"},
		{"GET", "/api/v1/environments/nope/runs", nil, 404, "no such environment"},
		{"GET", "/api/v2/x", nil, 404, "begin at /api/v1/report"},
		{"POST", "/api/v1/report", unixSocket, 405, "only GET, HEAD"},
		{"GET", "/api/v1/environments/web/snapshot", nil, 405, "only POST"},
		{"POST", "/api/v1/environments/web/snapshot", unixSocket, 409, "captured already"},
		{"POST", "/api/v1/environments/nope/snapshot", unixSocket, 404, "no such environment"},
		{"POST", "/api/v1/environments/db/snapshot", unixSocket, 503, "stopping"},
	} {
		w := ask(h, c.method, c.path, c.change)
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != c.code || !strings.Contains(p.Error, c.want) {
			t.Errorf("%s %s: %d %s, want %d %q", c.method, c.path, w.Code, w.Body, c.code, c.want)
		}
	}
}

func aDaemonThatIsNotReadySaysWhy(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample(), unready: errors.New("the repository cannot be reached: no route to host")}
	w := ask(Handler(f, f), "GET", "/readyz", nil)
	if w.Code != 503 || !strings.Contains(w.Body.String(), "no route to host") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(Handler(f, f), "GET", "/healthz", nil); w.Code != 200 {
		t.Errorf("it is alive all the same: %d", w.Code)
	}
}

func nobodyActsOverTCPOrFromAPageElsewhere(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	h := Handler(f, f)
	const act = "/api/v1/environments/web/snapshot"
	if w := ask(h, "POST", act, nil); w.Code != 403 || !strings.Contains(w.Body.String(), "only over the Unix socket") {
		t.Errorf("over TCP: %d %s", w.Code, w.Body)
	}
	for header, value := range map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"} {
		w := ask(h, "POST", act, func(r *http.Request) { unixSocket(r); r.Header.Set(header, value) })
		if w.Code != 403 {
			t.Errorf("with %s %s: %d", header, value, w.Code)
		}
	}
	if len(f.started) != 0 {
		t.Errorf("it began %v", f.started)
	}
	w := ask(h, "POST", act, unixSocket)
	if w.Code != 202 || len(f.started) != 1 || f.started[0] != "web" {
		t.Errorf("over the socket: %d %s, began %v", w.Code, w.Body, f.started)
	}
}

func onlyNamesOfThisMachineAreAnswered(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	h := Handler(f, f)
	for host, ok := range map[string]bool{
		"localhost": true, "localhost:9321": true, "LOCALHOST:1": true, "127.0.0.1:9321": true, "127.3.2.1": true, "[::1]:9321": true, "[::1]": true,
		"evil.example": false, "evil.example:9321": false, "localhost.evil.example": false, "192.168.1.4:9321": false, "": false, "127.0.0.1.evil.example": false, "0.0.0.0": false,
	} {
		w := ask(h, "GET", "/api/v1/report", func(r *http.Request) { r.Host = host })
		if (w.Code == 200) != ok {
			t.Errorf("host %q: %d", host, w.Code)
		}
		if !ok && strings.Contains(w.Body.String(), "web-7") {
			t.Errorf("host %q was told something", host)
		}
	}
}

func answersForbidWhatTheyDoNotNeed(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	for _, path := range []string{"/", "/metrics", "/api/v1/report", "/assets/page.js", "/nowhere"} {
		h := ask(Handler(f, f), "GET", path, nil).Header()
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy lacks %s: %s", path, want, csp)
			}
		}
		if h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s may be sniffed", path)
		}
	}
}

func textOfTheReportStaysText(t *testing.T) {
	t.Parallel()
	f := &fake{r: hostile()}
	for _, path := range []string{"/", "/environments/web"} {
		page := ask(Handler(f, f), "GET", path, nil).Body.String()
		for _, evil := range []string{"<script>document", "<img", "<b>&#x27;", "<style>"} {
			if strings.Contains(page, evil) {
				t.Errorf("%s holds %s", path, evil)
			}
		}
		if !strings.Contains(page, "&lt;script&gt;document.title=") {
			t.Errorf("%s does not show the text", path)
		}
	}
}

func hostileTextsOfTheReportAreShownAsWhatTheyAre(t *testing.T) {
	t.Parallel()
	r := hostile()
	r.Warnings = append(r.Warnings, report.Warning{Time: r.Now, Text: "invoice\u202efdp.exe pay\u200bpal \u009b31m", Tampering: true})
	f := &fake{r: r}
	page := ask(Handler(f, f), "GET", "/", nil).Body.String()
	if !strings.Contains(page, `invoice\u202efdp.exe pay\u200bpal \u009b31m`) || strings.ContainsAny(page, "\u202e\u200b\u009b") {
		t.Error("the page does not show what the text holds")
	}
	if json := ask(Handler(f, f), "GET", "/api/v1/report", nil).Body.String(); strings.ContainsAny(json, "\u202e\u200b\u009b") {
		t.Error("the API's JSON has characters that cannot be shown")
	}
}

func thePageSaysWhatAnOperatorAsks(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	f.r.Storage.UnprotectedAt = f.r.Now
	page := strings.ReplaceAll(ask(Handler(f, f), "GET", "/", nil).Body.String(), "\u00a0", " ")
	for _, want := range []string{
		"web-7", "s3://backups/prod", "db broke its RPO: the newest good snapshot is 3 h 59 min old, 2 h was promised.",
		"503 Slow Down after 5 attempts", `fix the cause, then run: <span class="do"><code class="command">knowngood snapshot db</code>`, "it is tried again by itself at 2026-11-20 10:42 UTC",
		"capture for 40 s, 61,234 files, 858 MiB of about 1.8 GiB", "locked for 29 d", "no RPO", "in 5 min",
		"Last 48 runs of web: 44 success, 1 partial, 2 failed, 1 skipped, the newest: success", "Size of web over 93 runs", "Duration of 95 runs of web",
		"full <strong>in 98 d</strong>", "freed 6.6 GiB", "is no cron expression", "3 times since",
		"An attacker who takes over a host can destroy its history here: ",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Index(page, `id="env-db"`) > strings.Index(page, `id="env-etc"`) {
		t.Error("what is broken does not come first")
	}
	if w := ask(Handler(f, f), "GET", "/environments/nope", nil); w.Code != 404 || !strings.Contains(w.Body.String(), "no environment of this name") {
		t.Errorf("an environment that there is not: %d", w.Code)
	}
}

func manyEnvironmentsHaveTheirChartsOnPagesOfTheirOwn(t *testing.T) {
	t.Parallel()
	f := &fake{r: many()}
	h := Handler(f, f)
	page := ask(h, "GET", "/", nil).Body
	if strings.Contains(page.String(), `class="chart"`) || page.Len() > 1<<20 {
		t.Errorf("the page of fifty environments is too large: %d bytes", page.Len())
	}
	name := f.r.Environments[7].Name
	if !strings.Contains(page.String(), `href="/environments/`+name+`"`) || !strings.Contains(ask(h, "GET", "/environments/"+name, nil).Body.String(), `class="chart"`) {
		t.Error("no way leads to the charts")
	}
}

func longErrorsAreShownInFullOnceEach(t *testing.T) {
	t.Parallel()
	r := sample()
	for i := range r.Environments {
		for j := range r.Environments[i].Runs {
			run := &r.Environments[i].Runs[j]
			run.Result, run.Error = report.Failed, fmt.Sprintf("%d %d %s end", i, j, strings.Repeat("long ", 1600))
		}
	}
	f := &fake{r: r}
	page := ask(Handler(f, f), "GET", "/", nil).Body.String()
	if n := strings.Count(page, " end<"); n != troublesShown+len(r.Environments) {
		t.Errorf("%d errors are in full", n)
	}
	if len(page) > 1<<20 {
		t.Errorf("the page has %d bytes", len(page))
	}
}

func thePageOfAnEnvironmentHasItsTimeline(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample(), timeline: report.Timeline{Missing: "no identity <here>", Steps: []report.TimelineStep{
		{Snapshot: "web@1", Time: now},
		{Snapshot: "web@2", Before: "web@1", Time: now, Added: 1234, Bytes: 3 << 20, Privileged: 7},
		{Snapshot: "web@3", Time: now, Error: "it is damaged"},
	}}}
	h := Handler(f, f)
	body := ask(h, "GET", "/environments/web", nil).Body.String()
	for _, want := range []string{"no identity &lt;here&gt;.", "1,234", size(3 << 20), "<code>knowngood diff web@1 web@2</code>", "it is damaged"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Index(body, "web@3<td>") > strings.Index(body, "web@2<td>") {
		t.Error("the newest snapshot is not the first")
	}
	for _, path := range []string{"/", "/environments/none"} {
		if strings.Contains(ask(h, "GET", path, nil).Body.String(), "What changed") {
			t.Errorf("%s has the timeline of an environment", path)
		}
	}
}
