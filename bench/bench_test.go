package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knowngood/internal/treetest"
)

func TestBench(t *testing.T) {
	t.Run("changes touch their share and are taken back", func(t *testing.T) {
		for name, change := range map[string]func(string, int) (func() error, error){"files": appendToFiles, "runs": overwriteRuns} {
			t.Run(name, func(t *testing.T) {
				root := t.TempDir()
				tr := &tree{path: filepath.Join(root, "tree"), dirty: filepath.Join(root, "tree.dirty"), change: change}
				if err := os.Mkdir(tr.path, 0o755); err != nil {
					t.Fatal(err)
				}
				for i := range 300 {
					size := 10
					if i == 0 {
						size = 500*runBytes + 7
					}
					if err := os.WriteFile(filepath.Join(tr.path, "file-"+strings.Repeat("x", i/26)+string(rune('a'+i%26))), make([]byte, size), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				before := treetest.Snapshot(t, tr.path)
				c := changes{tree: tr}
				last := before
				for range 2 {
					if err := c.apply(); err != nil {
						t.Fatal(err)
					}
					now := treetest.Snapshot(t, tr.path)
					if len(last.Compare(now, treetest.Options{})) == 0 {
						t.Fatal("a round changed nothing")
					}
					last = now
				}
				if _, err := os.Stat(tr.dirty); err != nil {
					t.Errorf("a changed tree is not marked: %v", err)
				}
				if err := c.undo(); err != nil {
					t.Fatal(err)
				}
				for _, d := range before.Compare(treetest.Snapshot(t, tr.path), treetest.Options{}) {
					if d.Kind != treetest.Mtime {
						t.Errorf("not taken back: %v", d)
					}
				}
				if _, err := os.Stat(tr.dirty); !os.IsNotExist(err) {
					t.Errorf("the marker is still there: %v", err)
				}
			})
		}
	})

	t.Run("the proxy delays each request on its own and counts", func(t *testing.T) {
		var host string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host = r.Host
			_, _ = io.Copy(w, r.Body)
		}))
		defer server.Close()
		const delay = 200 * time.Millisecond
		p, err := startProxy(server.URL, delay)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		const together = 8
		start, errs := time.Now(), make(chan error, together)
		for range together {
			go func() {
				resp, err := http.Post(p.URL+"/x", "text/plain", strings.NewReader("hello"))
				if err == nil {
					var b []byte
					b, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if err == nil && string(b) != "hello" {
						t.Errorf("got %q back", b)
					}
				}
				errs <- err
			}()
		}
		for range together {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < delay || took >= together*delay {
			t.Errorf("%d requests at once took %v with %v added to each", together, took, delay)
		}
		if "http://"+host != p.URL {
			t.Errorf("the server saw host %s, which is not what was signed", host)
		}
		if got := p.take(); got.requests != together || got.methods["POST"] != together || got.uploaded != together*5 {
			t.Errorf("counted %+v", got)
		}
		if got := p.take(); got.requests != 0 {
			t.Errorf("counted twice: %+v", got)
		}
	})

	t.Run("time and memory of children are measured", func(t *testing.T) {
		script := `x=$(head -c 30000000 /dev/zero | tr '\0' a); sleep 0.3; echo ${#x} >/dev/null`
		s, err := measure(context.Background(), command{argv: []string{"bash", "-c", "bash -c '" + strings.ReplaceAll(script, "'", `'\''`) + "'; true"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		if s.Wall < 0.3 || s.Peak < 25<<20 || s.User+s.System <= 0 {
			t.Errorf("measured %+v", s)
		}
		if _, err := measure(context.Background(), command{argv: []string{"sh", "-c", "echo broken; exit 3"}}, false); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Errorf("a command that fails: %v", err)
		}
	})

	t.Run("rows are judged by their targets", func(t *testing.T) {
		r := &report{}
		for i, wall := range []float64{9, 4, 5} {
			r.add(sectionA, stepFirst, nameOurs, i, Sample{Wall: wall, Peak: 170 << 20})
			r.add(sectionA, stepFirst, nameRestic, i, Sample{Wall: 10})
		}
		rows := r.rows(sectionA)
		byMetric := make(map[string]row)
		for _, row := range rows {
			byMetric[row.Metric] = row
		}
		if w := byMetric[metricWall]; w.Sides[nameOurs] != (stats{5, 4, 9}) || w.Ratio != 0.5 || !w.Met {
			t.Errorf("wall time: %+v", w)
		}
		if p := byMetric[metricPeak]; p.Target == nil || p.Met {
			t.Errorf("peak memory: %+v", p)
		}
		if _, ok := byMetric[metricRequests]; ok {
			t.Error("requests are reported though there were none")
		}
		if got := strings.Join(table(rows)[1], "|"); got != "first capture|wall|5 s (4–9)|10 s|0.50|≤ 0.50|met" {
			t.Errorf("the line reads %s", got)
		}
	})

	t.Run("tables replace what stands between their markers", func(t *testing.T) {
		document := "head\n<!-- bench A -->\nold\n<!-- end of bench A -->\ntail\n"
		got, err := replaceSection(document, sectionA, "new\n")
		if err != nil || got != "head\n<!-- bench A -->\n\nnew\n\n<!-- end of bench A -->\ntail\n" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := replaceSection(document, sectionB, "new"); err == nil {
			t.Error("missing markers are no error")
		}
		page, err := os.ReadFile("../docs/PERFORMANCE.md")
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range sections() {
			if _, err := replaceSection(string(page), section, "new"); err != nil {
				t.Errorf("docs/PERFORMANCE.md: %v", err)
			}
		}
	})
}
