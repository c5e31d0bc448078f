package checking

import (
	"encoding/json"
	"time"

	"knowngood/daemon/jobfiles"
	"knowngood/storage/seal"
)

// ByHand is a check that a command made, of what this host stored.
type ByHand struct {
	Repository string    `json:"repository"`
	Began      time.Time `json:"began"`
	Command    string    `json:"command"`
	Structure  bool      `json:"structure"` // it checked everything except the data
	Data       bool      `json:"data"`      // it read all data
	Finding
}

// byHandFile is where commands leave the newest check of each kind.
const byHandFile = "checked-by-hand"

type byHand struct {
	Structure, Data ByHand
}

// Record leaves a check by hand for the daemon of a state directory.
func (h ByHand) Record(stateDir string) error {
	dir := jobfiles.Jobs(stateDir)
	if err := dir.Make(); err != nil {
		return err
	}
	all := readByHand(stateDir)
	if h.Structure {
		all.Structure = h
	}
	if h.Data {
		all.Data = h
	}
	b, err := json.Marshal(&all)
	if err != nil {
		return err
	}
	return dir.Replace(byHandFile, b)
}

// readByHand reads what commands left; nothing where that cannot be read.
func readByHand(stateDir string) (all byHand) {
	b, err := jobfiles.Jobs(stateDir).ReadFile(byHandFile)
	if err != nil || json.Unmarshal(b, &all) != nil {
		return byHand{}
	}
	return all
}

// AddByHand adds checks of the repository by hand that are not known yet.
func (s *State) AddByHand(stateDir string, id seal.RepositoryID) {
	all := readByHand(stateDir)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots == nil {
		return
	}
	k, changed := &s.known, false
	if h := all.Data; h.Repository == id.String() && h.Began.After(k.ByHand) {
		s.of(id)
		k.ByHand, changed = h.Began, true
		k.Data.readAll(h.Began)
		if h.Damaged == 0 {
			k.Suspects = nil
		}
	}
	if h := all.Structure; h.Repository == id.String() && h.Began.After(k.Began) {
		s.of(id)
		changed = true
		if h.Damaged > 0 || len(k.Suspects) == 0 { // else what it did not read is still damaged
			k.Began, k.Command, k.Finding, k.Notes = h.Began, h.Command, h.Finding, nil
		}
	}
	if changed {
		s.save()
	}
}
