package generation

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// View is the generations of an environment as they are shown.
type View struct {
	Root        string        `json:"root"`
	Method      string        `json:"method"`
	Live        string        `json:"live"`
	Generations []*Generation `json:"generations"` // the one that was built last first
	Trial       string        `json:"trial,omitempty"`
	Deadline    time.Time     `json:"deadline,omitzero"` // of the trial
	Confirm     bool          `json:"confirm"`           // it waits for a commit from outside
	Problem     string        `json:"problem,omitempty"` // that the last rollback had
	Data        []string      `json:"data"`              // carried: no proof is about it
	Busy        bool          `json:"busy"`              // another process changes them
	// Held are processes that still use a generation that is not live, by its name.
	Held map[string][]string `json:"held"`
}

// Unfinished is a switch that is not committed yet, or a rollback.
type Unfinished struct {
	Generation string // that is, or was about to go, on trial
	Deadline   time.Time
	Back       bool   // it goes back since the deadline, and cannot be committed any more
	Dir        string // of the generations
}

// Uncommitted returns the switch, or the patch, that is not committed yet, or goes back; nil
// where there is none. It only reads, and takes no lock.
func Uncommitted(o *Options) (*Unfinished, error) {
	s, err := unlocked(o)
	if errors.Is(err, ErrNotAdopted) {
		return nil, nil
	}
	if err != nil || s.state == nil || s.state.Transaction == nil {
		return nil, err
	}
	switch t := s.state.Transaction; t.Kind {
	case "switch":
		return &Unfinished{t.To, t.Deadline, false, s.dir}, nil
	case "rollback":
		return &Unfinished{t.From, t.Deadline, true, s.dir}, nil
	}
	return nil, nil
}

// Look finishes what another process left under way, and returns what there is. While
// another process changes the generations, or the file system is read-only, it only reads.
// What there is is returned also with the error that none of it is live.
func Look(ctx context.Context, o *Options) (*View, error) {
	s, err := Open(ctx, o)
	busy, readOnly := errors.Is(err, ErrBusy), errors.Is(err, unix.EROFS)
	if busy || readOnly {
		if s, err = unlocked(o); err == nil && s.state == nil {
			err = s.notAdopted()
		}
	}
	if err != nil {
		return nil, err
	}
	defer s.Close()
	v := &View{Root: s.state.Root, Method: s.state.Method, Live: s.liveName(), Generations: s.state.newest(), Problem: s.state.Problem, Data: s.Config.Carried(), Busy: busy, Held: map[string][]string{}}
	if t := s.state.Transaction; t != nil && t.Watching {
		v.Trial, v.Deadline, v.Confirm = t.To, t.Deadline, t.External
	}
	for _, g := range s.state.Generations {
		if g.Name == v.Live {
			continue
		}
		if held := s.Holders(g.Name); len(held) > 0 {
			v.Held[g.Name] = held
		}
	}
	if readOnly && s.state.Transaction != nil {
		o.Note("%s is on a read-only file system: what was interrupted there is not finished", s.what())
	}
	if v.Live == "" && !busy {
		_, err = s.Live()
	}
	return v, err
}
