package runner

import (
	"context"
	"fmt"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/retention"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// Capture makes an attempt somewhere else. The error is *ElsewhereError, *DiedError,
// or why it could not begin.
type Capture func(context.Context, *Attempt, *snapshot.Progress) (*Made, error)

// Attempt is one capture of a run: all that it needs but the repository. It encodes
// as JSON.
type Attempt struct {
	Name        string
	Environment *configs.Environment

	URL, StateDir, Version, Compression string

	MaxRepack uint64
}

// Made is what a capture made. It encodes as JSON, except Result, which is nil of
// one that was made elsewhere.
type Made struct {
	Run       report.Run     // as far as it describes the snapshot
	Item      retention.Item // the snapshot
	Problems  []Problem
	UsedBytes uint64           // of the store, by the packs of this host
	Result    *snapshot.Result `json:"-"`
}

// Problem is a manifest.Problem; a path may be any bytes.
type Problem struct{ Path, Reason []byte }

// ElsewhereError is the error of an attempt in another process.
type ElsewhereError struct {
	Text      string
	Transient bool
}

func (e *ElsewhereError) Error() string { return e.Text }

// DiedError is that the process of an attempt ended in the middle of it.
type DiedError struct{ How string }

func (e *DiedError) Error() string {
	return "the run died: its process ended in the middle of it (" + e.How + "): it was killed, was out of memory, or crashed; what it stored is kept, and the next run goes on from there"
}

// Make makes the attempt in this process.
func (a *Attempt) Make(ctx context.Context, repo *repository.Repository, host *trust.Host, p *snapshot.Progress, edit func(*snapshot.Options)) (*Made, error) {
	o, err := CaptureOptions(a.Name, a.Environment)
	if err != nil {
		return nil, err
	}
	o.StateDir, o.Version, o.Level, o.MaxRepack, o.Progress = repo.State.Dir(), a.Version, Level(a.Compression), a.MaxRepack, p
	Omit(&o, a.StateDir, a.URL)
	if edit != nil {
		edit(&o)
	}
	result, err := snapshot.Capture(ctx, repo, host, o)
	if err != nil {
		return nil, err
	}

	made := &Made{Result: result, Item: itemOf(result.Snapshot), UsedBytes: repo.KnownBytes()}
	for _, p := range result.Problems {
		made.Problems = append(made.Problems, Problem{[]byte(p.Path), []byte(p.Reason)})
	}
	run := &made.Run
	run.Snapshot, run.Files, run.Bytes, run.NewBytes, run.StoredBytes, run.Problems = result.Snapshot.Ref(), result.Files, result.Bytes, result.NewBytes, result.StoredBytes, result.Count
	run.SnapshotID, run.Directories, run.ReadFiles = fmt.Sprintf("%x", result.Snapshot.ID), result.Directories, result.Read
	run.Verified = result.Verified
	run.HealedPacks, run.HealedBytes = result.Healed.Packs, result.Healed.Bytes
	if b := result.Snapshot.Body; b != nil {
		run.SnapshotTime, run.ProtectedUntil = b.Started, repo.ClaimedProtection(b)
	}
	run.Result = report.Success
	if result.Partial() {
		run.Result = report.Partial
	}
	for _, s := range result.Suspect {
		run.Result, run.Suspect = report.Suspect, append(run.Suspect, s.String())
	}
	run.Suspect = report.BoundReasons(run.Suspect)
	return made, nil
}

// describe fills in what run does not have of its own.
func (m *Made) describe(run *report.Run) {
	own := *run
	*run = m.Run
	run.Trigger, run.Scheduled, run.Started, run.Missed, run.Attempts = own.Trigger, own.Scheduled, own.Started, own.Missed, own.Attempts
}

// Listed are the problems of the snapshot.
func (m *Made) Listed() (problems []manifest.Problem) {
	for _, p := range m.Problems {
		problems = append(problems, manifest.Problem{Path: string(p.Path), Reason: string(p.Reason)})
	}
	return problems
}
