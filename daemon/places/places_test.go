package places

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// takeAll takes all places that are free, and returns how many.
func takeAll(p *Places) (n int) {
	for p.Try() {
		n++
	}
	return n
}

// waiter takes a place in the background; got is sent when it has one.
func waiter(ctx context.Context, p *Places) (got chan error) {
	got = make(chan error, 1)
	go func() { got <- p.Take(ctx) }()
	synctest.Wait()
	return got
}

func TestPlaces(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"are given in turn, and kept when their number changes": placesAreGivenInTurnAndKeptWhenTheirNumberChanges,
		"a wait that is given up takes no place":                whoGivesUpWaitingForAPlaceTakesNone,
	} {
		t.Run(name, test)
	}
}

func placesAreGivenInTurnAndKeptWhenTheirNumberChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Places{limit: 2}
		if n := takeAll(p); n != 2 {
			t.Fatalf("of two places %d were given", n)
		}
		first, second := waiter(t.Context(), p), waiter(t.Context(), p)
		p.Resize(1)
		p.Leave()
		synctest.Wait()
		if len(first)+len(second) > 0 || p.Try() {
			t.Error("with one place left a second one was given")
		}
		p.Leave()
		synctest.Wait()
		if len(first) != 1 || len(second) != 0 {
			t.Errorf("one place went to %d who came first, and %d who came second", len(first), len(second))
		}
		p.Resize(3)
		synctest.Wait()
		if n := takeAll(p); len(second) != 1 || n != 1 {
			t.Errorf("of two more places %d went to who waited, %d were free", len(second), n)
		}
	})
}

func whoGivesUpWaitingForAPlaceTakesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Places{limit: 1}
		p.Try()
		ctx, cancel := context.WithCancelCause(t.Context())
		first, second := waiter(ctx, p), waiter(t.Context(), p)
		cancel(errEnded)
		p.Leave()
		if err := <-first; err == nil { // the end and a place came at once
			p.Leave()
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		p.Leave()
		if n := takeAll(p); n != 1 {
			t.Errorf("in the end %d places are free, want 1", n)
		}
	})
}

var errEnded = errors.New("ended")
