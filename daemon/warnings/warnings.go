// Package warnings holds what a person should know although no run failed: damage,
// a configuration that was not loaded, state that cannot be written.
package warnings

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
)

// most is how many warnings are kept; the oldest are dropped.
const most = 50

// List is the current warnings of a daemon. Each new one is logged.
type List struct {
	log *zap.Logger
	now func() time.Time

	mu   sync.Mutex
	list []report.Warning // newest last
}

// New is an empty list.
func New(log *zap.Logger, now func() time.Time) *List { return &List{log: log, now: now} }

// Add adds a warning, or makes it the newest one if it is there already.
func (l *List) Add(text string, tampering bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := slices.IndexFunc(l.list, func(w report.Warning) bool { return w.Text == text })
	if known < 0 {
		l.log.Warn(text)
	} else {
		l.list = slices.Delete(l.list, known, known+1)
	}
	l.list = append(l.list, report.Warning{Time: l.now(), Text: text, Tampering: tampering})
	if extra := len(l.list) - most; extra > 0 {
		l.list = slices.Delete(l.list, 0, extra)
	}
}

// Remove removes the warnings whose text begins with prefix.
func (l *List) Remove(prefix string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(w report.Warning) bool { return strings.HasPrefix(w.Text, prefix) })
}

// All are the warnings, newest last; never nil.
func (l *List) All() []report.Warning {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]report.Warning{}, l.list...)
}

// Save writes v to a state file, and warns while that is not possible.
func (l *List) Save(s *jobfiles.Slots, v any) { l.Written(&s.Failed, s.Path(), s.Write(v)) }

// Opened warns of a state file that was not read as it should be.
func (l *List) Opened(s *jobfiles.Slots, err error) {
	if errors.Is(err, jobfiles.ErrSpoiled) { // the next state replaces it
		l.Add(memory+err.Error(), false)
		return
	}
	l.Written(&s.Failed, s.Path(), err)
}

// Written warns once when a state file cannot be written, and withdraws that when
// it can. failed is the warning that stands for this file, "" for none.
func (l *List) Written(failed *string, file string, err error) {
	text := ""
	if err != nil {
		text = memory + err.Error()
	}
	if text == *failed {
		return
	}
	if *failed != "" {
		l.Remove(*failed)
	}
	*failed = text
	if err != nil {
		l.Add(text, false)
	} else {
		l.log.Info("the daemon's state is written again", zap.String("file", file))
	}
}

// memory begins the warnings of state files.
const memory = "the daemon's state: "
