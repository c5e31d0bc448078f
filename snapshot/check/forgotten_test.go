package check_test

import (
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/check"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// TestForgottenRubbish is of roots that do not verify and were forgotten by their
// numbers.
func TestForgottenRubbish(t *testing.T) {
	t.Parallel()
	lost := func(n uint64) func(*world) {
		return func(w *world) { w.memory.Forget(layout.KeyRoot(enginetest.Host, "e", n)) }
	}
	rubbish := func(n uint64) func(*world) {
		return func(w *world) {
			key := layout.KeyRoot(enginetest.Host, "e", n)
			w.memory.Forget(key)
			w.memory.Overwrite(key, []byte("x"))
		}
	}
	byHost := func(w *world) *repository.Repository { return w.Open(w.State) }
	byOwner := func(w *world) *repository.Repository { return w.Bare() }
	for name, c := range map[string]struct {
		spoil   func(*world)
		number  uint64
		by      func(*world) *repository.Repository
		at      func(*world) *repository.Repository // checked
		damaged bool
	}{
		"is no damage after the owner forgot it":                        {rubbish(2), 2, byOwner, byOwner, false},
		"nor above the newest snapshot":                                 {rubbish(9), 9, byOwner, byOwner, false},
		"nor where a root is missing":                                   {lost(2), 2, byOwner, byOwner, false},
		"nor to the host, which takes the word of the owner":            {rubbish(2), 2, byOwner, byHost, false},
		"is no damage to the host that forgot it":                       {rubbish(2), 2, byHost, byHost, false},
		"is damage to others when only the host forgot it":              {rubbish(2), 2, byHost, byOwner, true},
		"is damage when the owner forgot another":                       {rubbish(2), 1, byOwner, byOwner, true},
		"is damage when what only the host forgot the owner repeats so": {rubbish(2), 2, nil, byOwner, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for n := range uint64(3) {
				w.write(0, n)
				w.MustCapture("e", w.src)
			}
			forget := func(r *repository.Repository, number uint64) {
				_, err := r.Forget(w.Ctx, enginetest.Host, "e", history.Change{Forget: statement.NumbersOf(number), Now: time.Now()})
				w.Check(err)
			}
			c.spoil(w)
			if c.by == nil {
				forget(byHost(w), c.number)
				forget(byOwner(w), 1)
			} else {
				forget(c.by(w), c.number)
				if c.number != 1 {
					forget(byHost(w), 1) // which repeats all
				}
			}
			r := c.at(w)
			r.Unlock(w.ID)
			report, err := check.Run(w.Ctx, r, check.Options{ReadData: 1})
			w.Check(err)
			if found := damage(report); (len(found) > 0) != c.damaged {
				t.Errorf("damage %q", found)
			}
			if contains(report.Notes, "forgotten, and affects nothing") == c.damaged {
				t.Errorf("notes %q", report.Notes)
			}
		})
	}
}
