package runner

import (
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
	"knowngood/internal/outside"
)

func TestHooks(t *testing.T) {
	t.Parallel()

	t.Run("what describes a run reaches hooks outside", func(t *testing.T) {
		t.Parallel()
		r := &Runner{Host: "h", Repository: "r"}
		run := report.Run{Trigger: "schedule", Started: time.Now(), Result: report.Partial, Snapshot: "web@1", Error: "e", Files: 1, Bytes: 1, NewBytes: 1, StoredBytes: 1, Problems: 1}
		names := []string{"KNOWNGOOD_HOOK"}
		for _, v := range r.environ("web", &run) {
			name, _, _ := strings.Cut(v, "=")
			names = append(names, name)
		}
		slices.Sort(names)
		if !slices.Equal(names, outside.Variables) {
			t.Errorf("hooks have %q\noutside %q", names, outside.Variables)
		}
	})
}
