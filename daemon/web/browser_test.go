package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
)

// browser is a Chromium without a window, driven by WebDriver.
type browser struct {
	t       *testing.T
	session string // URL
}

var driverPort = regexp.MustCompile(`successfully on port (\d+)`)

// newBrowser starts one; the test is skipped where there is none.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium: ", err)
	}
	driver, err := exec.LookPath("chromedriver")
	if err != nil {
		t.Skip("no chromedriver (Debian: chromium-driver): ", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	home, err := os.MkdirTemp("", "chromium") // shorter than t.TempDir: its sockets have to fit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	cmd := exec.CommandContext(ctx, driver, "--port=0")
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t}
	t.Cleanup(func() {
		if b.session != "" {
			b.call("DELETE", "", nil, nil)
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	port := ""
	for s := bufio.NewScanner(out); port == "" && s.Scan(); {
		if m := driverPort.FindStringSubmatch(s.Text()); m != nil {
			port = m[1]
		}
	}
	if port == "" {
		t.Fatal("chromedriver did not tell its port")
	}
	base := "http://127.0.0.1:" + port + "/session"
	var made struct{ SessionID string }
	b.session = base
	b.call("POST", "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"goog:loggingPrefs": map[string]string{"browser": "ALL"},
		"goog:chromeOptions": map[string]any{"binary": chromium, "args": []string{
			"--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
			"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + filepath.Join(home, "profile"),
		}},
	}}}, &made)
	b.session = base + "/" + made.SessionID
	return b
}

