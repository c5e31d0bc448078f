// Package checking verifies, on a schedule, what this host stored: the structure of
// it in every check, and the stored data in turn, a part in each.
//
// It promises that a check which was interrupted or failed never counts as one that
// passed, and that damage which was found stays known until a check that looks at
// the object no longer finds it.
package checking

import (
	"slices"
	"sync"
	"time"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/daemon/report"
	"knowngood/daemon/warnings"
	"knowngood/storage/seal"
)

// State is what is known of the stored objects, kept over restarts.
type State struct {
	warnings *warnings.List

	mu    sync.Mutex
	slots *jobfiles.Slots // nil until Open
	known known
}

// known is the content of the state file.
type known struct {
	Repository string `json:"repository,omitempty"`
	// Began is when the newest complete check of the structure began, and Command
	// the command that made it; empty: the daemon. Finding and Notes are its result.
	Began   time.Time `json:"began,omitzero"`
	Command string    `json:"command,omitempty"`
	Finding
	Notes []string `json:"notes,omitempty"`
	// Suspects are the keys of objects whose bytes did not match their names.
	// Each check reads them, until they are right or nothing needs them.
	Suspects []string `json:"suspects,omitempty"`

	Data    rotation  `json:"data"`
	ByHand  time.Time `json:"by_hand,omitzero"` // start of the newest command that read everything
	Objects int       `json:"objects,omitempty"`
	Stored  uint64    `json:"stored,omitempty"` // bytes of the objects, when the last check began
}

// The state file, and the size of each of its slots.
const (
	stateFile = "checked.state"
	stateSize = 96 << 10
)

// NewState is a state that is not open yet. Files that cannot be read or written
// become warnings.
func NewState(w *warnings.List) *State { return &State{warnings: w} }

// Open reads the state file, once.
func (s *State) Open(stateDir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots != nil {
		return
	}
	var err error
	s.slots, err = jobfiles.OpenSlots(jobfiles.Jobs(stateDir), stateFile, stateSize, &s.known)
	s.warnings.Opened(s.slots, err)
}

// Close closes the state file.
func (s *State) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots != nil {
		s.slots.Close()
	}
}

// save writes the state file; mu is held.
func (s *State) save() { s.warnings.Save(s.slots, &s.known) }

// of forgets what is known unless it is of that repository; mu is held.
func (s *State) of(id seal.RepositoryID) {
	if s.known.Repository != id.String() {
		s.known = known{Repository: id.String()}
	}
}

// Report is what is known, without what concerns the job.
func (s *State) Report(c *configs.Config, now time.Time) *report.Check {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &s.known
	out := &report.Check{Began: k.Began, Command: k.Command, Damaged: k.Damaged, Short: k.Short, Damage: slices.Clone(k.First), Tampered: k.Tampered, Notes: slices.Clone(k.Notes)}
	how, oldest := readingOf(c.Check, c.Identity != ""), k.Data.oldest()
	if oldest.After(now.Add(time.Hour)) { // the clock was wrong then
		oldest = time.Time{}
	}
	if how == nil && oldest.IsZero() {
		return out
	}
	out.Data = &report.CheckedData{Oldest: oldest, PassPart: k.Data.place(), PassBegan: k.Data.Begun, Objects: k.Objects, Bytes: k.Stored}
	if how != nil {
		out.Data.Scheduled = true
		out.Data.CycleSeconds, out.Data.DailyBytes = how.cycle.Seconds(), how.daily
		out.Data.ExpectedSeconds = how.expected(k.Stored).Seconds()
	}
	return out
}
