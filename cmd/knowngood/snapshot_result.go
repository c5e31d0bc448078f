package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/daemon/report"
	"knowngood/daemon/web"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

// madeJSON is a snapshot that was made, or is planned, as --json prints it.
type madeJSON struct {
	Type string `json:"type"`
	snapshotJSON
	DryRun      bool                  `json:"dry_run,omitempty"`
	By          string                `json:"by,omitempty"` // "daemon", or nobody else
	ReadFiles   uint64                `json:"read_files"`
	HealedPacks uint64                `json:"healed_packs"`
	HealedBytes uint64                `json:"healed_bytes"`
	Seconds     float64               `json:"duration_seconds"`
	Suspect     []string              `json:"suspect"`               // reasons
	Problems    []console.ProblemJSON `json:"problem_list,omitzero"` // left out when a daemon cannot say
}

// tellSnapshot prints what a run of the command came to.
func (a *app) tellSnapshot(name string, r *snapshot.Result) error {
	status, reasons := statusWord(len(r.Suspect) > 0, r.Count), []string{}
	if r.Partial() || len(r.Suspect) > 0 {
		a.out.Code = exit.Incomplete
	}
	for _, s := range r.Suspect {
		reasons = append(reasons, s.String())
	}
	out := madeJSON{Type: "result", ReadFiles: r.Read, HealedPacks: r.Healed.Packs, HealedBytes: r.Healed.Bytes, Seconds: r.Duration.Seconds(), Suspect: reasons, Problems: console.ProblemsJSON(r.Problems),
		snapshotJSON: snapshotJSON{Host: a.host, Environment: name, Status: "planned",
			contentJSON: &contentJSON{r.Files, &r.Directories, r.Bytes, r.NewBytes, r.StoredBytes, r.Count}}}
	if r.Snapshot == nil {
		out.DryRun = true
		a.out.Printf("%s: would capture %s, %s in all, and read %s of them (dry run)\n", name, human.Counted(r.Files, "file"), human.Bytes(r.Bytes), human.Count(r.Read))
		return a.out.Result(out)
	}

	out.snapshotJSON = a.toJSON(r.Snapshot)
	out.Status = status
	a.out.Printf("%s\n", r.Snapshot.Ref())
	if len(reasons) > 0 {
		a.tellSuspect(r.Snapshot.Ref(), reasons)
	}
	if !a.out.Quiet && !a.out.JSON {
		fmt.Fprintf(a.out.Stderr, "%s, %s in all; %s read, %s new, stored as %s%s; %s; %s\n", human.Counted(r.Files, "file"), human.Bytes(r.Bytes), human.Counted(r.Read, "file"), human.Bytes(r.NewBytes), human.Bytes(r.StoredBytes), healedText(r.Healed.Packs, r.Healed.Bytes), human.Duration(r.Duration), status)
	}
	return a.out.Result(out)
}

// tellDaemonSnapshot prints what a run of the daemon came to, as tellSnapshot
// does of one by this process.
func (a *app) tellDaemonSnapshot(ctx context.Context, client *web.Client, name string, run *report.Run) error {
	var problems []manifest.Problem
	known := run.Problems == 0
	if !known {
		p, err := client.Problems(ctx, name)
		known = err == nil && p.Snapshot == run.Snapshot // else it is of an older version, or has run again
		for _, x := range p.Problems {
			problems = append(problems, manifest.Problem{Path: x.InManifest(), Reason: x.Error})
		}
	}
	status := statusWord(len(run.Suspect) > 0, run.Problems)
	if run.Problems > 0 || len(run.Suspect) > 0 {
		a.out.Code = exit.Incomplete
	}
	if known {
		list := a.out.Problems()
		for _, p := range problems {
			list.Add(p.Path, errors.New(p.Reason))
		}
		list.End()
	}

	a.out.Printf("%s\n", run.Snapshot)
	if len(run.Suspect) > 0 {
		a.tellSuspect(run.Snapshot, run.Suspect)
	}
	if !a.out.Quiet && !a.out.JSON {
		fmt.Fprintf(a.out.Stderr, "%s, %s in all; %s read, %s new, stored as %s%s; %s; %s\n", human.Counted(run.Files, "file"), human.Bytes(run.Bytes), human.Counted(run.ReadFiles, "file"), human.Bytes(run.NewBytes), human.Bytes(run.StoredBytes), healedText(run.HealedPacks, run.HealedBytes), human.Duration(run.Duration()), status)
	}
	if !known {
		a.out.Messagef("%s: knowngood show --problems %s lists them", human.Counted(run.Problems, "problem"), run.Snapshot)
	}
	began := cmp.Or(run.SnapshotTime, run.Started).UTC()
	out := madeJSON{Type: "result", By: "daemon", ReadFiles: run.ReadFiles, HealedPacks: run.HealedPacks, HealedBytes: run.HealedBytes, Seconds: run.Duration().Seconds(), Suspect: listed(run.Suspect),
		snapshotJSON: snapshotJSON{Ref: run.Snapshot, Host: a.host, Environment: name, ID: run.SnapshotID, Time: &began, Status: status, ProtectedUntil: run.ProtectedUntil,
			contentJSON: contentOf(run)}}
	if known {
		out.Problems = console.ProblemsJSON(problems)
	}
	if _, number, ok := strings.Cut(run.Snapshot, "@"); ok {
		out.Number, _ = strconv.ParseUint(number, 10, 64) // 0 is left out
	}
	return a.out.Result(out)
}

// healedText is what was stored again because the store had lost it.
func healedText(packs, bytes uint64) string {
	if packs == 0 {
		return ""
	}
	return fmt.Sprintf("; healed: the store had lost %s %s, %s stored again", human.Count(packs), english.PluralWord(int(packs), "pack or manifest", "packs or manifests"), human.Bytes(bytes))
}

// statusWord is what a snapshot came to, in a word.
func statusWord(suspect bool, problems uint64) string {
	switch {
	case suspect:
		return "suspect"
	case problems > 0:
		return "partial"
	}
	return "complete"
}