// call speaks WebDriver; value receives what the answer holds.
func (b *browser) call(method, path string, in, value any) {
	b.t.Helper()
	body := []byte("{}")
	if in != nil {
		body, _ = json.Marshal(in)
	}
	if method == "DELETE" || method == "GET" {
		body = nil
	}
	req, err := http.NewRequest(method, b.session+path, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := struct{ Value json.RawMessage }{}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != 200 {
		b.t.Fatalf("%s %s: %s %v %.2000s", method, path, resp.Status, err, answer.Value)
	}
	if value != nil {
		if err := json.Unmarshal(answer.Value, value); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *browser) open(url string) { b.call("POST", "/url", map[string]string{"url": url}, nil) }

func (b *browser) cdp(cmd string, params map[string]any, value any) {
	b.t.Helper()
	b.call("POST", "/goog/cdp/execute", map[string]any{"cmd": cmd, "params": params}, value)
}

// look sets the width of the page, and its colour scheme.
func (b *browser) look(width int, scheme string) {
	b.t.Helper()
	b.cdp("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.cdp("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// click clicks on an element.
func (b *browser) click(selector string) {
	b.t.Helper()
	var element map[string]string
	b.call("POST", "/element", map[string]string{"using": "css selector", "value": selector}, &element)
	for _, id := range element {
		b.call("POST", "/element/"+id+"/click", nil, nil)
	}
}

// eval runs a script and returns what it returns.
func eval[T any](b *browser, script string) T {
	b.t.Helper()
	var v T
	b.call("POST", "/execute/sync", map[string]any{"script": script, "args": []any{}}, &v)
	return v
}

// until waits for a script to return true.
func (b *browser) until(what, script string) {
	b.t.Helper()
	var ok bool
	b.call("POST", "/execute/async", map[string]any{"args": []any{}, "script": `
		const done = arguments[0], end = Date.now() + 20000;
		(function look() {
			if ((() => {` + script + `})()) done(true);
			else if (Date.now() > end) done(false);
			else setTimeout(look, 30);
		})()`}, &ok)
	if !ok {
		b.t.Errorf("it never came that %s", what)
	}
}

// complaints are what the browser put into its console.
func (b *browser) complaints() []string {
	var entries []struct{ Level, Message string }
	b.call("POST", "/se/log", map[string]string{"type": "browser"}, &entries)
	var out []string
	for _, e := range entries {
		out = append(out, e.Level+" "+e.Message)
	}
	return out
}

// picture keeps a screenshot of the whole page where KNOWNGOOD_SCREENSHOTS
// names a directory, for people.
func (b *browser) picture(name string) {
	dir := os.Getenv("KNOWNGOOD_SCREENSHOTS")
	if dir == "" {
		return
	}
	var shot struct{ Data string }
	b.cdp("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &shot)
	raw, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), raw, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// serve answers on a loopback address.
func serve(t *testing.T, f *fake) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(Handler(f, f))
	t.Cleanup(s.Close)
	return s
}

// measured is what a look at a page found.
type measured struct {
	Overflow []string // what sticks out to the right
	Faint    []string // text with too little contrast
	Split    []string // quantities with a line break in them
	Title    string
}

// measure walks the page. Contrast is that of WCAG 2, against the nearest
// ground that is painted; 4.5 is its level AA.
const measure = `
const out = {overflow: [], faint: [], split: [], title: document.title};
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth > width) out.overflow.push("document " + document.documentElement.scrollWidth + " > " + width);
const rgb = (s) => s.match(/[\d.]+/g).map(Number);
const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
for (const e of document.querySelectorAll("body *")) {
  const box = e.getBoundingClientRect();
  if (!box.width || e.closest(".scroll") || e.closest(".skip")) continue;
  if (box.right > width + 1) out.overflow.push(e.tagName + "." + e.getAttribute("class") + " " + box.right);
  if (e.closest("svg") || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) out.faint.push(e.tagName + "." + e.getAttribute("class") + " " + ratio.toFixed(2) + " " + e.textContent.slice(0, 40));
}
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let n; (n = texts.nextNode());) {
  if (n.parentElement.closest("pre, .said, title")) continue; // text of others is as it is
  for (const m of n.data.matchAll(/\d+[ \u00a0](s|min|h|d|B|[KMGTPE]iB|%)(?!\w)/g)) {
    const range = document.createRange();
    range.setStart(n, m.index);
    range.setEnd(n, m.index + m[0].length);
    const rows = new Set([...range.getClientRects()].map((r) => Math.round(r.top)));
    if (rows.size > 1) out.split.push(n.data.slice(0, 60));
  }
}
return out;`

func TestBrowser(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"the page fits narrow and wide and reads light and dark":                       thePageFitsNarrowAndWideAndReadsLightAndDark,
		"the page refreshes without losing focus, scroll position or what is unfolded": thePageStaysFreshWithoutLosingFocusScrollOrWhatIsUnfolded,
		"a command is copied with a button":                                            aCommandIsCopiedWithAButton,
		"the page is complete without scripts":                                         thePageIsWholeWithoutScript,
	} {
		t.Run(name, test)
	}
}

func thePageFitsNarrowAndWideAndReadsLightAndDark(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	empty := sample()
	empty.Environments, empty.Prune, empty.Storage, empty.Warnings = nil, nil, report.Storage{}, nil
	fresh := sample()
	fresh.Environments = []report.Environment{{Name: "new", RPOSeconds: 3600, AgeSeconds: -1}}
	type page struct {
		name, path string
		r          report.Report
	}
	pages := []page{
		{"sample", "/", sample()}, {"one", "/environments/db", sample()}, {"empty", "/", empty}, {"fresh", "/", fresh},
		{"many", "/", many()}, {"hostile", "/", hostile()}, {"hostile-one", "/environments/db", hostile()},
		{"three-bad", "/", host("failed", "suspect", "good")}, {"three-new", "/", host("first", "died", "interrupted")}, {"three-late", "/", host("overdue", "never", "partial")},
		{"twenty-four", "/", tampered(twentyFour())}, {"unusable", "/", unusable(host("good"))},
	}
	all := os.Getenv("KNOWNGOOD_SLOW") != ""
	if all { // the same parts, each by itself
		pages = append(pages, page{"calm", "/", twentyFour()}, page{"misconfigured", "/", misconfigured(host("good"))},
			page{"tampered", "/", tampered(host("good"))}, page{"tampered-one", "/environments/good", tampered(host("good"))})
		for _, s := range states {
			pages = append(pages, page{"state-" + s, "/", host(s)})
		}
	}
	for _, c := range pages {
		s := serve(t, &fake{r: c.r})
		for _, width := range []int{360, 820, 1440} {
			for _, scheme := range []string{"light", "dark"} {
				if scheme == "dark" && width != 820 && !all {
					continue // colours do not depend on the width
				}
				name := fmt.Sprintf("%s-%d-%s", c.name, width, scheme)
				b.look(width, scheme)
				b.open(s.URL + c.path)
				eval[any](b, `document.querySelectorAll("details").forEach((d) => d.open = true)`)
				m := eval[measured](b, measure)
				for _, o := range m.Overflow {
					t.Errorf("%s sticks out: %s", name, o)
				}
				for _, f := range m.Faint {
					t.Errorf("%s is hard to read: %s", name, f)
				}
				for _, s := range m.Split {
					t.Errorf("%s has a line break between a number and its unit: %s", name, s)
				}
				if m.Title == "taken" {
					t.Errorf("%s: text of the report ran as a script", name)
				}
				b.picture(name)
			}
		}
	}
	for _, c := range b.complaints() {
		t.Errorf("the browser complains: %s", c)
	}
}

func thePageStaysFreshWithoutLosingFocusScrollOrWhatIsUnfolded(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	f := &fake{r: sample()}
	s := serve(t, f)
	b.look(820, "light")
	b.open(s.URL)
	before := eval[float64](b, `
		const d = document.querySelector("#env-etc details");
		d.open = true;
		d.querySelector("summary").focus({preventScroll: true});
		scrollTo(0, 300);
		window.kept = d;
		return scrollY;`)
	f.set(func(r *report.Report) {
		r.Now = r.Now.Add(time.Hour)
		r.Environments = append(r.Environments, report.Environment{Name: "added", AgeSeconds: -1})
	})
	b.until("the new environment is shown", `
		document.dispatchEvent(new Event("visibilitychange"));
		return !!document.getElementById("env-added");`)
	kept := eval[[]bool](b, fmt.Sprintf(`
		const d = document.querySelector("#env-etc details");
		return [d === window.kept, d.open, document.activeElement === d.querySelector("summary"), Math.abs(scrollY - %f) < 400];`, before))
	for i, what := range []string{"the element itself", "that it is unfolded", "the focus", "the place on the page"} {
		if !kept[i] {
			t.Errorf("lost %s", what)
		}
	}
	s.CloseClientConnections()
	s.Close()
	b.until("the page says that nothing answers", `
		document.dispatchEvent(new Event("visibilitychange"));
		return document.getElementById("live").textContent.startsWith("no answer since");`)
}

func aCommandIsCopiedWithAButton(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	s := serve(t, &fake{r: host("failed")})
	b.open(s.URL)
	b.cdp("Browser.grantPermissions", map[string]any{"origin": s.URL, "permissions": []string{"clipboardReadWrite", "clipboardSanitizedWrite"}}, nil)
	b.click(".copy")
	b.until("the button says so", `return document.querySelector(".copy").textContent === "Copied"`)
	var got string
	b.call("POST", "/execute/async", map[string]any{"args": []any{}, "script": `navigator.clipboard.readText().then(arguments[0], (e) => arguments[0]("not read: " + e))`}, &got)
	if got != "knowngood snapshot failed" {
		t.Errorf("the clipboard has %q", got)
	}

	// Where the browser does not allow it, the command is selected.
	eval[any](b, `navigator.clipboard.writeText = () => Promise.reject(new Error("no")); getSelection().removeAllRanges()`)
	b.click(".copy")
	b.until("the command is selected", `return getSelection().toString() === "knowngood snapshot failed"`)
}

func thePageIsWholeWithoutScript(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	s := serve(t, &fake{r: sample()})
	b.cdp("Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)
	b.open(s.URL)
	var source string
	b.call("GET", "/source", nil, &source)
	if eval[bool](b, `return !!document.querySelector(".copy").getClientRects().length`) {
		t.Error("a button is shown that does nothing")
	}
	for _, want := range []string{"broke its RPO", "env-web", "503 Slow Down", "<svg class=\"strip\""} {
		if !strings.Contains(source, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
