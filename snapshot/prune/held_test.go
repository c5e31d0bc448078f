package prune_test

import (
	"testing"
	"time"

	"knowngood/snapshot/prune"
)

// Little content is in no index run, so whoever prunes elsewhere does not know that
// the host still has it in its index.
func TestDeletedElsewhere(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves it out")
	}
	t.Run("is no loss to a host that holds its index", func(t *testing.T) {
		for name, every := range map[string]int{"captured every day": 1, "captured every nine days": 9} {
			t.Run(name, func(t *testing.T) {
				simulated(t, memory, func(w *world) {
					w.Apart = false
					for i := range uint64(24) {
						w.write("changing", 3000)
						w.capture("web")
						for _, warning := range w.Warnings() {
							t.Errorf("capture %d: warning: %v", i+1, warning)
						}
						if i >= 2 {
							w.forget("web", i-1)
						}
						for range every {
							if _, err := prune.Run(w.Ctx, w.Bare(), prune.Options{}); err != nil {
								t.Fatal(err)
							}
							w.Warnings()
							time.Sleep(day)
						}
					}
					w.Clean()
				})
			})
		}
	})
}
