package report

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestDrift(t *testing.T) {
	t.Parallel()

	t.Run("what drifted is bounded and the worst is kept", func(t *testing.T) {
		t.Parallel()
		name := strings.Repeat("n", 63)
		var all []Drifted
		for i := range 50 {
			d := Drifted{Environment: name + "/" + name, From: name + "/" + name + "@4294967296", To: name + "/" + name + "@4294967297", Paths: i, First: []string{strings.Repeat("p", 4096), strings.Repeat("q", 4096), strings.Repeat("r", 4096)}, ExitCode: 14}
			if i == 0 {
				d = Drifted{Environment: "damaged/web", Error: strings.Repeat("e", 4096), ExitCode: 13}
			}
			all = append(all, d)
		}
		var run Run
		run.SetDrifted(all)
		b, err := json.Marshal(run)
		if err != nil || len(b) > 7<<10 { // the state of a job, 16 KiB, has two
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if run.Result != Failed || run.Drifted[0].ExitCode != 13 || run.Drifted[1].Paths != 49 || !strings.HasPrefix(run.Error, "damaged/web could not be compared: e") {
			t.Errorf("%s: %s; %+v", run.Result, run.Error, run.Drifted)
		}
		for want, d := range map[string]Drifted{
			"web: 5 paths differ from web@1 to this machine: changed /a, added /b, and 3 more; next: knowngood drift web (--fix puts it back)": {Environment: "web", From: "web@1", To: "this machine", Paths: 5, First: []string{"changed /a", "added /b"}, ExitCode: 14},
			"web: 1 path could not be compared": {Environment: "web", Problems: 1, ExitCode: 3},
			"web: nothing differs from web@1":   {Environment: "web", From: "web@1"},
		} {
			if got := d.Text(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		again := Run{}
		if again.SetDrifted([]Drifted{{Environment: "web"}}); again.Result != Success {
			t.Errorf("%+v", again)
		}
		if again.SetDrifted([]Drifted{{Environment: "web", Paths: 1, ExitCode: 14}}); again.Result != Partial {
			t.Errorf("%+v", again)
		}
	})
}
