package present

import (
	"fmt"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/daemon/report"
	"knowngood/internal/printable"
	"knowngood/storage/attest"
)

// ProofJSON is what drills proved of a snapshot, as --json prints it wherever it does.
type ProofJSON struct {
	Level        attest.Level `json:"level"` // unproven where the newest drill failed
	Base         string       `json:"base"`
	Rung         string       `json:"rung"`
	Machine      string       `json:"machine"`
	RTO          float64      `json:"rto_seconds"`
	Stored       time.Time    `json:"stored"`
	SelfAttested bool         `json:"self_attested"`
	Stale        bool         `json:"stale"`
}

// Proof is a proof for --json; nil for none.
func Proof(p *attest.Proof) *ProofJSON {
	if p == nil {
		return nil
	}
	return &ProofJSON{p.Level, p.Base, p.Rung, p.Machine, p.RTO.Seconds(), p.Stored, p.SelfAttested, p.Stale}
}

// ProofText is a proof in words: probed 6 h ago on drill-1, RTO 41 s, base none,
// namespaces.
func ProofText(p *attest.Proof) string {
	s := fmt.Sprintf("%s, base %s, %s", report.Proven(p.Level.String(), p.Age, p.Machine, p.RTO), printable.Name(p.Base), printable.Name(p.Rung))
	if p.Level == attest.Unproven {
		s = fmt.Sprintf("a drill failed %s ago on %s", report.Span(max(0, p.Age)), p.Machine)
	}
	if p.SelfAttested {
		s += "; self-attested: by the machine that captured it"
	}
	if p.Stale {
		s += "; older than not_older_than allows"
	}
	return s
}

// Prove adds what drills and marks state of the snapshot.
func (s *SnapshotJSON) Prove(j attest.Judged) {
	s.Proof, s.KnownGood = Proof(j.Proof), j.Proof != nil && j.Reason == ""
	if j.Proof != nil {
		s.NotGood = j.Reason
	}
	switch {
	case j.Bad:
		s.Status, s.Reason = "bad", j.Reason
	case j.HostBad:
		s.Reason = "its own host marked it bad, which changes nothing: " + j.HostReason
	}
}

// ProofColumn is the proof of a snapshot in a table: known-good, probed 6 h ago.
func ProofColumn(j attest.Judged) string {
	if j.Proof == nil {
		return "-"
	}
	age := report.Span(max(0, j.Proof.Age))
	s := fmt.Sprintf("%v %s ago", j.Proof.Level, age)
	if j.Proof.Level == attest.Unproven {
		s = fmt.Sprintf("failed %s ago", age)
	}
	if j.Proof.SelfAttested {
		s += ", self-attested"
	}
	if j.Reason == "" {
		s = "known-good, " + s
	}
	return s
}

// KnownGood is whether a snapshot is known-good, in words.
func KnownGood(j attest.Judged) string {
	switch {
	case j.Reason == "":
		return "yes: " + ProofText(j.Proof)
	case j.Proof == nil:
		return "no: " + printable.Name(j.Reason)
	}
	return "no: " + printable.Name(j.Reason) + " (" + ProofText(j.Proof) + ")"
}

// passedOver is a snapshot that is newer than the known-good one.
type passedOver struct {
	Ref    string `json:"ref"`
	Reason string `json:"reason"`
}

// verdictJSON is why a snapshot is known-good.
func verdictJSON(env string, v *attest.Verdict) map[string]any {
	over := console.Each(v.PassedOver(), func(j attest.Judged) passedOver { return passedOver{fmt.Sprintf("%s@%d", env, j.Number), j.Reason} })
	return map[string]any{"proof": Proof(v.Good.Proof), "passed_over": over}
}

// maxPassedOver is how many snapshots are named that were passed over.
const maxPassedOver = 10

// Verdict prints why a snapshot of an environment is known-good, and why newer ones
// were passed over.
func Verdict(out *console.Console, env string, v *attest.Verdict) {
	over := v.PassedOver()
	for i, j := range over {
		if i == maxPassedOver {
			out.Printf("passed over   and %s older ones\n", human.Count(len(over)-i))
			break
		}
		out.Printf("passed over   %s@%d: %s\n", env, j.Number, printable.Name(j.Reason))
	}
	out.Printf("known-good    %s@%d: %s\n", env, v.Good.Number, ProofText(v.Good.Proof))
}
