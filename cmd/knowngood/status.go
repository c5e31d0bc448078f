package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/status"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/report"
)

func statusCommand(sess *session.Session) *cobra.Command {
	var noDaemon bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how old the newest snapshot of each environment is, and whether that is in time",
		Long: `Show the newest good snapshot of each environment of this host, its age against
the rpo of the configuration, and, when the daemon runs, its runs, the last
errors in full, warnings, and how full the store is.

The daemon is asked at the address where it listens. When it does not run, or
serves another repository or host, status reads the repository itself; that takes
no identity for a host's own snapshots.

When the configuration file has a mistake, a daemon keeps the last valid one;
status then shows both its state and the mistake.

A snapshot of which a source collapsed is suspect, and not a good one; status
names it, why, and what to do.

Exit code 13 when the last check found damage, or somebody tampered with the
repository; 1 when an rpo is broken (the newest good snapshot is older, or there is
none), and when the configuration cannot be used; 2 when it cannot be used and no
daemon answers. Variables that are only missing in this shell are no mistake.`,
		Example: `  knowngood status
  knowngood status --no-daemon --json`,
		Annotations: map[string]string{"config": "unless broken"},
		Args:        usage.Takes(0, 0),
		RunE:        func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), sess, noDaemon) },
	}
	cmd.Flags().BoolVar(&noDaemon, "no-daemon", false, "look into the repository, whether the daemon runs or not")
	return cmd
}

func runStatus(ctx context.Context, sess *session.Session, noDaemon bool) error {
	var s *status.Report
	var err error
	if !noDaemon {
		s, err = status.OfDaemon(ctx, sess)
	}
	if err == nil && s == nil && sess.Unusable != nil {
		return sess.Unusable
	}
	if err == nil && s == nil {
		s, err = status.OfRepository(ctx, sess, time.Now())
	}
	if err != nil {
		return err
	}
	s.Type = "result"
	level, text := s.Verdict()
	if sealed := len(s.Environments); sealed > 0 && len(s.Report.Environments) == 0 {
		text = fmt.Sprintf("%s a snapshot; %s sealed: give --identity FILE", english.Plural(sealed, "environment has", "environments have"), english.PluralWord(sealed, "it is", "they are"))
	}
	s.Level, s.Summary = level.String(), text
	if slices.ContainsFunc(s.Report.Environments, func(e report.Environment) bool { return e.Broken() }) {
		sess.Out.Code = exit.Failed
	}
	switch unset := configs.Unset(sess.Unusable); {
	case len(unset) > 0:
		sess.Out.Notef("variables of the configuration that the daemon may have are not set here: %s (set -a; . /etc/knowngood/environment; set +a)", strings.Join(unset, ", "))
	case sess.Unusable != nil:
		sess.Out.Code, s.Unusable, s.Level = exit.Failed, sess.Unusable.Error(), max(level, report.Attention).String()
	}
	damaged := s.Check != nil && s.Check.Damaged > 0
	if damaged || slices.ContainsFunc(s.Warnings, func(w report.Warning) bool { return w.Tampering }) {
		sess.Out.Code = exit.Damage
	}
	if sess.Out.JSON {
		return sess.Out.Result(s)
	}
	return status.Print(sess.Out, s)
}
