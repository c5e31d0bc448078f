package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/snapshot/check"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// openForCheck opens the repository for a check. A repair takes the keys of this
// machine's host, and an identity only to look into what it captured.
func (a *app) openForCheck(ctx context.Context, repair bool, o *check.Options) (*repository.Repository, error) {
	if !repair {
		return a.openForReading(ctx)
	}
	r, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	if own := a.ownHost(); a.given.host != "" && own != a.given.host {
		return nil, usage.Errorf("--repair: only host %s itself can sign its index: run this there", a.given.host)
	}
	o.Repair, err = r.Host(ctx)
	if errors.Is(err, trust.ErrNotEnrolled) {
		return nil, usage.Errorf("--repair: only a host can sign its index, and the state directory %s has the keys of none: run this on the host whose index is to be rebuilt (%v)", a.stateDir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("--repair: %w", err)
	}
	if o.Sealed = a.identityPath == ""; o.Sealed {
		o.Host = o.Repair.Name
	}
	return r, nil
}

// printRepair shows what was repaired, and what is lost for good.
func (a *app) printRepair(r *check.Report, sealed bool) {
	if n := len(r.Repaired); n == 0 {
		a.out.Printf("index: no run of it is missing or damaged, nothing to rebuild\n")
	} else {
		more := ""
		if n > firstDamaged {
			more = fmt.Sprintf(" and %s more", human.Count(uint64(n-firstDamaged)))
		}
		a.out.Printf("index: %s missing or damaged; what the packs hold of that is published again, in place of %s%s\n", english.Plural(n, "run was", "runs were"), strings.Join(r.Repaired[:min(n, firstDamaged)], ", "), more)
	}
	if sealed {
		a.out.Printf("note: without an identity the lists of files were not looked at: knowngood check --identity FILE names the files that are lost\n")
	}
	for _, l := range r.LostFiles {
		var names []string
		for _, f := range l.Files[:min(len(l.Files), firstDamaged)] {
			names = append(names, printable.Name(f))
		}
		more := ""
		if n := l.Count - len(names); n > 0 {
			more = fmt.Sprintf(" and %s", human.Counted(n, "more file"))
		}
		a.out.Printf("lost for good in %s: %s%s\n", l.Ref, strings.Join(names, ", "), more)
	}
}

// lostFilesJSON are files of a snapshot that are lost for good: the first few.
type lostFilesJSON struct {
	Ref   string   `json:"ref"`
	Files []string `json:"files"`
	Count int      `json:"count"`
}

func lostJSON(lost []check.LostFiles) []lostFilesJSON {
	out := []lostFilesJSON{}
	for _, l := range lost {
		out = append(out, lostFilesJSON{l.Ref, listed(l.Files), l.Count})
	}
	return out
}
