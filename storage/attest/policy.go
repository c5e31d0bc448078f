package attest

import (
	"fmt"
	"time"
)

// Policy is what makes a snapshot known-good.
type Policy struct {
	Require      Level // at least this; Unproven for any level
	AllowPartial bool
	SelfAttested bool          // results of the machine that captured it count, too
	NotOlderThan time.Duration // an older proof is stale, which excludes nothing; 0 for no limit
}

// Facts are what Policy judges. Only attestations whose Err is nil count.
type Facts struct {
	Snapshots    []Candidate // the newest first
	Attestations []*Attestation
	Marks        *Marks // may be nil
	Now          time.Time
}

// Candidate is a snapshot that is kept.
type Candidate struct {
	Number  uint64
	ID      [32]byte
	Suspect bool // and nobody accepted it
	Partial bool
	Damage  string // what is known to be missing, or why it is not known whether it is whole; empty for nothing
}

// Proof is what drills proved of a snapshot.
type Proof struct {
	Level        Level // Unproven where the newest result is a failure
	Base, Rung   string
	Machine      string
	RTO          time.Duration
	Stored       time.Time // when the store took the result; see Attestation.found
	Age          time.Duration
	SelfAttested bool
	Stale        bool
	Attestation  *Attestation // the newest result that counts
}

// Judged is a snapshot with its proof, nil for none, and why it is not known-good;
// empty where it is.
type Judged struct {
	Candidate
	Standing
	Proof  *Proof
	Reason string
}

// NotDrilled is the reason of a snapshot of which there is no result that counts.
const NotDrilled = "no drill has passed"

// SelfAttestedOnly is the reason of one whose results are all of the machine that captured
// it, where these do not count.
const SelfAttestedOnly = "only the machine that captured it attests it, which counts with --self-attested"

// Verdict is the judgement on all snapshots of an environment.
type Verdict struct {
	Snapshots []Judged // in the order of the facts
	Good      *Judged  // the newest that is known-good, nil for none
}

// PassedOver are the snapshots that are newer than the one that is known-good; all
// where none is.
func (v *Verdict) PassedOver() []Judged {
	for i := range v.Snapshots {
		if &v.Snapshots[i] == v.Good {
			return v.Snapshots[:i]
		}
	}
	return v.Snapshots
}

// Judge judges the snapshots of an environment by what is known of them.
//
// The newest result of a snapshot by the time of the store decides: a failure ends
// what passed before it, until another drill passes. A pass at a lower level than is
// required proves nothing, and ends nothing. Results of the machine that captured the
// snapshot are not looked at unless the policy has them count.
func (p Policy) Judge(f Facts) *Verdict {
	results := map[[32]byte][]*Attestation{}
	for _, a := range f.Attestations {
		if a.Err == nil && a.Result != nil {
			results[a.Subject.ID] = append(results[a.Subject.ID], a)
		}
	}
	v := &Verdict{Snapshots: make([]Judged, len(f.Snapshots))}
	for i, c := range f.Snapshots {
		j := Judged{Candidate: c, Standing: f.Marks.Of(c.Number, c.ID)}
		reason := p.prove(&j, results[c.ID], f.Now)
		switch {
		case j.Bad:
			j.Reason = "it is marked bad by " + j.By
			if j.Standing.Reason != "" {
				j.Reason += ": " + j.Standing.Reason
			}
		case c.Suspect:
			j.Reason = "it is suspect, and nobody accepted it"
		case c.Damage != "":
			j.Reason = c.Damage
		case c.Partial && !p.AllowPartial:
			j.Reason = "it is partial: something could not be read when it was captured"
		default:
			j.Reason = reason
		}
		v.Snapshots[i] = j
		if j.Reason == "" && v.Good == nil {
			v.Good = &v.Snapshots[i]
		}
	}
	return v
}

// prove finds the proof of a snapshot, and returns why that is not enough.
func (p Policy) prove(j *Judged, results []*Attestation, now time.Time) string {
	var pass, failed, lower, self *Attestation
	for _, a := range results {
		newest := &lower
		switch {
		case a.Subject.Number != j.Number:
			continue
		case a.SelfAttested && !p.SelfAttested:
			newest = &self
		case !a.Passed:
			newest = &failed
		case a.Level >= max(p.Require, Restored):
			newest = &pass
		}
		if *newest == nil || a.found().After((*newest).found()) {
			*newest = a
		}
	}
	switch {
	case failed != nil && (pass == nil || !pass.found().After(failed.found())): // at one time it failed
		j.Proof = p.proof(failed, now)
		return fmt.Sprintf("the drill on %s failed", failed.Machine)
	case pass != nil:
		j.Proof = p.proof(pass, now)
		return ""
	case lower != nil:
		j.Proof = p.proof(lower, now)
		return fmt.Sprintf("it is proven as %v, and %v is required", lower.Level, p.Require)
	case self != nil:
		j.Proof = p.proof(self, now)
		return SelfAttestedOnly
	}
	return NotDrilled
}

// maxUntilStored is how long after a drill its result may be stored.
const maxUntilStored = time.Hour

// found is when a result was found: when the store took it. But a pass counts from an hour
// after its drill at the latest, by the clock of its machine: where a store keeps no
// versions, whoever may put there can put an old one again, after a failure.
func (a *Attestation) found() time.Time {
	if latest := a.Started.Add(a.RTO() + maxUntilStored); a.Passed && latest.Before(a.Stored) {
		return latest
	}
	return a.Stored
}

func (p Policy) proof(a *Attestation, now time.Time) *Proof {
	level := a.Level
	if !a.Passed {
		level = Unproven
	}
	age := now.Sub(a.found())
	return &Proof{Level: level, Base: a.Isolation.Base, Rung: a.Isolation.Rung, Machine: a.Machine, RTO: a.RTO(), Stored: a.found(), Age: age,
		SelfAttested: a.SelfAttested, Stale: p.NotOlderThan > 0 && age > p.NotOlderThan, Attestation: a}
}
