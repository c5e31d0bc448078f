package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

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

func TestEveryEndpointAnswers(t *testing.T) {
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
		"/environments/web":             "web is within its RPO",
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

func TestTheReportComesThroughTheAPIAsItIs(t *testing.T) {
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

func TestErrorsAreJSONAndSayWhy(t *testing.T) {
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

func TestADaemonThatIsNotReadySaysWhy(t *testing.T) {
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

func TestNobodyActsOverTCPOrFromAPageElsewhere(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	h := Handler(f, f)
	const act = "/api/v1/environments/web/snapshot"
	if w := ask(h, "POST", act, nil); w.Code != 403 || !strings.Contains(w.Body.String(), "Unix socket alone") {
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

func TestOnlyNamesOfThisMachineAreAnswered(t *testing.T) {
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

func TestAnswersForbidWhatTheyDoNotNeed(t *testing.T) {
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

func TestTextOfTheReportStaysText(t *testing.T) {
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

func TestThePageSaysWhatAnOperatorAsks(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	page := ask(Handler(f, f), "GET", "/", nil).Body.String()
	for _, want := range []string{
		"web-7", "s3://backups/prod", "db broke its RPO: the newest good snapshot is 3 h 59 min old, 2 h was promised.",
		"503 Slow Down after 5 attempts", "mend the cause, then run: knowngood snapshot db; it is tried again by itself at 2026-11-20 10:42 UTC",
		"capture for 40 s, 61,234 files, 858 MiB of about 1.8 GiB", "locked for 29 d", "no RPO", "in 5 min",
		"Last 48 runs of web: 44 success, 1 partial, 2 failed, 1 skipped, the newest: success", "Size of web over 93 runs", "Duration of 95 runs of web",
		"full <strong>in 98 d</strong>", "freed 6.6 GiB", "is no cron expression", "3 times since",
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

func TestManyEnvironmentsHaveTheirChartsOnPagesOfTheirOwn(t *testing.T) {
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

func TestLongErrorsAreShownInFullOnceEach(t *testing.T) {
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

// socket is a path that fits into a socket's address.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "api.sock")
}

// daemon serves f at addr until stop is called, which says how serving ended.
func daemon(t *testing.T, addr string, f *fake) (at string, stop func() error) {
	t.Helper()
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, Handler(f, f)) }()
	stop = func() error { cancel(); return <-ended }
	if strings.HasPrefix(addr, "unix:") {
		return addr, stop
	}
	return l.Addr().String(), stop
}

func dial(t *testing.T, addr string) *Client {
	t.Helper()
	c, err := Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	c.every = time.Millisecond
	t.Cleanup(c.Close)
	return c
}

func TestADaemonIsAskedOverItsSocketAndItsPort(t *testing.T) {
	defer goleak.VerifyNone(t)
	path := socket(t)
	for _, listen := range []string{"unix://" + path, "127.0.0.1:0", "tcp://localhost:0"} {
		f := &fake{r: sample()}
		addr, stop := daemon(t, listen, f)
		c := dial(t, addr)
		r, err := c.Report(t.Context())
		if err != nil || r.Host != "web-7" || len(r.Environments) != 3 {
			t.Errorf("%s: %v %v", listen, r, err)
		}
		c.Close()
		if err := stop(); err != nil {
			t.Errorf("%s ended with %v", listen, err)
		}
		if _, err := c.Report(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "systemctl start knowngood") {
			t.Errorf("%s: a daemon that was stopped: %v", listen, err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket stays behind: %v", err)
	}
}

func TestOnlyTheSocketsGroupMayAsk(t *testing.T) {
	t.Parallel()
	path := socket(t)
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestTheSocketOfADeadDaemonIsTakenOverAndThatOfALiveOneIsNot(t *testing.T) {
	t.Parallel()
	path := socket(t)
	os.MkdirAll(filepath.Dir(path), 0o755)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	live, err := Listen("unix://" + path)
	if err != nil {
		t.Fatalf("a dead daemon's: %v", err)
	}
	if _, err := Listen("unix://" + path); err == nil || !strings.Contains(err.Error(), "a daemon runs already") {
		t.Errorf("a live daemon's: %v", err)
	}
	live.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix://" + path); err == nil || !strings.Contains(err.Error(), "something else than a socket") {
		t.Errorf("a file: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is lost")
	}
}

func TestAnAddressThatOthersReachIsRefused(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0:9321", ":9321", "192.168.1.1:9321", "example.com:1", "unix://relative", "http://localhost:1", ""} {
		if l, err := Listen(addr); err == nil {
			l.Close()
			t.Errorf("it listens at %q", addr)
		}
		if _, err := Dial(addr); err == nil {
			t.Errorf("it dials %q", addr)
		}
	}
}

func TestARunIsAskedForAndWaitedFor(t *testing.T) {
	t.Parallel()
	f := &fake{r: sample()}
	f.start = func(env string) error { // called with the lock held
		if env != "web" {
			return ErrUnknown
		}
		e := find(&f.r, "web")
		if len(f.started) > 1 {
			return ErrRunning
		}
		e.Running = &report.Progress{Started: f.r.Now, Phase: "capture", Files: 7}
		return nil
	}
	addr, stop := daemon(t, "unix://"+socket(t), f)
	defer stop()
	c := dial(t, addr)
	looks := 0
	run, err := c.Snapshot(t.Context(), "web", func(p report.Progress) {
		if p.Files != 7 {
			t.Errorf("progress %v", p)
		}
		if looks++; looks == 3 {
			f.set(func(r *report.Report) {
				e := *find(r, "web")
				e.Running, e.Last = nil, &report.Run{Started: r.Now, Finished: r.Now.Add(time.Second), Result: report.Success, Snapshot: "web@500"}
				envs := append([]report.Environment{e}, r.Environments[2:]...)
				r.Environments = envs
			})
		}
	})
	if err != nil || run.Snapshot != "web@500" {
		t.Errorf("%v %v", run, err)
	}
	if _, err := c.Snapshot(t.Context(), "web", nil); !errors.Is(err, ErrRunning) {
		t.Errorf("running already: %v", err)
	}
	if _, err := c.Snapshot(t.Context(), "no such", nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
}

func TestWhatIsNoDaemonIsToldFromOne(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }))
	defer s.Close()
	if _, err := dial(t, s.Listener.Addr().String()).Report(t.Context()); err == nil || !strings.Contains(err.Error(), "no knowngood daemon") {
		t.Error(err)
	}
}
