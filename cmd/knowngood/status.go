package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon"
	"knowngood/daemon/report"
	"knowngood/daemon/web"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
)

func statusCommand(a *app) *cobra.Command {
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

Exit code 1 when an rpo is broken (the newest good snapshot is older, or there is
none), and when the configuration cannot be used; 2 when it cannot be used and no
daemon answers. Variables that are only missing in this shell are no mistake.`,
		Example: `  knowngood status
  knowngood status --no-daemon --json`,
		Annotations: map[string]string{"config": "unless broken"},
		Args:        usage.Takes(0, 0),
		RunE:        func(cmd *cobra.Command, _ []string) error { return a.status(cmd.Context(), noDaemon) },
	}
	cmd.Flags().BoolVar(&noDaemon, "no-daemon", false, "look into the repository, whether the daemon runs or not")
	return cmd
}

// statusReport is what the status command tells.
type statusReport struct {
	Type    string `json:"type"`
	Source  string `json:"source"` // daemon or repository
	Level   string `json:"level"`  // well, attention, broken
	Summary string `json:"summary"`
	// Unusable is why the configuration cannot be read as it is now.
	Unusable string `json:"configuration_error,omitempty"`
	report.Report
	Environments []statusLine `json:"environments"`
}

// statusLine is one environment. Its newest snapshot is told in full, its past
// runs are not.
type statusLine struct {
	reported
	Name   string        `json:"environment"`
	Host   string        `json:"host"`
	Newest *snapshotJSON `json:"newest,omitempty"`
	Runs   *struct{}     `json:"runs,omitempty"`
}

type reported = report.Environment

func (a *app) status(ctx context.Context, noDaemon bool) error {
	s, err := a.statusOfDaemon(ctx, noDaemon)
	if err == nil && s == nil && a.unusable != nil {
		return a.unusable
	}
	if err == nil && s == nil {
		s, err = a.statusOfRepository(ctx, time.Now())
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
		a.out.Code = exit.Failed
	}
	switch unset := configs.Unset(a.unusable); {
	case len(unset) > 0:
		a.out.Notef("variables of the configuration that the daemon may have are not set here: %s (set -a; . /etc/knowngood/environment; set +a)", strings.Join(unset, ", "))
	case a.unusable != nil:
		a.out.Code, s.Unusable, s.Level = exit.Failed, a.unusable.Error(), max(level, report.Attention).String()
	}
	if a.out.JSON {
		return a.out.Result(s)
	}
	return a.showStatus(s)
}

// statusOfDaemon asks the daemon; nil when there is none that knows of this
// host and repository.
func (a *app) statusOfDaemon(ctx context.Context, noDaemon bool) (*statusReport, error) {
	if noDaemon {
		return nil, nil
	}
	client, err := web.Dial(a.config.Listen)
	if err != nil {
		return nil, usage.Errorf("%w", err)
	}
	defer client.Close()
	r, err := client.Report(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && a.unusable != nil:
		a.out.Notef("%v", err)
		return nil, nil
	case errors.Is(err, web.ErrNotRunning):
		if slices.ContainsFunc(a.config.EnvironmentNames(), func(name string) bool { return a.config.Environments[name].Schedule != "" }) {
			a.out.Notef("%v; this is what the repository says", err)
		}
		return nil, nil
	case err != nil:
		a.out.Notef("%v; this is what the repository says", err)
		return nil, nil
	case a.unusable == nil && (r.Host != a.host || a.repoURL != "" && r.Repository != stores.Redact(a.repoURL)):
		a.out.Notef("the daemon at %s is that of host %s and repository %s; this is what the repository says", a.config.Listen, r.Host, r.Repository)
		return nil, nil
	}
	s := &statusReport{Source: "daemon", Report: *r, Environments: []statusLine{}}
	for _, e := range r.Ranked() {
		line := statusLine{reported: e, Name: e.Name, Host: r.Host}
		if l := e.LastSuccess; l != nil {
			line.Newest = &snapshotJSON{Ref: l.Snapshot, Host: r.Host, Environment: e.Name, ID: l.SnapshotID, Time: &l.Started, Status: statusWord(false, l.Problems),
				contentJSON: contentOf(l)}
		}
		s.Environments = append(s.Environments, line)
	}
	return s, nil
}

// statusOfRepository looks at the heads in the repository, and at what the
// configuration promises of them.
func (a *app) statusOfRepository(ctx context.Context, now time.Time) (*statusReport, error) {
	r, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := a.hosts(ctx, r, false)
	if err != nil {
		return nil, err
	}
	s := &statusReport{Source: "repository", Report: report.Report{Version: version, Host: a.host, Repository: r.URL(), Now: now, Warnings: []report.Warning{},
		Storage: report.Storage{UnprovenPuts: r.UnprovenPuts(), UnprotectedAt: daemon.UnprotectedAt(r)}}, Environments: []statusLine{}}
	seen := map[string]bool{}
	for _, h := range hosts {
		envs, err := r.Environments(ctx, h)
		if err != nil {
			return nil, err
		}
		for _, env := range envs {
			head, err := r.Head(ctx, h, env)
			if err != nil {
				return nil, err
			}
			if head == nil {
				continue
			}
			line := statusLine{reported: reported{Name: env, AgeSeconds: -1}, Name: env, Host: h}
			good, err := a.doubt(ctx, r, &line, head)
			if err != nil {
				return nil, err
			}
			if good != nil {
				newest := a.toJSON(good)
				line.Newest = &newest
			}
			if good != nil && good.Body != nil {
				b := good.Body
				line.reported.Newest, line.AgeSeconds, line.ProtectedUntil = b.Started, now.Sub(b.Started).Seconds(), r.ClaimedProtection(b)
			}
			if h == a.host {
				seen[env] = true
				promise(&line, a.config.Environments[env])
			}
			s.add(line)
		}
	}
	for _, env := range a.config.EnvironmentNames() {
		if !seen[env] {
			line := statusLine{reported: reported{Name: env, AgeSeconds: -1}, Name: env, Host: a.host}
			promise(&line, a.config.Environments[env])
			s.add(line)
		}
	}
	return s, nil
}

// doubt gives the newest good snapshot, and notes in the line when that is not
// the head.
func (a *app) doubt(ctx context.Context, r *repository.Repository, line *statusLine, head *history.Snapshot) (good *history.Snapshot, err error) {
	suspect, err := r.Suspect(ctx, head)
	if err != nil || !suspect {
		return head, err
	}
	line.Suspect = &report.Suspicion{Since: head.Body.Started, Snapshot: head.Ref(), Reasons: a.reasonsOf(ctx, r, head)}
	if good, err = r.NewestGood(ctx, head.Host, head.Environment); good != nil {
		line.Suspect.Good = good.Ref()
	}
	return good, err
}

// add adds a line, and to the report what is known of it: what nobody here can
// open has no age.
func (s *statusReport) add(l statusLine) {
	s.Environments = append(s.Environments, l)
	if l.Newest == nil || l.Newest.Time != nil {
		s.Report.Environments = append(s.Report.Environments, l.reported)
	}
}

// promise says what the configuration promises of an environment.
func promise(l *statusLine, env *configs.Environment) {
	if env == nil {
		return
	}
	l.RPOSeconds = time.Duration(env.RPO).Seconds()
	l.Schedule, l.TimeZone = env.Schedule, env.TimeZone
	l.RPOBroken = l.RPOSeconds > 0 && (l.AgeSeconds < 0 || l.AgeSeconds > l.RPOSeconds)
}
