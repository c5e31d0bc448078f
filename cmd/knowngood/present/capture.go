package present

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/daemon/report"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/repository"
)

// madeJSON is a snapshot that was made, or is planned, as --json prints it.
type madeJSON struct {
	Type string `json:"type"`
	SnapshotJSON
	DryRun      bool                  `json:"dry_run,omitempty"`
	By          string                `json:"by,omitempty"` // "daemon", or nobody else
	ReadFiles   uint64                `json:"read_files"`
	HealedPacks uint64                `json:"healed_packs"`
	HealedBytes uint64                `json:"healed_bytes"`
	Seconds     float64               `json:"duration_seconds"`
	Suspect     []string              `json:"suspect"`               // reasons
	Problems    []console.ProblemJSON `json:"problem_list,omitzero"` // left out when a daemon does not know
}

// Capture prints what a run of the command came to.
func Capture(out *console.Console, repo *repository.Repository, host, name string, r *snapshot.Result) error {
	run := &report.Run{Files: r.Files, ReadFiles: r.Read, Bytes: r.Bytes, NewBytes: r.NewBytes, StoredBytes: r.StoredBytes, HealedPacks: r.Healed.Packs, HealedBytes: r.Healed.Bytes, Problems: r.Count, Finished: time.Time{}.Add(r.Duration)}
	for _, s := range r.Suspect {
		run.Suspect = append(run.Suspect, s.String())
	}
	made := madeJSON{Problems: console.ProblemsJSON(r.Problems)}
	if r.Snapshot == nil {
		made.DryRun = true
		made.SnapshotJSON = SnapshotJSON{Host: host, Environment: name, Status: "planned", ContentJSON: &ContentJSON{r.Files, &r.Directories, r.Bytes, r.NewBytes, r.StoredBytes, r.Count}}
		out.Printf("%s: would capture %s, %s in all, and read %s of them (dry run)\n", name, human.Counted(r.Files, "file"), human.Bytes(r.Bytes), human.Count(r.Read))
		return made.print(out, run)
	}
	made.SnapshotJSON = Snapshot(repo, r.Snapshot)
	run.Snapshot = r.Snapshot.Ref()
	return made.print(out, run)
}

// DaemonCapture prints what a run of the daemon came to, as Capture
// does of one by this process.
func DaemonCapture(out *console.Console, host, name string, run *report.Run, problems []manifest.Problem, known bool) error {
	began := cmp.Or(run.SnapshotTime, run.Started).UTC()
	made := madeJSON{By: "daemon", SnapshotJSON: SnapshotJSON{Ref: run.Snapshot, Host: host, Environment: name, ID: run.SnapshotID, Time: &began, ProtectedUntil: run.ProtectedUntil, ContentJSON: ContentOf(run)}}
	if known {
		made.Problems = console.ProblemsJSON(problems)
	}
	if _, number, ok := strings.Cut(run.Snapshot, "@"); ok {
		made.Number, _ = strconv.ParseUint(number, 10, 64) // 0 is left out
	}
	return made.print(out, run)
}

// print prints what a run came to, and completes the JSON with it.
func (made *madeJSON) print(out *console.Console, run *report.Run) error {
	if run.Problems > 0 || len(run.Suspect) > 0 {
		out.Code = exit.Incomplete
	}
	if !made.DryRun {
		made.Status = StatusWord(len(run.Suspect) > 0, run.Problems)
		out.Printf("%s\n", run.Snapshot)
		if len(run.Suspect) > 0 {
			printSuspect(out, run.Snapshot, run.Suspect)
		}
		if !out.Quiet && !out.JSON {
			fmt.Fprintf(out.Stderr, "%s, %s in all; %s read, %s new, stored as %s%s; %s; %s\n", human.Counted(run.Files, "file"), human.Bytes(run.Bytes), human.Counted(run.ReadFiles, "file"), human.Bytes(run.NewBytes), human.Bytes(run.StoredBytes), healedText(run.HealedPacks, run.HealedBytes), human.Duration(run.Duration()), made.Status)
		}
		if made.Problems == nil { // which the daemon does not know any more
			out.Messagef("%s: knowngood show --problems %s lists them", human.Counted(run.Problems, "problem"), run.Snapshot)
		}
	}
	made.Type, made.Suspect = "result", List(run.Suspect)
	made.ReadFiles, made.HealedPacks, made.HealedBytes, made.Seconds = run.ReadFiles, run.HealedPacks, run.HealedBytes, run.Duration().Seconds()
	return out.Result(*made)
}

// healedText is what was stored again because the store had lost it.
func healedText(packs, bytes uint64) string {
	if packs == 0 {
		return ""
	}
	return fmt.Sprintf("; healed: the store had lost %s %s, %s stored again", human.Count(packs), english.PluralWord(int(packs), "pack or manifest", "packs or manifests"), human.Bytes(bytes))
}

// StatusWord is what a snapshot came to, in a word.
func StatusWord(suspect bool, problems uint64) string {
	switch {
	case suspect:
		return "suspect"
	case problems > 0:
		return "partial"
	}
	return "complete"
}

// printSuspect prints prominently that a snapshot is suspect.
func printSuspect(out *console.Console, ref string, reasons []string) {
	env, _, _ := strings.Cut(ref, "@")
	for _, why := range reasons {
		out.Messagef("SUSPECT: %s: %s", ref, printable.Name(why))
	}
	out.Messagef("%s is committed, but does not count for the rpo, and nothing of %s is forgotten, until the source is back. Where it is meant to be so: knowngood accept %s", ref, env, ref)
}
