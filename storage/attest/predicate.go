package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
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
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
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
	Version     int       `json:"version"`
	Repository  string    `json:"repository"`
	Host        string    `json:"host"`
	Environment string    `json:"environment"`
	Number      uint64    `json:"number"`
	Content     string    `json:"content_digest"`
	Machine     string    `json:"machine"`
	Program     string    `json:"program"`
	Started     string    `json:"started"`
	Passed      bool      `json:"passed"`
	Level       Level     `json:"level"`
	Partial     bool      `json:"partial"`
	Isolation   Isolation `json:"isolation"`
	Phases      []Phase   `json:"phases"`
	Store       int64     `json:"store_ns"`
	Files       uint64    `json:"files"`
	Bytes       uint64    `json:"bytes"`
	Of          uint64    `json:"of_bytes"`
	Probes      []Probe   `json:"probes"`
	Unproven    []string  `json:"unproven"`
	Evidence    *sealed   `json:"evidence,omitempty"`
}

// sealed is evidence as it is stored.
type sealed struct {
	Epoch  string `json:"epoch"`
	SHA256 string `json:"sha256"` // of Sealed
	Sealed []byte `json:"sealed"`
}

// encode is the payload of a result.
func encode(repo seal.RepositoryID, r *Result, evidence *sealed) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	p := predicate{
		Result: "PASSED", Configuration: []resource{{"drill", digest(r.Config)}}, Passed: []string{}, Warned: []string{}, Failed: []string{},
		Drill: drill{
			Version: drillVersion, Repository: repo.String(), Host: r.Subject.Host, Environment: r.Subject.Environment, Number: r.Subject.Number, Content: hex.EncodeToString(r.Content[:]),
			Machine: r.Machine, Program: r.Version, Started: r.Started.UTC().Format(time.RFC3339Nano), Passed: r.Passed, Level: r.Level, Partial: r.Partial, Isolation: r.Isolation,
			Phases: filled(r.Phases), Store: int64(r.Store), Files: r.Files, Bytes: r.Bytes, Of: r.Of, Probes: filled(r.Probes), Unproven: filled(r.Unproven), Evidence: evidence,
		},
	}
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
	name := fmt.Sprintf("%s/%s@%d", r.Subject.Host, r.Subject.Environment, r.Subject.Number)
	return canonical(inToto{statementType, []resource{{name, digest(r.Subject.ID)}}, predicateType, p})
}

func digest(sum [32]byte) map[string]string {
	return map[string]string{"sha256": hex.EncodeToString(sum[:])}
}

// filled is the list, which is not null in JSON.
func filled[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// decode reads the payload of an attestation, and refuses each that encode would not
// have made.
func decode(payload []byte) (repo seal.RepositoryID, r *Result, evidence *sealed, err error) {
	var s inToto
	if err := json.Unmarshal(payload, &s); err != nil {
		return repo, nil, nil, fmt.Errorf("statement: %w", err)
	}
	d := &s.Predicate.Drill
	switch {
	case s.Type != statementType || s.PredicateType != predicateType:
		return repo, nil, nil, fmt.Errorf("statement: %q with a predicate of %q, not %s with %s", s.Type, s.PredicateType, statementType, predicateType)
	case d.Version != drillVersion:
		return repo, nil, nil, fmt.Errorf("statement: version %d of a drill: %w", d.Version, wire.ErrVersion)
	case len(s.Subject) != 1 || len(s.Predicate.Configuration) != 1:
		return repo, nil, nil, errors.New("statement: not one subject and one configuration")
	}
	r = &Result{
		Subject: Subject{Host: d.Host, Environment: d.Environment, Number: d.Number}, Machine: d.Machine, Version: d.Program, Passed: d.Passed, Level: d.Level, Partial: d.Partial, Isolation: d.Isolation,
		Phases: d.Phases, Store: time.Duration(d.Store), Files: d.Files, Bytes: d.Bytes, Of: d.Of, Probes: d.Probes, Unproven: d.Unproven,
	}
	bytesOf := func(dst []byte, text string) {
		b, herr := hex.DecodeString(text)
		if herr != nil || len(b) != len(dst) {
			err = errors.New("statement: a digest or an ID has the wrong length, or is not hexadecimal")
		}
		copy(dst, b)
	}
	bytesOf(repo[:], d.Repository)
	bytesOf(r.Content[:], d.Content)
	bytesOf(r.Subject.ID[:], s.Subject[0].Digest["sha256"])
	bytesOf(r.Config[:], s.Predicate.Configuration[0].Digest["sha256"])
	if err != nil {
		return repo, nil, nil, err
	}
	if r.Started, err = time.Parse(time.RFC3339Nano, d.Started); err != nil {
		return repo, nil, nil, fmt.Errorf("statement: %w", err)
	}
	if e := d.Evidence; e != nil {
		if sum := sha256.Sum256(e.Sealed); e.SHA256 != hex.EncodeToString(sum[:]) {
			return repo, nil, nil, errors.New("statement: the evidence is not that of its digest")
		}
		evidence = e
	}
	again, err := encode(repo, r, evidence)
	if err == nil && string(again) != string(payload) {
		err = errForm
	}
	if err != nil {
		return repo, nil, nil, fmt.Errorf("statement: %w", err)
	}
	return repo, r, evidence, nil
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
	case r.Started.Year() < 1970 || r.Started.Year() > 9999:
		return fmt.Errorf("it started at %v", r.Started)
	}
	return nil
}
