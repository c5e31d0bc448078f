package daemon

import (
	"context"
	"testing"
	"testing/synctest"
)

// waiter takes a place in the background; got tells when.
func waiter(ctx context.Context, p *places) (got chan error) {
	got = make(chan error, 1)
	go func() { got <- p.take(ctx) }()
	synctest.Wait()
	return got
}

func TestPlacesAreGivenInTurnAndKeptWhenTheirNumberChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{limit: 2}
		if !p.try() || !p.try() || p.try() {
			t.Fatal("of two places not two were given")
		}
		first, second := waiter(t.Context(), p), waiter(t.Context(), p)
		p.resize(1)
		p.leave()
		synctest.Wait()
		if len(first)+len(second) > 0 || p.try() {
			t.Error("with one place left a second one was given")
		}
		p.leave()
		synctest.Wait()
		if len(first) != 1 || len(second) != 0 {
			t.Errorf("one place went to %d who came first, and %d who came second", len(first), len(second))
		}
		p.resize(3)
		synctest.Wait()
		if len(second) != 1 || !p.try() || p.try() {
			t.Error("of three places not three were given")
		}
	})
}

func TestWhoGivesUpWaitingForAPlaceTakesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{limit: 1}
		p.try()
		ctx, cancel := context.WithCancelCause(t.Context())
		first, second := waiter(ctx, p), waiter(t.Context(), p)
		cancel(errStopped)
		p.leave()
		if err := <-first; err == nil { // the end and a place came at once
			p.leave()
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		p.leave()
		if !p.try() || p.try() {
			t.Error("a place is lost, or one too many")
		}
	})
}
