package proof

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// badFlags of the command attest bad.
type badFlags struct {
	reason, since string
	undo          bool
}

func badCommand(sess *session.Session) *cobra.Command {
	var f badFlags
	cmd := &cobra.Command{
		Use:   "bad REF --reason TEXT",
		Short: "Mark a snapshot as bad, or no longer",
		Long: `Mark a snapshot as bad, whatever drills proved of it: @known-good passes it over, and
it is restored with --anyway alone. --since TIME marks all snapshots of the
environment with it that began then or later, up to this one: those since a break-in.
--undo takes a mark back.

With an identity that opens the owner key the owner signs it, else the attest key of
this machine, if it may speak of that host. What the owner marked only the owner takes
back. A host's own mark is shown, and changes nothing.`,
		Example: `  knowngood attest bad web@42 --reason "its database is corrupt" --identity FILE
  knowngood attest bad web@latest --since 2026-11-20T10:00 --reason "broken into"
  knowngood attest bad web@42 --undo --reason "it was another host"`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return bad(cmd.Context(), sess, &f, args[0])
		},
	}
	cmd.Flags().StringVar(&f.reason, "reason", "", "`text` that is kept with it and shown")
	cmd.Flags().StringVar(&f.since, "since", "", "also those before it that began at this `time` or later, such as 2026-11-20T10:00, or 12h for as long ago")
	cmd.Flags().BoolVar(&f.undo, "undo", false, "take a mark back")
	return cmd
}

func bad(ctx context.Context, sess *session.Session, f *badFlags, text string) error {
	if f.reason == "" && !f.undo {
		return usage.Errorf("why? Give --reason TEXT: it is shown to whoever wants to restore it")
	}
	var since time.Time
	if f.since != "" {
		var err error
		if since, _, err = usage.Moment("--since", f.since, time.Now()); err != nil {
			return err
		}
	}
	s, err := resolve(ctx, sess, text)
	if err != nil {
		return err
	}
	r := sess.Repo
	marked := []statement.Marked{{Number: s.Number, ID: s.ID, Bad: !f.undo}}
	if f.since != "" {
		if marked, err = sinceThen(ctx, r, s, since, !f.undo); err != nil {
			return err
		}
	}
	if f.undo {
		if marked, err = withMark(ctx, r, s, marked); err != nil {
			return err
		}
		if len(marked) == 0 {
			return fmt.Errorf("%s is not marked bad (knowngood attest show %s/%s)", s.Ref(), s.Host, s.Ref())
		}
	}
	var refs []string
	for _, m := range marked {
		refs = append(refs, fmt.Sprintf("%s@%d", s.Environment, m.Number))
	}

	by := ""
	for part := range slices.Chunk(marked, statement.MaxMarked) {
		if by, err = r.Attest.Mark(ctx, s.Host, s.Environment, part, f.reason, time.Now()); err != nil {
			return err
		}
	}
	word := "marked bad"
	if f.undo {
		marks, err := r.Attest.Marks(ctx, s.Host, s.Environment)
		if err != nil {
			return err
		}
		for _, m := range marked {
			if still := marks.Of(m.Number, m.ID); still.Bad {
				return fmt.Errorf("%s@%d is still marked bad by %s%s: only the owner takes that back, with the owner's identity (--identity FILE)", s.Environment, m.Number, still.By, because(still.Reason))
			}
		}
		word = "no longer marked bad"
	}
	sess.Out.Printf("%s of host %s, %s: %s\n", human.Counted(len(refs), "snapshot"), s.Host, word, strings.Join(refs, ", "))
	if by == "" {
		sess.Out.Messagef("warning: the host signed this itself: it is shown, and changes nothing. Give the owner's identity with --identity")
	}
	return sess.Out.Result(map[string]any{"type": "result", "host": s.Host, "environment": s.Environment, "marked": refs, "bad": !f.undo, "signed_by": by, "reason": f.reason})
}

// withMark are those of marked that carry a mark.
func withMark(ctx context.Context, r *repository.Repository, s *history.Snapshot, marked []statement.Marked) ([]statement.Marked, error) {
	marks, err := r.Attest.Marks(ctx, s.Host, s.Environment)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(marked, func(m statement.Marked) bool {
		standing := marks.Of(m.Number, m.ID)
		return !standing.Bad && !standing.HostBad
	}), nil
}

// sinceThen are the snapshots that are kept and began at a time or later, by the
// host's clock or the store's, up to s.
func sinceThen(ctx context.Context, r *repository.Repository, s *history.Snapshot, since time.Time, bad bool) ([]statement.Marked, error) {
	marked := []statement.Marked{{Number: s.Number, ID: s.ID, Bad: bad}}
	for x, err := range r.Kept(ctx, s.Host, s.Environment) {
		if authentic.Damaged(err) {
			r.Warn(err)
			continue
		}
		if err != nil {
			return nil, err
		}
		late := !x.Stored.Before(since) || x.Body != nil && !x.Body.Started.Before(since)
		if late && x.Number < s.Number {
			marked = append(marked, statement.Marked{Number: x.Number, ID: x.ID, Bad: bad})
		}
	}
	slices.SortFunc(marked, func(a, b statement.Marked) int { return cmp.Compare(a.Number, b.Number) })
	return marked, nil
}
