package present

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/restore/fetch"
	"knowngood/restore/load"
	"knowngood/snapshot"
	"knowngood/storage/repository"
)

// Restore prints what a restore, or a dry run, came to.
func Restore(out *console.Console, t *snapshot.Tree, o *restore.Options, r *restore.Result, outputs []*load.Output, firstUse bool) error {
	if !r.Damaged && r.Count > 0 {
		out.Code = exit.Incomplete
	}
	printMissing(out, r)
	if err := out.Result(restoreJSON(t, o, r, outputs, firstUse)); err != nil {
		return err
	}
	printOwners(out, o, &r.Owners)
	printParts(out, r)
	out.Printf("%s\n", restoreText(t, o, r, firstUse))
	printFlagged(out, t, r)

	switch {
	case r.Damaged:
		return damageError(o, r)
	case r.Count > 0 && r.Unfinished:
		out.Messagef("%s: see above; the same command goes on, with what is not restored yet", human.Counted(r.Count, "problem"))
	case r.Count > 0:
		out.Messagef("%s: see above", human.Counted(r.Count, "problem"))
	}
	return nil
}

// printMissing prints the missing packs that a restore would need.
func printMissing(out *console.Console, r *restore.Result) {
	for _, l := range r.Lacking {
		out.Printf("  missing  %s: %v", l.Key, l.Err)
		if l.Files == 0 {
			out.Printf("; the part that would be read is there\n")
			continue
		}
		out.Printf("; %s %s it\n", human.Counted(l.Files, "file"), english.PluralWord(int(l.Files), "needs", "need"))
		for _, path := range l.Paths {
			out.Printf("           %s\n", printable.Name("/"+path))
		}
		if more := l.Files - uint64(len(l.Paths)); more > 0 {
			out.Printf("           and %s more\n", human.Count(more))
		}
	}
}

// printParts prints where what was read of files lies that could not be read
// whole.
func printParts(out *console.Console, r *restore.Result) {
	for i, p := range r.Parts {
		if i == maxNamed {
			out.Printf("  in part  and %s more: --json has them\n", human.Count(r.PartCount-maxNamed))
			return
		}
		out.Printf("  in part  %s: what was read of %s\n", printable.Name(p.File), printable.Name("/"+p.Path))
	}
}

// restoreText is the last line: first what is not restored, then what is.
func restoreText(t *snapshot.Tree, o *restore.Options, r *restore.Result, firstUse bool) string {
	var b strings.Builder
	not, verb := "NOT restored", "restored"
	if o.DryRun {
		not, verb = "could NOT restore", "would restore"
	}
	if missing := missingText(r); missing != "" {
		why := "named above"
		if r.Damaged {
			why = "damaged"
		}
		fmt.Fprintf(&b, "%s: %s (%s); ", not, missing, why)
	}

	n := r.Restored
	fmt.Fprintf(&b, "%s %s to %s: %s, %s, %s", verb, t.Snapshot.Ref(), printable.Name(r.Place), human.Counted(n.Files, "file"), human.Counted(n.Directories, "directory"), human.Bytes(n.Bytes))
	if n.Others > 0 {
		fmt.Fprintf(&b, ", %s", human.Counted(n.Others, "other"))
	}
	if o.InPlace || o.DryRun {
		fmt.Fprintf(&b, "; %s created, %s changed, %s unchanged, %s deleted", human.Count(r.Created), human.Count(r.Changed), human.Count(r.Unchanged), human.Count(r.Deleted))
		if r.Metadata > 0 {
			fmt.Fprintf(&b, ", %s given other metadata", human.Count(r.Metadata))
		}
	}
	if o.DryRun && r.Complete() && !r.Damaged {
		fmt.Fprintf(&b, "; complete: %s to be read, all there", human.Counted(r.Packs, "pack"))
	}
	fmt.Fprintf(&b, "; %s", human.Duration(r.Duration))
	if firstUse {
		b.WriteString("; repository trusted on first use")
	}
	return b.String()
}

// missingText is what was asked for and is not restored; "" when all is.
func missingText(r *restore.Result) string {
	var parts []string
	for _, c := range []struct {
		what         string
		planned, got uint64
	}{
		{"file", r.Planned.Files, r.Restored.Files},
		{"directory", r.Planned.Directories, r.Restored.Directories},
		{"other", r.Planned.Others, r.Restored.Others},
	} {
		if c.got < c.planned {
			parts = append(parts, fmt.Sprintf("%s of %s", human.Count(c.planned-c.got), human.Counted(c.planned, c.what)))
		}
	}
	if r.Unlisted > 0 {
		parts = append(parts, fmt.Sprintf("up to %s whose list cannot be read", human.Counted(r.Unlisted, "entry")))
	}
	return strings.Join(parts, ", ")
}

