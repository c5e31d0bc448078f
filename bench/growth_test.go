package main

import (
	"testing"

	"knowngood/internal/enginetest"
)

func TestMain(m *testing.M) {
	if err := enginetest.InMemory(); err != nil {
		panic(err)
	}
	m.Run()
}

func TestGrowth(t *testing.T) {
	lengths := []int{30, 120}
	if enginetest.Slow() {
		lengths = []int{100, 600}
	}
	costs := growHistory(t, lengths)
	for _, r := range growthRows() {
		t.Run(r.name+" stays within its bound", func(t *testing.T) {
			first, last := costs[0], costs[len(costs)-1]
			e, bound := r.exponent(first, last), r.bound(first, last)
			t.Logf("%d for %d snapshots, %d for %d: grows with the power %.2f", r.of(first), first.snapshots, r.of(last), last.snapshots, e)
			if e > bound {
				t.Errorf("it grows with the power %.2f, at most %.2f is wanted", e, bound)
			}
		})
	}
	t.Run("a changed snapshot stores at most 16 KiB beside its content", func(t *testing.T) {
		for _, c := range costs {
			if each := (c.stored - c.content) / int64(c.snapshots); each > 16<<10 {
				t.Errorf("%d snapshots: %d bytes each", c.snapshots, each)
			}
		}
	})
}
