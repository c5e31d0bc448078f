package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/runner"
	"knowngood/snapshot"
	"knowngood/storage/history"
	"knowngood/storage/trust"
)

func acceptCommand(sess *session.Session) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "accept REF",
		Short: "Accept a suspect snapshot: its sources are meant to be so",
		Long: `Accept a suspect snapshot. A snapshot is suspect when a source has less than half
of the files or bytes that it had (shrink in the configuration), is not mounted, or
is empty, where that is required, or when files look encrypted that did not before.
It is committed and can be restored, but does
not count for the rpo, and nothing of its environment is forgotten meanwhile.

What you accept is good from then on, and what later snapshots are compared with.
Later suspect ones that have as much are accepted with it. Where the source is
back instead, there is nothing to do: the next run ends it.

It is written as a signed statement. Signed by the host it binds that host alone,
not a machine that prunes for it. On another machine, with --identity, it is signed
by the owner, and binds both.`,
		Example: `  knowngood list web                             which are suspect
  knowngood diff web@42 web@43                   what went
  knowngood accept web@43 --reason "moved to db-2"
  knowngood accept web-7/web@43 --identity FILE   for web-7, on another machine`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return accept(cmd.Context(), sess, args[0], reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`text` that is kept with it")
	return cmd
}

func accept(ctx context.Context, sess *session.Session, text, reason string) error {
	r, err := sess.Open(ctx)
	if err != nil {
		return err
	}
	s, sub, err := sess.Resolve(ctx, r, text)
	if err != nil {
		return err
	}
	if sub != "" {
		return usage.Errorf("%s: a snapshot is accepted as a whole, without a path", text)
	}
	if s.Body == nil {
		return fmt.Errorf("%s of host %s: %w: give its file with --identity", s.Ref(), s.Host, trust.ErrNoUsableIdentity)
	}
	forgotten, _, err := catalog.Forgotten(ctx, r, s)
	if err != nil {
		return err
	}
	if forgotten {
		return fmt.Errorf("%s is forgotten: take that back first, with knowngood forget --undo %s/%s", s.Ref(), s.Host, s.Ref())
	}

	numbers, err := snapshot.Accept(ctx, r, s, shrinkOf(sess, s), reason, time.Now())
	if len(numbers) == 0 {
		return err
	}
	var refs []string
	for _, n := range numbers {
		refs = append(refs, fmt.Sprintf("%s@%d", s.Environment, n))
	}
	own, herr := r.Host(ctx)
	byHost := herr == nil && own.Name == s.Host
	signer := "owner"
	if byHost {
		signer = "host"
	}
	sess.Out.Printf("%s of host %s: accepted, as signed by the %s; later snapshots are compared with it\n", s.Ref(), s.Host, signer)
	if len(refs) > 1 {
		sess.Out.Printf("accepted with it: %s\n", strings.Join(refs[1:], ", "))
	}
	if byHost {
		sess.Out.Printf("A machine that prunes for this host decides by itself: there, run knowngood accept %s/%s --identity FILE\n", s.Host, s.Ref())
	}
	if rerr := sess.Out.Result(map[string]any{"type": "result", "host": s.Host, "environment": s.Environment, "accepted": refs, "signed_by": signer, "reason": reason}); err == nil {
		err = rerr
	}
	return err
}

// shrinkOf is the percentage that each source of a snapshot must still have, as
// this host is configured; nil where it is not this host's.
func shrinkOf(sess *session.Session, s *history.Snapshot) func(source int) int {
	env := sess.Config.Environments[s.Environment]
	if env == nil || s.Host != sess.Host {
		return nil
	}
	o, err := runner.CaptureOptions(s.Environment, env)
	if err != nil || len(o.Expect) != len(s.Body.Sources) {
		return nil // it has other sources by now
	}
	return func(source int) int {
		if source >= len(o.Expect) {
			return 0
		}
		return o.Expect[source].Shrink
	}
}