// damageError is what damage in the repository cost, and what to do next.
func damageError(o *restore.Options, r *restore.Result) error {
	what, goesOn := missingText(r), ""
	switch {
	case what == "":
		what = "see above"
	case o.DryRun:
		what += " could not be restored"
	default:
		what += " were not restored"
	}
	if r.Unfinished {
		goesOn = ". When the repository has them again, the same command goes on"
	}
	return fmt.Errorf("%w: %s. Try an older snapshot of them, and run knowngood check%s", exit.ErrDamage, what, goesOn)
}

// partJSON is a file with what could be read of the file at a path.
type partJSON struct {
	console.PathJSON
	File      string `json:"file"` // where it lies
	ExactFile []byte `json:"file_base64,omitempty"`
}

// restoreJSON is the result of --json. Its files, directories, others and bytes
// are what is restored, in a dry run what could be; planned is what was asked
// for.
func restoreJSON(t *snapshot.Tree, o *restore.Options, r *restore.Result, outputs []*load.Output, firstUse bool) map[string]any {
	type missingJSON struct {
		Object string             `json:"object"`
		Error  string             `json:"error"`
		Files  uint64             `json:"files"`
		Paths  []console.PathJSON `json:"paths"`
	}
	status := "restored"
	switch {
	case r.Damaged:
		status = "damaged"
	case r.Count > 0:
		status = "incomplete"
	case o.DryRun:
		status = "planned"
	}
	problems := console.Each(r.Problems, func(p restore.Problem) console.ProblemJSON {
		return console.ProblemJSON{PathJSON: console.JSONPath(p.Path), Error: p.Err.Error()}
	})
	parts := console.Each(r.Parts, func(p restore.Part) partJSON {
		return partJSON{console.JSONPath(p.Path), p.File, console.Exact(p.File)}
	})
	flagged := console.Each(r.Flagged, func(f restore.Flagged) flaggedJSON { return flaggedJSON{console.JSONPath(f.Path), flagWords(f.Flags)} })
	out := map[string]any{"type": "result", "ref": t.Snapshot.Ref(), "id": fmt.Sprintf("%x", t.Snapshot.ID), "target": o.Target, "dry_run": o.DryRun, "status": status,
		"trusted_on_first_use": firstUse, "planned": r.Planned, "unlisted": r.Unlisted,
		"files": r.Restored.Files, "directories": r.Restored.Directories, "others": r.Restored.Others, "bytes": r.Restored.Bytes,
		"created": r.Created, "changed": r.Changed, "metadata": r.Metadata, "unchanged": r.Unchanged, "deleted": r.Deleted,
		"fetched_bytes": r.Fetched, "duration_seconds": r.Duration.Seconds(), "problems": r.Count, "problem_list": problems, "owners": toOwnersJSON(o, &r.Owners), "loads": outputsJSON(outputs),
		"snapshot_status": t.Snapshot.Body.Status.String(), "incomplete": r.Incomplete, "part_count": r.PartCount, "parts": parts, "flagged_count": r.FlaggedCount, "flagged": flagged}
	if v := t.Snapshot.Verdict; v != nil {
		out["known_good"] = verdictJSON(t.Snapshot.Environment, v)
	}
	if b := console.Exact(o.Target); b != nil {
		out["target_base64"] = b
	}
	if o.DryRun {
		out["packs"], out["lacking"] = r.Packs, console.Each(r.Lacking, func(l fetch.LackingPack) missingJSON {
			return missingJSON{l.Key, l.Err.Error(), l.Files, console.Each(l.Paths, console.JSONPath)}
		})
	}
	return out
}

// Plan prints what a restore would start from.
func Plan(out *console.Console, r *repository.Repository, t *snapshot.Tree, o *restore.Options) {
	s := t.Snapshot
	out.Printf("plan: restore %s of host %s", s.Ref(), s.Host)
	if o.Under != "" {
		out.Printf(", /%s", o.Under)
	}
	out.Printf(", to %s\n  taken    %s, %s\n  trust    %s\n  snapshot %s, %s\n", printable.Name(o.Target), s.Body.Started.Local().Format("2006-01-02 15:04:05"), s.Body.Status, Trust(r), human.Counted(s.Body.Files, "file"), human.Bytes(s.Body.ContentBytes))
}

// Trust is what a snapshot of the repository is trusted on.
func Trust(r *repository.Repository) string {
	if since, ok := r.TrustedOnFirstUse(); ok {
		return "signature verified; repository trusted on first use, on " + human.Date(since) + " (to be sure, give --pin, or an identity file that has its pin)"
	}
	return "signature verified; repository pinned"
}
