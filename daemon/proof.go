package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/repository"
)

// proveEvery is how often it is read what drills proved of an environment.
const proveEvery = time.Hour

// ProofOf is what drills proved of an environment of a host; nil where nothing is, and
// nothing is wanted. env is its configuration, nil for none.
func ProofOf(ctx context.Context, repo *repository.Repository, host, name string, env *configs.Environment, policy attest.Policy, now time.Time) *report.Proof {
	p := &report.Proof{Wanted: env != nil && (env.KnownGood != nil || env.Drill != nil), LimitSeconds: policy.NotOlderThan.Seconds()}
	if !p.Wanted { // then a history of years is not walked for nothing
		if none, err := repo.Attest.None(ctx, host, name); err == nil && none {
			return nil
		}
	}
	proven, err := repo.Judge(ctx, host, name, policy, now)
	if errors.Is(err, storage.ErrDenied) {
		err = fmt.Errorf("the credentials may not read attestations and marks, see configs/iam: %w", err)
	}
	if err != nil {
		p.Error = report.Shorten(err.Error(), report.MaxError)
		return p
	}
	shown := p.Wanted
	for i, j := range proven.Verdict.Snapshots {
		ref := fmt.Sprintf("%s@%d", name, j.Number)
		if i == 0 {
			p.Newest, p.Reason = ref, j.Reason
		}
		if j.Bad {
			if p.BadCount++; len(p.Bad) < report.MaxBad {
				p.Bad = append(p.Bad, report.Bad{Snapshot: ref, Reason: j.Reason})
			}
		}
		shown = shown || j.Bad || j.Proof != nil
	}
	if !shown {
		return nil
	}
	if good := proven.Good; good != nil {
		x := good.Proof
		p.Snapshot, p.Started = fmt.Sprintf("%s@%d", name, good.Number), proven.Snapshots[good.Number].Body.Started
		p.Level, p.Base, p.Isolation, p.Machine, p.RTOSeconds, p.Proven, p.SelfAttested = x.Level.String(), x.Base, x.Rung, x.Machine, x.RTO.Seconds(), x.Stored, x.SelfAttested
		p.AgeSeconds = x.Age.Seconds()
		if p.Reason == attest.NotDrilled {
			p.Reason = ""
		}
	}
	return p
}

// prove reads what drills proved of the environments of which that was read long ago,
// or with another configuration.
func (x *executor) prove(ctx context.Context, repo *repository.Repository) {
	type due struct {
		*job
		env *configs.Environment
	}
	x.jobs.mu.Lock()
	host, now := x.jobs.config.Host, x.o.Now()
	var list []due
	for name, j := range x.jobs.byName {
		age := now.Sub(j.proved)
		if isEnvironment(name) && !j.gone && (age < 0 || age >= proveEvery || j.provedWith != j.env || j.provedIn != repo.ID()) {
			list = append(list, due{j, j.env})
		}
	}
	x.jobs.mu.Unlock()
	for _, d := range list {
		p := ProofOf(ctx, repo, host, d.name, d.env, runner.ProofPolicy(d.env), now)
		if ctx.Err() != nil {
			return
		}
		x.jobs.mu.Lock()
		d.proof, d.proved, d.provedWith, d.provedIn = p, now, d.env, repo.ID()
		x.jobs.mu.Unlock()
	}
	if len(list) > 0 {
		x.reportFindings(nil)
	}
}
