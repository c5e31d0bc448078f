package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"knowngood/configs"
	"knowngood/daemon/report"

	"go.uber.org/zap"
)

// Secrets of the channels in these tests; none may ever be printed.
const (
	secretPath   = "T0KEN-in-the-path"
	secretQuery  = "T0KEN-in-the-query"
	secretHeader = "T0KEN-in-a-header"
	secretUser   = "T0KEN-of-the-user"
)

// request is what a server got.
type request struct {
	method, path, query, body string
	header                    http.Header
}

// server answers and remembers.
func server(t *testing.T, answer http.HandlerFunc) (*httptest.Server, <-chan request) {
	t.Helper()
	got := make(chan request, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- request{r.Method, r.URL.Path, r.URL.RawQuery, string(body), r.Header}
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s, got
}

// hooked is the webhook for a server, with secrets in every place.
func hooked(s *httptest.Server, template string) configs.Webhook {
	return configs.Webhook{
		URL:     strings.Replace(s.URL, "http://", "http://bot:"+secretUser+"@", 1) + "/hooks/" + secretPath + "?token=" + secretQuery,
		Headers: map[string]string{"X-Auth": secretHeader}, Template: template,
	}
}

// sendBy sends one message by a webhook.
func sendBy(t *testing.T, w configs.Webhook, m Message) error {
	t.Helper()
	n, _ := notifier(t, configs.Notify{Webhook: []configs.Webhook{w}})
	return n.channels[0].send(t.Context(), n.complete(m))
}

func noSecret(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, "T0KEN") {
		t.Errorf("a secret is told: %s", text)
	}
}

func TestWeb(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"a webhook gets the message as JSON":                            aWebhookGetsTheMessageAsJSON,
		"a template makes the body":                                     aTemplateMakesTheBody,
		"the answer decides whether to try again":                       anAnswerSaysWhetherToTryAgain,
		"a redirect is not followed":                                    aRedirectIsNotFollowed,
		"a server that does not answer is given up after a time":        aServerThatDoesNotAnswerIsLeftAfterATime,
		"network errors hold no secrets":                                errorsOfTheNetworkTellNoSecrets,
		"pings report the results of runs":                              pingsSayHowRunsGo,
		"a ping that is too long for its monitor is sent shortened":     aPingThatIsTooLongForItsMonitorIsSentShortened,
		"the monitor of an environment replaces the one for all":        aMonitorOfAnEnvironmentTakesThePlaceOfTheOneForAll,
		"no secret of a channel that fails is logged":                   nothingOfAChannelThatFailsIsLogged,
		"a test reports on each channel":                                aTestReportsOnEachChannel,
		"a message that is too long for its receiver is sent shortened": aMessageThatIsTooLongForItsReceiverIsSentShortened,
	} {
		t.Run(name, test)
	}
}

func aWebhookGetsTheMessageAsJSON(t *testing.T) {
	t.Parallel()
	s, got := server(t, nil)
	if err := sendBy(t, hooked(s, ""), failure()); err != nil {
		t.Fatal(err)
	}
	r := <-got
	user, password, _ := (&http.Request{Header: r.header}).BasicAuth()
	if r.method != "POST" || r.path != "/hooks/"+secretPath || r.query != "token="+secretQuery || user != "bot" || password != secretUser {
		t.Errorf("%s %s?%s by %s", r.method, r.path, r.query, user)
	}
	for name, want := range map[string]string{"Content-Type": "application/json", "X-Auth": secretHeader, "User-Agent": "knowngood/1.2.3"} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(r.body), &m); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"kind": "failure", "host": "web-7", "environment": "db", "repository": "s3://backups/prod", "version": "1.2.3", "failures": 3.0, "time": "2026-11-24T10:00:00Z", "title": "web-7/db: snapshot failed"} {
		if m[name] != want {
			t.Errorf("%s is %v, want %v", name, m[name], want)
		}
	}
	if run, _ := m["run"].(map[string]any); run["error"] != "no such database" {
		t.Errorf("run is %v", m["run"])
	}
	noSecret(t, r.body)
}

func aTemplateMakesTheBody(t *testing.T) {
	t.Parallel()
	m := failure()
	m.Text = "say \"no\"\nand <more>"
	for template, want := range map[string]request{
		`{"text": {{json .Text}}}`:                               {body: `{"text": "say \"no\"\nand \u003cmore\u003e"}`, path: "application/json"},
		`{{.Kind}} on {{.Host}}{{with .Run}}: {{.Error}}{{end}}`: {body: "failure on web-7: no such database", path: "text/plain; charset=utf-8"},
	} {
		s, got := server(t, nil)
		if err := sendBy(t, hooked(s, template), m); err != nil {
			t.Fatal(err)
		}
		if r := <-got; r.body != want.body || r.header.Get("Content-Type") != want.path {
			t.Errorf("%s made %s of type %s", template, r.body, r.header.Get("Content-Type"))
		}
	}
}

