package report

import "fmt"

// Step is what a person can do next.
type Step struct {
	Do      string // what comes before the command, or is its reason
	Command string // for the shell of the host
	Then    string // what else there is to know; may be empty
}

// String is the step in one line.
func (s Step) String() string {
	text := s.Do + ": " + s.Command
	if s.Then != "" {
		text += "; " + s.Then
	}
	return text
}

// NextStep is what a person can do about an environment whose last run failed or
// was stopped, or which has no good snapshot that is new enough.
func (e *Environment) NextStep() Step {
	s := Step{Do: "fix the cause, then run", Command: "knowngood snapshot " + e.Name}
	again := "tried again"
	switch {
	case e.Last != nil && e.Last.Result == Interrupted:
		s.Do = "go on from there"
	case e.Last == nil || e.Last.Error == "":
		s.Do, again = "run it now", "run"
	}
	if !e.Next.IsZero() {
		s.Then = fmt.Sprintf("it is %s by itself at %s", again, e.Next.Format("2006-01-02 15:04 MST"))
	}
	return s
}

// AcceptStep is what a person can do about an environment that is suspect.
func (e *Environment) AcceptStep() Step {
	s := Step{
		Do:      "bring the source back, and the next run ends this; where it is meant to be so",
		Command: "knowngood accept " + e.Suspect.Snapshot,
	}
	if e.Suspect.Good != "" {
		s.Then = "the last good snapshot is " + e.Suspect.Good
	}
	return s
}

// LackStep is what a person can do about a snapshot that lacks what could not be
// read.
func (e *Environment) LackStep() Step {
	return Step{Do: "see what it lacks", Command: "journalctl -u knowngood | grep " + e.Name, Then: "exclude what need not be there, or make it readable"}
}
