package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
)

func probeCommand(sess *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "probe",
		Short: "Find out what the store does when somebody overwrites an object",
		Long: `Find out, with an object of its own, what the store does to a put of a key that
exists, with the condition that it must not exist and without, and whether what was
overwritten or deleted can be read again. The credentials of this machine are used:
on a host, probe shows what somebody who takes that host over could do.

The result is remembered on this machine, for status and check. It says nothing of
other credentials, of tomorrow, or of those who administer the store.`,
		Example: `  knowngood probe
  knowngood probe --host web-7 --json    with the credentials of web-7, before it joins`,
		Args: usage.Takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return probe(cmd.Context(), sess) },
	}
}

func probe(ctx context.Context, sess *session.Session) error {
	r, err := sess.ConnectWithoutIdentity(ctx)
	if err != nil {
		return err
	}
	host := sess.Given.Host
	if host == "" {
		host = sess.OwnHost()
	}
	p, err := r.Probe(ctx, host, time.Now())
	if err != nil {
		return err
	}

	sess.Out.Printf("probed %s\n\n", r.URL())
	sess.Out.Printf("  a put where nothing must exist   %s\n", either(p.SecondCreateRefused, "refused when something exists", "NOT refused when something exists"))
	sess.Out.Printf("  a put without that condition     %s\n", either(p.PlainPutRefused, "refused", "not refused"))
	sess.Out.Printf("  what was overwritten or deleted  %s\n\n", either(p.VersionsKept, "can be read again: there are versions", "could not be read again"))
	present.Unprotected(sess.Out, r.URL(), p)
	return sess.Out.Result(map[string]any{"type": "result", "repository": r.URL(), "store": present.StoreJSON(p)})
}

func either(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}
