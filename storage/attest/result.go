// Package attest keeps what drills proved: signed results whose subject is a
// snapshot, as objects of their own.
package attest

import (
	"encoding/hex"
	"fmt"
	"time"
)

// Level is how far a snapshot was proven; a higher one includes those below it.
type Level uint8

const (
	Unproven Level = iota
	Restored       // every byte, or a sample, was restored and verified
	Probed         // and a required probe that looks at data passed
	Booted         // reserved
)

var levels = [...]string{"unproven", "restored", "probed", "booted"}

func (l Level) String() string {
	if int(l) >= len(levels) {
		return fmt.Sprintf("level %d", uint8(l))
	}
	return levels[l]
}

// ParseLevel is the inverse of String.
func ParseLevel(s string) (Level, error) {
	for l, name := range levels {
		if s == name {
			return Level(l), nil
		}
	}
	return 0, fmt.Errorf("%q is no level: restored, probed or booted", s)
}

func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

func (l *Level) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLevel(string(b))
	return err
}

// Hash is a SHA-256 or a content digest, in hexadecimal as text.
type Hash [32]byte

func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return fmt.Errorf("a digest of %d digits, want %d", len(b), 2*len(h))
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Subject is the snapshot that a result is about.
type Subject struct {
	Host        string `json:"host"`
	Environment string `json:"environment"`
	Number      uint64 `json:"number"`
	ID          Hash   `json:"-"` // SHA-256 of the root object: in the subject of the statement
}

// String names the snapshot: web-7/web@42.
func (s Subject) String() string { return fmt.Sprintf("%s/%s@%d", s.Host, s.Environment, s.Number) }

// Status is what became of a probe.
type Status string

const (
	Passed    Status = "passed"
	Failed    Status = "failed"
	NotTested Status = "not tested" // it could not run: that is never a pass
)

// Probe is the result of one probe. Nothing in it comes from the restored tree:
// what a probe printed belongs to the sealed evidence.
type Probe struct {
	Name     string        `json:"name"`
	Kind     string        `json:"kind"` // the key of the configuration: file, sqlite, http, ...
	Status   Status        `json:"status"`
	Required bool          `json:"required"`
	Outside  bool          `json:"outside"`         // evaluated by the program, not by one of the tree
	Proves   bool          `json:"proves"`          // it looks at data, so that it can prove the level probed
	Cause    string        `json:"cause,omitempty"` // why it was not tested, in fixed words
	Took     time.Duration `json:"took_ns"`
}

// Phase is one measured part of a drill, in order: fetch and write, services, probes.
type Phase struct {
	Name string        `json:"name"` // restore, compare, isolate, services, probes
	Took time.Duration `json:"took_ns"`
}

// Isolation is what was around the programs of the tree, and how it was proven.
type Isolation struct {
	Rung     string `json:"rung"`               // namespaces or static
	Base     string `json:"base"`               // none, host, or the snapshot that lay beneath
	BaseID   string `json:"base_id,omitempty"`  // ID of that snapshot, in hex
	Attempts int    `json:"attempts,omitempty"` // ways out that were tried from inside before anything of the tree ran
	Refused  int    `json:"refused,omitempty"`  // how many of them were refused; the drill fails if not all
	Limits   string `json:"limits,omitempty"`   // by what memory, processes and CPU were limited: cgroup v2, cgroup v1, rlimits
}

// Result is what one drill found. In JSON it is what a statement adds to a test result
// (docs/FORMAT.md section 13).
type Result struct {
	Subject
	Content   Hash          `json:"content_digest"` // of the root, which the restore matched
	Machine   string        `json:"machine"`        // that drilled; Put writes the name in the certificate of its key
	Version   string        `json:"program"`
	Config    Hash          `json:"-"` // SHA-256 of the drill's configuration as canonical JSON
	Started   time.Time     `json:"started"`
	Passed    bool          `json:"passed"`
	Level     Level         `json:"level"`
	Partial   bool          `json:"partial"` // something could not be read when it was captured
	Isolation Isolation     `json:"isolation"`
	Phases    []Phase       `json:"phases"`
	Store     time.Duration `json:"store_ns"` // the part of the restore that waited for the store
	Files     uint64        `json:"files"`    // restored and verified
	Bytes     uint64        `json:"bytes"`    // restored and verified
	Of        uint64        `json:"of_bytes"` // bytes of the whole snapshot; more than Bytes when a sample was drilled
	Probes    []Probe       `json:"probes"`
	Unproven  []string      `json:"unproven"` // what else was not tested, or keeps the level down, in fixed words
	Evidence  []byte        `json:"-"`        // outputs of probes; sealed to the epoch when it is stored
}

// RTO is the time from the decision to the last probe.
func (r *Result) RTO() time.Duration {
	var sum time.Duration
	for _, p := range r.Phases {
		sum += p.Took
	}
	return sum
}
