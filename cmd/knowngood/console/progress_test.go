package console

import (
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	t.Parallel()

	t.Run("rates count what the command did", func(t *testing.T) {
		t.Parallel()
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		p := &Progress{start: start, began: start}
		for _, look := range []struct {
			at                  time.Duration
			bytes, found, total uint64
			perSecond           uint64
			left                float64
		}{
			{10 * time.Second, 800, 800, 1000, 0, -1}, // all of it found by a run that goes on
			{20 * time.Second, 810, 800, 1000, 1, 190},
			{30 * time.Second, 950, 900, 1000, 2, 20},
			{40 * time.Second, 1000, 900, 1000, 3, 0},
			{50 * time.Second, 1000, 900, 0, 2, -1},
			{60 * time.Second, 1000, 2000, 0, 0, -1}, // the two are not read at once
		} {
			perSecond, left := p.rate(State{Bytes: look.bytes, Found: look.found, Total: look.total}, start.Add(look.at))
			if perSecond != look.perSecond || left != look.left {
				t.Errorf("after %v: %d bytes a second, %v seconds left; want %d, %v", look.at, perSecond, left, look.perSecond, look.left)
			}
		}
	})
}
