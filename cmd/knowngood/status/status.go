// Package status shows the state of each environment, as the daemon reports it or as
// the repository shows.
package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/daemon/web"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
)

// Report is what the status command prints.
type Report struct {
	Type    string `json:"type"`
	Source  string `json:"source"` // daemon or repository
	Level   string `json:"level"`  // well, attention, broken
	Summary string `json:"summary"`
	// Unusable is why the configuration cannot be read as it is now.
	Unusable string `json:"configuration_error,omitempty"`
	report.Report
	Environments []Line `json:"environments"`
}

// Line is one environment. Its newest snapshot is shown in full, its past
// runs are not.
type Line struct {
	reported
	Name   string                `json:"environment"`
	Host   string                `json:"host"`
	Newest *present.SnapshotJSON `json:"newest,omitempty"`
	Runs   *struct{}             `json:"runs,omitempty"`
}

type reported = report.Environment

// add adds a line, and to the report what is known of it: what nobody here can
// open has no age.
func (s *Report) add(l Line) {
	s.Environments = append(s.Environments, l)
	if l.Newest == nil || l.Newest.Time != nil {
		s.Report.Environments = append(s.Report.Environments, l.reported)
	}
}

// OfDaemon asks the daemon; nil when there is none that knows of this
// host and repository.
func OfDaemon(ctx context.Context, sess *session.Session) (*Report, error) {
	client, err := web.Dial(sess.Config.Listen)
	if err != nil {
		return nil, usage.Errorf("%w", err)
	}
	defer client.Close()
	r, err := client.Report(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && sess.Unusable != nil:
		sess.Out.Notef("%v", err)
		return nil, nil
	case errors.Is(err, web.ErrNotRunning):
		if slices.ContainsFunc(sess.Config.EnvironmentNames(), func(name string) bool { return sess.Config.Environments[name].Schedule != "" }) {
			sess.Out.Notef("%v; this comes from the repository", err)
		}
		return nil, nil
	case err != nil:
		sess.Out.Notef("%v; this comes from the repository", err)
		return nil, nil
	case sess.Unusable == nil && (r.Host != sess.Host || sess.RepoURL != "" && stores.Place(r.Repository) != stores.Place(sess.RepoURL)):
		sess.Out.Notef("the daemon at %s is that of host %s and repository %s; this comes from the repository", sess.Config.Listen, r.Host, r.Repository)
		return nil, nil
	}
	s := &Report{Source: "daemon", Report: *r, Environments: []Line{}}
	for _, e := range r.Ranked() {
		line := Line{reported: e, Name: e.Name, Host: r.Host}
		if l := e.LastSuccess; l != nil {
			line.Newest = &present.SnapshotJSON{Ref: l.Snapshot, Host: r.Host, Environment: e.Name, ID: l.SnapshotID, Time: &l.Started, Status: present.StatusWord(false, l.Problems),
				ContentJSON: present.ContentOf(l)}
		}
		s.Environments = append(s.Environments, line)
	}
	return s, nil
}

// OfRepository looks at the heads in the repository, and at what the
// configuration promises of them.
func OfRepository(ctx context.Context, sess *session.Session, now time.Time) (*Report, error) {
	r, err := sess.Open(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := catalog.Hosts(ctx, r, sess.Host, false)
	if err != nil {
		return nil, err
	}
	s := &Report{Source: "repository", Report: report.Report{Version: sess.Version, Host: sess.Host, Repository: r.URL(), Now: now, Warnings: []report.Warning{},
		Storage: report.Storage{UnprovenPuts: r.UnprovenPuts(), UnprotectedAt: daemon.UnprotectedAt(r)}}, Environments: []Line{}}
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
			line := Line{reported: reported{Name: env, AgeSeconds: -1}, Name: env, Host: h}
			good, err := doubt(ctx, sess, r, &line, head)
			if err != nil {
				return nil, err
			}
			if good != nil {
				newest := present.Snapshot(r, good)
				line.Newest = &newest
			}
			if good != nil && good.Body != nil {
				b := good.Body
				line.reported.Newest, line.AgeSeconds, line.ProtectedUntil = b.Started, now.Sub(b.Started).Seconds(), r.ClaimedProtection(b)
			}
			policy, err := sess.Policy(h, env)
			if err != nil {
				return nil, err
			}
			configured := sess.Config.Environments[env]
			if h != sess.Host {
				configured = nil
			}
			line.Proof = daemon.ProofOf(ctx, r, h, env, configured, policy, now)
			if h == sess.Host {
				seen[env] = true
				if good != nil && configured != nil {
					line.Uncaptured = good.Lacks(runner.SourcePaths(configured))
				}
				s.complete(sess, &line)
			}
			s.add(line)
		}
	}
	for _, env := range sess.Config.EnvironmentNames() {
		if !seen[env] {
			line := Line{reported: reported{Name: env, AgeSeconds: -1}, Name: env, Host: sess.Host}
			s.complete(sess, &line)
			s.add(line)
		}
	}
	s.WarnOfTrials()
	s.WarnOfInstances()
	return s, nil
}

// complete adds to a line of this host what the repository does not know: what its
// configuration promises, and its trials and instances.
func (s *Report) complete(sess *session.Session, l *Line) {
	promise(l, sess.Config.Environments[l.Name])
	if own := sess.OwnHost(); own != "" && own != sess.Host { // it is about another machine
		return
	}
	l.Instances = daemon.InstancesOf(sess.Config.Environments[l.Name], s.Now)
	var err error
	if l.Trial, err = generations.OnTrial(sess, l.Name); err != nil {
		s.Warnings = append(s.Warnings, report.Warning{Time: s.Now, Text: fmt.Sprintf("generations of %s: %v", l.Name, err)})
	}
}

// doubt gives the newest good snapshot, and notes in the line when that is not
// the head.
func doubt(ctx context.Context, sess *session.Session, r *repository.Repository, line *Line, head *history.Snapshot) (good *history.Snapshot, err error) {
	suspect, err := r.Suspect(ctx, head)
	if err != nil || !suspect {
		return head, err
	}
	line.Suspect = &report.Suspicion{Since: head.Body.Started, Snapshot: head.Ref(), Reasons: sess.Reasons(ctx, r, head)}
	if good, err = r.NewestGood(ctx, head.Host, head.Environment); good != nil {
		line.Suspect.Good = good.Ref()
	}
	return good, err
}

// promise is what the configuration promises for an environment.
func promise(l *Line, env *configs.Environment) {
	if env == nil {
		return
	}
	l.RPOSeconds = time.Duration(env.RPO).Seconds()
	l.Schedule, l.TimeZone = env.Schedule, env.TimeZone
	l.RPOBroken = l.RPOSeconds > 0 && (l.AgeSeconds < 0 || l.AgeSeconds > l.RPOSeconds)
}
