// Package present prints what commands come to: as text for people, or as the
// objects of --json, whose fields do not change their meaning.
package present

import (
	"encoding/json"
	"fmt"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/daemon/report"
	"knowngood/internal/printable"
	"knowngood/snapshot/manifest"
	"knowngood/storage/history"
	"knowngood/storage/repository"
)

// Change prints what a restore does to a path.
func Change(out *console.Console, action, path string) {
	out.Printf("%-9s %s\n", action, printable.Name("/"+path))
	out.Result(changeJSON{"change", action, console.JSONPath(path)})
}

// changeJSON is what a restore does to a path, as --json prints it.
type changeJSON struct {
	Type   string `json:"type"`
	Action string `json:"action"`
	console.PathJSON
}

// timeJSON is a time as --json prints it: RFC 3339; outside the years 0 to 9999,
// which that has no form for, as in timeText.
type timeJSON manifest.Time

func (t timeJSON) MarshalJSON() ([]byte, error) {
	return json.Marshal(timeText(manifest.Time(t), time.UTC, time.RFC3339Nano))
}

// farthest is how many seconds from 1970 package time computes without overflow.
const farthest = 1 << 60

// timeText is a time in a layout that begins with the year. Years outside 0 to
// 9999 get a sign, as ISO 8601 has it; times that no calendar reaches are their
// seconds since 1970 after an @, which touch and date read, too.
func timeText(t manifest.Time, zone *time.Location, layout string) string {
	if t.Sec < -farthest || t.Sec > farthest {
		return fmt.Sprintf("@%d.%09d", t.Sec, t.Nsec)
	}
	at := t.Time().In(zone)
	if year := at.Year(); year < 0 || year > 9999 {
		return fmt.Sprintf("%+05d", year) + at.Format(layout[len("2006"):])
	}
	return at.Format(layout)
}

// SnapshotJSON is a snapshot as --json prints it, wherever it does. What is not
// known is left out.
type SnapshotJSON struct {
	Ref         string     `json:"ref,omitempty"` // with number and ID left out of what is planned
	Host        string     `json:"host"`
	Environment string     `json:"environment"`
	Number      uint64     `json:"number,omitempty"`
	ID          string     `json:"id,omitempty"`
	Time        *time.Time `json:"time,omitempty"`  // when it was begun
	Stored      time.Time  `json:"stored,omitzero"` // when the store took it; of one that is sealed
	Status      string     `json:"status"`
	*ContentJSON
	Tags      []string `json:"tags,omitempty"`
	Forgotten bool     `json:"forgotten,omitempty"`
	Reason    string   `json:"reason,omitempty"` // why it is forgotten, or marked bad
	// KnownGood is whether it is known-good, Proof what the newest drill proved, and
	// NotGood why a snapshot with a proof is not known-good.
	KnownGood bool       `json:"known_good,omitempty"`
	Proof     *ProofJSON `json:"proof,omitempty"`
	NotGood   string     `json:"not_known_good,omitempty"`
	// ProtectedUntil is when the first lock of what it needs ends, as the host claimed
	// at its commit; left out when something was not locked, and where the
	// repository has no lock mode.
	ProtectedUntil time.Time `json:"protected_until,omitzero"`
}

// ContentJSON are the counts of a snapshot.
type ContentJSON struct {
	Files       uint64  `json:"files"`
	Directories *uint64 `json:"directories,omitempty"` // nil where an older daemon does not report it
	Bytes       uint64  `json:"bytes"`
	NewBytes    uint64  `json:"new_bytes"`    // content that the repository did not have
	StoredBytes uint64  `json:"stored_bytes"` // what the run wrote to the store before the root, according to the root
	Problems    uint64  `json:"problems"`
}

// ContentOf are the counts of the snapshot that a run of a daemon made.
func ContentOf(run *report.Run) *ContentJSON {
	c := &ContentJSON{Files: run.Files, Bytes: run.Bytes, NewBytes: run.NewBytes, StoredBytes: run.StoredBytes, Problems: run.Problems}
	if run.SnapshotID != "" { // else an older version wrote this
		c.Directories = &run.Directories
	}
	return c
}

// Snapshot is a snapshot of a repository for --json.
func Snapshot(r *repository.Repository, s *history.Snapshot) SnapshotJSON {
	j := SnapshotJSON{Ref: s.Ref(), Host: s.Host, Environment: s.Environment, Number: s.Number, ID: fmt.Sprintf("%x", s.ID), Status: "sealed"}
	if b := s.Body; b != nil {
		t := b.Started.UTC()
		j.Time, j.Status, j.Tags, j.ProtectedUntil = &t, b.Status.String(), b.Tags, r.ClaimedProtection(b).UTC()
		j.ContentJSON = &ContentJSON{b.Files, &b.Directories, b.ContentBytes, b.NewContentBytes, b.StoredBytes, b.Problems}
	}
	return j
}

// Columns are the files, the size and the new bytes of a snapshot in a table.
func (j *SnapshotJSON) Columns() (files, size, added string) {
	if j.ContentJSON == nil {
		return "-", "-", "-"
	}
	return human.Count(j.Files), human.Bytes(j.Bytes), human.Bytes(j.NewBytes)
}

// List makes a list that is empty print as [], not as null.
func List[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
