package generation

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A server that reads from the root is asked all the time during switches and rollbacks: no
// request fails, and none sees two versions.
func TestRequests(t *testing.T) {
	t.Parallel()

	t.Run("none fails during switches", func(t *testing.T) {
		t.Parallel()
		requestsDuringSwitches(t, "link", 3)
	})
}

func requestsDuringSwitches(t *testing.T, method string, times int) {
	w := adopted(t, method)
	server := httptest.NewServer(http.HandlerFunc(w.serve))
	defer server.Close()
	stop := make(chan struct{})
	var asked atomic.Uint64
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := http.Get(server.URL)
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				lines := strings.Split(strings.TrimSpace(string(b)), "\n")
				if err != nil || resp.StatusCode != 200 || len(lines) != 3 || lines[0] != lines[1] || lines[1] != lines[2] {
					t.Errorf("status %d: %q, %v", resp.StatusCode, b, err)
				}
				asked.Add(1)
			}
		})
	}
	o := w.options()
	o.Config.Switch.Stop, o.Config.Switch.Start, o.Config.Switch.AfterSwitch = nil, nil, nil
	for i := range times {
		w.must(switchTo(t.Context(), w, o, 2+i%3, passes))
		w.must(act(t.Context(), w, o, "rollback"))
	}
	close(stop)
	g.Wait()
	if asked.Load() < 50 {
		t.Errorf("only %d requests were asked", asked.Load())
	}
	t.Logf("%d requests during %d switches and as many rollbacks", asked.Load(), times)
}

// serve answers with the version that files of the root have. The root is opened once for a
// request, as by a server that changes into it.
func (w *world) serve(out http.ResponseWriter, _ *http.Request) {
	root, err := os.OpenRoot(w.root())
	if err != nil {
		http.Error(out, err.Error(), http.StatusInternalServerError)
		return
	}
	defer root.Close()
	for _, name := range []string{"d0/0", "d1/1", "d2/2"} {
		b, err := root.ReadFile(name)
		if err != nil {
			http.Error(out, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(out, string(b))
	}
}
