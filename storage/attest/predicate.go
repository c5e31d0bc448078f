package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
)

// Names of the formats that an attestation is written in.
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://in-toto.io/attestation/test-result/v0.1"
	drillVersion  = 1 // of our own members
)

// Limits of what a drill reports. Durations are at most maxDuration.
const (
	MaxEvidence = 256 << 10 // in bytes, before it is sealed
	maxItems    = 1024      // in each list
	maxText     = 1024      // bytes of each text
	maxDuration = 366 * 24 * time.Hour
)

// inToto is an in-toto Statement v1 with one subject.
type inToto struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     predicate  `json:"predicate"`
}

// resource is an in-toto resource descriptor.
type resource struct {
	Name   string          `json:"name"`
	Digest map[string]Hash `json:"digest"`
}

func resourceOf(name string, sum Hash) []resource {
	return []resource{{name, map[string]Hash{"sha256": sum}}}
}

// predicate is a test result, with what we add in a member of our own.
type predicate struct {
	Result        string     `json:"result"`
	Configuration []resource `json:"configuration"`
	Passed        []string   `json:"passedTests"`
	Warned        []string   `json:"warnedTests"`
	Failed        []string   `json:"failedTests"`
	Drill         drill      `json:"knowngood.drill"`
}

// drill is the part of a test result that is ours.
type drill struct {
	Version    int    `json:"version"`
	Repository string `json:"repository"`
	Result
	Evidence *sealed `json:"evidence,omitempty"`
}

// sealed is evidence as it is stored.
type sealed struct {
	Epoch  string `json:"epoch"`
	SHA256 Hash   `json:"sha256"` // of Sealed
	Sealed []byte `json:"sealed"`
}

// encode is the payload of a result.
func encode(repo string, r *Result, evidence *sealed) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	d := drill{drillVersion, repo, *r, evidence}
	d.Started, d.Phases, d.Probes, d.Unproven = r.Started.UTC(), filled(r.Phases), filled(r.Probes), filled(r.Unproven)
	p := predicate{Result: "PASSED", Configuration: resourceOf("drill", r.Config), Passed: []string{}, Warned: []string{}, Failed: []string{}, Drill: d}
	for _, t := range r.Probes {
		list := &p.Warned
		switch {
		case t.Status == Passed:
			list = &p.Passed
		case t.Status == Failed && t.Required:
			list = &p.Failed
		}
		*list = append(*list, t.Name)
	}
	switch {
	case !r.Passed:
		p.Result = "FAILED"
	case len(p.Warned) > 0 || len(r.Unproven) > 0:
		p.Result = "WARNED"
	}
	return canonical(inToto{statementType, resourceOf(r.Subject.String(), r.ID), predicateType, p})
}

// filled is the list, which is not null in JSON.
func filled[T any](list []T) []T { return append([]T{}, list...) }

// decode reads the payload of an attestation, and refuses each that encode would not
// have made.
func decode(payload []byte) (repo string, r *Result, evidence *sealed, err error) {
	var s inToto
	err = json.Unmarshal(payload, &s)
	d := &s.Predicate.Drill
	switch {
	case err != nil:
	case s.Type != statementType || s.PredicateType != predicateType:
		err = fmt.Errorf("%q with a predicate of %q, not %s with %s", s.Type, s.PredicateType, statementType, predicateType)
	case d.Version != drillVersion:
		err = fmt.Errorf("version %d of a drill: %w", d.Version, wire.ErrVersion)
	case len(s.Subject) != 1 || len(s.Predicate.Configuration) != 1:
		err = errors.New("not one subject and one configuration")
	case d.Evidence != nil && d.Evidence.SHA256 != sha256.Sum256(d.Evidence.Sealed):
		err = errors.New("the evidence is not that of its digest")
	}
	if err == nil {
		d.ID, d.Config = s.Subject[0].Digest["sha256"], s.Predicate.Configuration[0].Digest["sha256"]
		var again []byte
		if again, err = encode(d.Repository, &d.Result, d.Evidence); err == nil && !bytes.Equal(again, payload) {
			err = errForm
		}
	}
	if err != nil {
		return "", nil, nil, fmt.Errorf("statement: %w", err)
	}
	return d.Repository, &d.Result, d.Evidence, nil
}

// check refuses what no drill reports.
func (r *Result) check() error {
	for _, name := range []string{r.Subject.Host, r.Subject.Environment, r.Machine} {
		if err := layout.ValidName(name); err != nil {
			return err
		}
	}
	durations, texts := []time.Duration{r.Store}, []string{r.Version, r.Isolation.Rung, r.Isolation.Base, r.Isolation.BaseID, r.Isolation.Limits}
	for _, p := range r.Phases {
		durations, texts = append(durations, p.Took), append(texts, p.Name)
	}
	for _, p := range r.Probes {
		durations, texts = append(durations, p.Took), append(texts, p.Name, p.Kind, p.Cause)
		if p.Status != Passed && p.Status != Failed && p.Status != NotTested {
			return fmt.Errorf("probe %q has no status %q", p.Name, p.Status)
		}
	}
	for _, text := range append(texts, r.Unproven...) {
		if len(text) > maxText || !utf8.ValidString(text) {
			return fmt.Errorf("a text of %d bytes, or not in UTF-8: %.40q", len(text), text)
		}
	}
	for _, d := range durations {
		if d < 0 || d > maxDuration {
			return fmt.Errorf("a duration of %v", d)
		}
	}
	switch {
	case r.Subject.Number == 0 || r.Subject.Number > layout.MaxNumber:
		return fmt.Errorf("there is no snapshot %d", r.Subject.Number)
	case r.Level > Booted:
		return fmt.Errorf("there is no level %d", r.Level)
	case r.Passed && r.Level == Unproven:
		return errors.New("it passed without a level")
	case max(len(r.Phases), len(r.Probes), len(r.Unproven)) > maxItems:
		return fmt.Errorf("more than %d phases, probes or causes", maxItems)
	case min(r.Isolation.Attempts, r.Isolation.Refused) < 0:
		return fmt.Errorf("%d ways out were tried, and %d refused", r.Isolation.Attempts, r.Isolation.Refused)
	case r.Started.Year() < 1970 || r.Started.Year() > 9999:
		return fmt.Errorf("it started at %v", r.Started)
	}
	return nil
}