func anAnswerSaysWhetherToTryAgain(t *testing.T) {
	t.Parallel()
	for code, again := range map[int]bool{500: true, 502: true, 503: true, 429: true, 408: true, 400: false, 401: false, 404: false, 410: false} {
		s, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			fmt.Fprintf(w, "invalid_payload at %s with %s", r.URL, r.Header.Get("X-Auth"))
		})
		err := sendBy(t, hooked(s, ""), failure())
		if err == nil {
			t.Errorf("%d passes for success", code)
			continue
		}
		if _, permanent := err.(permanentError); permanent == again {
			t.Errorf("%d: try again is %v, want %v", code, !permanent, again)
		}
		if !strings.Contains(err.Error(), fmt.Sprint(s.URL, ": ", code)) || !strings.Contains(err.Error(), "invalid_payload at (hidden)?(hidden) with (hidden)") {
			t.Errorf("%d: %v", code, err)
		}
		noSecret(t, err.Error())
	}
	s, _ := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	if err := sendBy(t, hooked(s, ""), failure()); err != nil {
		t.Errorf("204: %v", err)
	}
}

func aRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var asked atomic.Bool
	other, _ := server(t, func(http.ResponseWriter, *http.Request) { asked.Store(true) })
	for _, code := range []int{301, 302, 303, 307, 308} {
		s, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/"+secretPath, code)
		})
		err := sendBy(t, hooked(s, ""), failure())
		if err == nil || asked.Load() || !strings.Contains(err.Error(), "redirects to "+other.URL+",") {
			t.Errorf("%d: %v, the other was asked: %v", code, err, asked.Load())
		} else {
			noSecret(t, err.Error())
		}
	}
}

func aServerThatDoesNotAnswerIsLeftAfterATime(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	for name, answer := range map[string]http.HandlerFunc{
		"no answer": func(http.ResponseWriter, *http.Request) { <-release },
		"half of one": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
			<-release
		},
	} {
		s, _ := server(t, answer)
		n, _ := notifier(t, configs.Notify{Webhook: []configs.Webhook{hooked(s, "")}})
		w := n.channels[0].(*webhook)
		w.client.timeout = 200 * time.Millisecond
		err := w.send(t.Context(), n.complete(failure()))
		if err == nil {
			t.Errorf("%s passes for success", name)
		} else {
			noSecret(t, err.Error())
		}
	}
	close(release)
}

func errorsOfTheNetworkTellNoSecrets(t *testing.T) {
	t.Parallel()
	s, _ := server(t, nil)
	w := hooked(s, "")
	s.Close()
	closed := sendBy(t, w, failure())
	bad := sendBy(t, configs.Webhook{URL: w.URL, Headers: map[string]string{"X-Auth": secretHeader + "\n"}}, failure())
	tls, _ := server(t, nil)
	noTLS := sendBy(t, configs.Webhook{URL: strings.Replace(tls.URL, "http:", "https:", 1) + "/" + secretPath}, failure())
	noHost := sendBy(t, configs.Webhook{URL: "http://no-such-host.invalid/" + secretPath}, failure())
	for _, err := range []error{closed, bad, noTLS, noHost} {
		if err == nil {
			t.Error("it passes for success")
			continue
		}
		noSecret(t, err.Error())
	}
	if !strings.Contains(closed.Error(), "connection refused") {
		t.Error(closed)
	}
}

func pingsSayHowRunsGo(t *testing.T) {
	t.Parallel()
	s, got := server(t, nil)
	n, _ := notifier(t, configs.Notify{Ping: s.URL + "/" + secretPath + "?create=1"})
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	run := &report.Run{Result: report.Success, Snapshot: "web@42", Started: began, Finished: began.Add(90 * time.Second)}
	n.Ping(Started, "web", nil)
	n.Ping(Succeeded, "web", run)
	n.Ping(Failing, "web", &report.Run{Result: report.Failed, Error: "no space left"})
	cancel()
	n.Run(ctx)
	for _, want := range []request{
		{path: "/" + secretPath + "/start", body: "web-7/web: started"},
		{path: "/" + secretPath, body: "web-7/web: success, web@42 in 1m30s"},
		{path: "/" + secretPath + "/fail", body: "web-7/web: failed: no space left"},
	} {
		if r := <-got; r.method != "POST" || r.path != want.path || r.body != want.body || r.query != "create=1" {
			t.Errorf("%+v, want %+v", r, want)
		}
	}
}

func aPingThatIsTooLongForItsMonitorIsSentShortened(t *testing.T) {
	t.Parallel()
	s, got := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 1000 {
			w.WriteHeader(413)
		}
	})
	n, logs := notifier(t, configs.Notify{Ping: s.URL})
	ctx, cancel := context.WithCancel(t.Context())
	n.Ping(Failing, "web", &report.Run{Result: report.Failed, Error: strings.Repeat("x", 5000)})
	cancel()
	n.Run(ctx)
	if len(got) != 3 || logs.FilterLevelExact(zap.ErrorLevel).Len() > 0 {
		t.Fatalf("%d pings were posted, the log: %v", len(got), logs.All())
	}
	<-got
	<-got
	if r := <-got; r.path != "/fail" || !strings.HasPrefix(r.body, "web-7/web: failed: xxx") || !strings.HasSuffix(r.body, "… (truncated)") {
		t.Errorf("%+v", r)
	}
}

