package main

import (
	"context"
	"fmt"
	"strings"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/runner"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/storage/history"
	"knowngood/storage/repository"
)

// tellSuspect says in a way that nobody overlooks that a snapshot is suspect.
func (a *app) tellSuspect(ref string, reasons []string) {
	env, _, _ := strings.Cut(ref, "@")
	for _, why := range reasons {
		a.out.Messagef("SUSPECT: %s: %s", ref, printable.Name(why))
	}
	a.out.Messagef("%s is committed, but does not count for the rpo, and nothing of %s is forgotten, until the source is back. Where it is meant to be so: knowngood accept %s", ref, env, ref)
}

// warnOfSuspect says that a snapshot to be restored is suspect, and which one is
// good.
func (a *app) warnOfSuspect(ctx context.Context, s *history.Snapshot, paths []string) {
	suspect, err := a.repo.Suspect(ctx, s)
	if err != nil || !suspect {
		return // whoever restores it must not be hindered
	}
	for _, why := range snapshot.Reasons(s, paths) {
		a.out.Messagef("warning: %s is SUSPECT: %s", s.Ref(), printable.Name(why))
	}
	good, err := a.repo.NewestGood(ctx, s.Host, s.Environment)
	switch {
	case err != nil:
		a.out.Messagef("warning: which one before it is good is not known: %v", err)
	case good == nil:
		a.out.Messagef("warning: no snapshot of %s that is kept is good", s.Environment)
	default:
		a.out.Messagef("warning: the newest good one is %s/%s, of %s", s.Host, good.Ref(), human.Time(good.Body.Started))
	}
}

// refuseDeletion refuses to delete what a suspect snapshot lacks, unless the
// reference names that very snapshot: it is the source that collapsed, and what is
// there may be all that is left. text is the reference as it was given.
func (a *app) refuseDeletion(ctx context.Context, t *snapshot.Tree, f *restoreFlags, text string) error {
	s := t.Snapshot
	ref, sub, err := a.ref(text)
	byID := ref.ID != "" && ref.Environment != s.Environment
	if err != nil || byID || ref.Selector == history.ByNumber {
		return err
	}
	suspect, err := a.repo.Suspect(ctx, s)
	if err != nil {
		return fmt.Errorf("whether %s is suspect is not known, so nothing is deleted: %w", s.Ref(), err)
	}
	if !suspect {
		return nil
	}

	command := func(ref string) string {
		ref = s.Host + "/" + ref
		if sub != "" {
			ref += ":/" + sub
		}
		argv := []string{"knowngood", "restore", ref, "--in-place", "--delete"}
		if f.target != "" {
			argv = append(argv, "--target", f.target)
		}
		return printable.Command(argv)
	}
	next := "no snapshot of " + s.Environment + " that is kept is good"
	good, err := a.repo.NewestGood(ctx, s.Host, s.Environment)
	switch {
	case err != nil:
		next = fmt.Sprintf("which one is good is not known: %v", err)
	case good != nil:
		next = fmt.Sprintf("the newest good one is %s, of %s: %s", good.Ref(), human.Time(good.Body.Started), command(good.Ref()))
	}
	return usage.Errorf("--delete: %s is SUSPECT: %s. Nothing was changed, because what it lacks would be deleted.\n  %s\n  To delete for the suspect one all the same, name it: %s",
		s.Ref(), printable.Name(strings.Join(snapshot.Reasons(s, pathsIn(t)), "; ")), next, command(s.Ref()))
}

// suspects are those of some snapshots that are suspect by the word of their
// host, and that nobody accepted.
func suspects(ctx context.Context, r *repository.Repository, snapshots []collected) (map[*history.Snapshot]bool, error) {
	out := map[*history.Snapshot]bool{}
	known := map[string]*history.Acceptances{}
	for _, x := range snapshots {
		s := x.Snapshot
		if !history.Flagged(s) {
			continue
		}
		place := s.Host + "/" + s.Environment
		if known[place] == nil {
			accepted, err := r.Acceptances(ctx, s.Host, s.Environment)
			if err != nil {
				return nil, err
			}
			known[place] = accepted
		}
		out[s] = known[place].Suspect(s)
	}
	return out, nil
}

// reasonsOf are why a snapshot is suspect. Its sources are named as its manifest,
// the configuration or the state directory of its host name them: whichever is
// there.
func (a *app) reasonsOf(ctx context.Context, r *repository.Repository, s *history.Snapshot) []string {
	if s.Body == nil || len(s.Body.Suspect) == 0 {
		return nil
	}
	var paths []string
	if s.Host == a.host {
		if env := a.config.Environments[s.Environment]; env != nil {
			paths = runner.SourcePaths(env)
		}
		paths = append(paths, snapshot.RememberedPaths(r, s.Environment)...)
	}
	if r.Unlocked() {
		// The names alone are wanted of it: without it there are positions.
		if tree, err := snapshot.OpenTree(ctx, r, s); err == nil {
			paths = append(paths, pathsIn(tree)...)
			tree.Reader.Close()
		}
	}
	return snapshot.Reasons(s, paths)
}

// pathsIn are the paths of the sources of a snapshot.
func pathsIn(t *snapshot.Tree) []string {
	var out []string
	for i := range t.Table.Sources {
		out = append(out, t.Table.Sources[i].Path)
	}
	return out
}
