package present

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

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
	status, reasons := StatusWord(len(r.Suspect) > 0, r.Count), []string{}
	if r.Partial() || len(r.Suspect) > 0 {
		out.Code = exit.Incomplete
	}
	for _, s := range r.Suspect {
		reasons = append(reasons, s.String())
	}
	made := madeJSON{Type: "result", ReadFiles: r.Read, HealedPacks: r.Healed.Packs, HealedBytes: r.Healed.Bytes, Seconds: r.Duration.Seconds(), Suspect: reasons, Problems: console.ProblemsJSON(r.Problems),
		SnapshotJSON: SnapshotJSON{Host: host, Environment: name, Status: "planned",
			ContentJSON: &ContentJSON{r.Files, &r.Directories, r.Bytes, r.NewBytes, r.StoredBytes, r.Count}}}
	if r.Snapshot == nil {
		made.DryRun = true
		out.Printf("%s: would capture %s, %s in all, and read %s of them (dry run)\n", name, human.Counted(r.Files, "file"), human.Bytes(r.Bytes), human.Count(r.Read))
		return out.Result(made)
	}

	made.SnapshotJSON = Snapshot(repo, r.Snapshot)
	made.Status = status
	out.Printf("%s\n", r.Snapshot.Ref())
	if len(reasons) > 0 {
		printSuspect(out, r.Snapshot.Ref(), reasons)
	}
	if !out.Quiet && !out.JSON {
		fmt.Fprintf(out.Stderr, "%s, %s in all; %s read, %s new, stored as %s%s; %s; %s\n", human.Counted(r.Files, "file"), human.Bytes(r.Bytes), human.Counted(r.Read, "file"), human.Bytes(r.NewBytes), human.Bytes(r.StoredBytes), healedText(r.Healed.Packs, r.Healed.Bytes), human.Duration(r.Duration), status)
	}
	return out.Result(made)
}

// DaemonCapture prints what a run of the daemon came to, as Capture
// does of one by this process.
func DaemonCapture(out *console.Console, host, name string, run *report.Run, problems []manifest.Problem, known bool) error {
	status := StatusWord(len(run.Suspect) > 0, run.Problems)
	if run.Problems > 0 || len(run.Suspect) > 0 {
		out.Code = exit.Incomplete
	}

	out.Printf("%s\n", run.Snapshot)
	if len(run.Suspect) > 0 {
		printSuspect(out, run.Snapshot, run.Suspect)
	}
	if !out.Quiet && !out.JSON {
		fmt.Fprintf(out.Stderr, "%s, %s in all; %s read, %s new, stored as %s%s; %s; %s\n", human.Counted(run.Files, "file"), human.Bytes(run.Bytes), human.Counted(run.ReadFiles, "file"), human.Bytes(run.NewBytes), human.Bytes(run.StoredBytes), healedText(run.HealedPacks, run.HealedBytes), human.Duration(run.Duration()), status)
	}
	if !known {
		out.Messagef("%s: knowngood show --problems %s lists them", human.Counted(run.Problems, "problem"), run.Snapshot)
	}
	began := cmp.Or(run.SnapshotTime, run.Started).UTC()
	made := madeJSON{Type: "result", By: "daemon", ReadFiles: run.ReadFiles, HealedPacks: run.HealedPacks, HealedBytes: run.HealedBytes, Seconds: run.Duration().Seconds(), Suspect: List(run.Suspect),
		SnapshotJSON: SnapshotJSON{Ref: run.Snapshot, Host: host, Environment: name, ID: run.SnapshotID, Time: &began, Status: status, ProtectedUntil: run.ProtectedUntil,
			ContentJSON: ContentOf(run)}}
	if known {
		made.Problems = console.ProblemsJSON(problems)
	}
	if _, number, ok := strings.Cut(run.Snapshot, "@"); ok {
		made.Number, _ = strconv.ParseUint(number, 10, 64) // 0 is left out
	}
	return out.Result(made)
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