func aMonitorOfAnEnvironmentTakesThePlaceOfTheOneForAll(t *testing.T) {
	t.Parallel()
	s, got := server(t, nil)
	for _, all := range []string{s.URL + "/all", ""} {
		n, err := New(configs.Notify{Ping: all}, Options{Host: "web-7", Pings: map[string]string{"db": s.URL + "/db"}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		n.Ping(Started, "web", nil)
		n.Ping(Started, "db", nil)
		n.Ping(Started, "mail", nil)
		cancel()
		n.Run(ctx)
		var bodies []string
		for len(got) > 0 {
			r := <-got
			bodies = append(bodies, r.path+" "+r.body)
		}
		slices.Sort(bodies)
		want := []string{"/all/start web-7/mail: started", "/all/start web-7/web: started", "/db/start web-7/db: started"}
		if all == "" {
			want = want[2:]
		}
		if !slices.Equal(bodies, want) {
			t.Errorf("%q, want %q", bodies, want)
		}
	}
}

func nothingOfAChannelThatFailsIsLogged(t *testing.T) {
	t.Parallel()
	s, _ := server(t, nil)
	w := hooked(s, "")
	s.Close()
	n, logs := notifier(t, configs.Notify{Webhook: []configs.Webhook{w}, Ping: w.URL})
	n.Send(failure())
	n.Ping(Started, "web", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.Run(ctx)
	if logs.Len() != 2 {
		t.Errorf("%d lines are logged, want 2", logs.Len())
	}
	for _, entry := range logs.All() {
		var b bytes.Buffer
		fmt.Fprint(&b, entry.Message, entry.ContextMap())
		noSecret(t, b.String())
	}
}

func aTestReportsOnEachChannel(t *testing.T) {
	t.Parallel()
	good, got := server(t, nil)
	bad, _ := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
	n, _ := notifier(t, configs.Notify{Webhook: []configs.Webhook{hooked(good, ""), hooked(bad, "")}, Command: []string{"no-such-program"}, Ping: good.URL})
	tests := n.Test(t.Context())
	if len(tests) != 3 || tests[0].Err != nil || tests[1].Err == nil || tests[2].Err == nil {
		t.Fatalf("%+v", tests)
	}
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(good.URL, "http://"))
	if tests[0].Channel != "webhook http://127.0.0.1:"+port || tests[2].Channel != "command no-such-program" {
		t.Errorf("%+v", tests)
	}
	if r := <-got; !strings.Contains(r.body, `"kind":"test"`) || len(got) > 0 {
		t.Errorf("%+v, and %d more", r, len(got))
	}
}

func aMessageThatIsTooLongForItsReceiverIsSentShortened(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code     int
		template string
		text     string
		run      func(*report.Run)
		bodies   int // that were posted
		ok       bool
	}{
		"a long text":                  {400, "{{.Text}}", strings.Repeat("ä", 2500), nil, 2, true},
		"a long error":                 {413, "{{.Run.Error}}", "short", func(r *report.Run) { r.Error = strings.Repeat("ä", 2500) }, 2, true},
		"many reasons":                 {422, "{{.Run.Suspect}}", "short", func(r *report.Run) { r.Suspect = slices.Repeat([]string{strings.Repeat("ä", 50)}, 100) }, 2, true},
		"a receiver that takes little": {400, strings.Repeat("x", 1300) + "{{.Text}}", strings.Repeat("ä", 2500), nil, 3, true},
		"no long text":                 {400, "{{.Text}}" + strings.Repeat("x", 3000), "short", nil, 1, false},
		"a password is wrong":          {401, "{{.Text}}", strings.Repeat("ä", 2500), nil, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, got := server(t, func(w http.ResponseWriter, r *http.Request) {
				if r.ContentLength > 2000 {
					w.WriteHeader(c.code)
				}
			})
			m := failure()
			m.Text = c.text
			if c.run != nil {
				c.run(m.Run)
			}
			if err := sendBy(t, hooked(s, c.template), m); (err == nil) != c.ok {
				t.Errorf("it ended with %v", err)
			}
			if len(got) != c.bodies {
				t.Fatalf("%d bodies were posted, want %d", len(got), c.bodies)
			}
			if !c.ok {
				return
			}
			for range c.bodies - 1 {
				<-got
			}
			if body := (<-got).body; !strings.HasSuffix(strings.TrimRight(body, "]"), "… (truncated)") || !utf8.ValidString(body) || len(body) < 1400 {
				t.Errorf("%d bytes were posted: %s", len(body), body)
			}
		})
	}
}
