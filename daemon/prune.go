package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"knowngood/daemon/runner"
	"knowngood/snapshot/prune"
	"knowngood/storage/repository"
)

// prune is a run of the prune job, over what this host stored, with the
// configuration of the moment when its turn comes.
func (x *executor) prune(ctx context.Context, r *running) (err error) {
	if err := x.places.Take(ctx); err != nil {
		return err
	}
	defer x.places.Leave()
	defer func() { err = runner.WithCause(ctx, err) }()
	x.jobs.mu.Lock()
	c := x.jobs.config
	x.jobs.mu.Unlock()
	if c.Prune == nil {
		return errGone
	}
	log := x.o.Log
	log.Info("prune started", zap.String("trigger", r.run.Trigger))
	r.live.Enter("prune")
	r.run.Attempts = 1

	repo, _, err := x.repository(ctx)
	if err != nil {
		return err
	}
	o := prune.Options{Host: c.Host, Announce: time.Duration(c.Prune.Announce), Progress: &r.pruned}
	if c.Identity != "" { // else captures do it
		o.MaxRepack = uint64(c.Prune.MaxRepack)
	}
	if o.MaxRepack > 0 {
		unlocked, err := x.o.Unlocked(ctx, c, x.findings)
		if err != nil {
			return fmt.Errorf("open the repository with the identity, to repack: %w", err)
		}
		repo = unlocked
	}

	var blocked []error
	for {
		blocked, err = x.pruneOnce(ctx, r, repo, o)
		if !errors.Is(err, prune.ErrChanged) {
			break
		}
		if r.run.Attempts > maxPruneRetries {
			err = fmt.Errorf("given up after %d attempts, and the next run of the schedule tries again: %w", r.run.Attempts, err)
			break
		}
		log.Info("prune begins again", zap.Error(err), zap.Int("attempt", r.run.Attempts))
		r.run.Attempts++
	}
	return errors.Join(append(blocked, err)...)
}

// maxPruneRetries is how often a prune begins again because something was forgotten
// meanwhile, by another run of this daemon or by others.
const maxPruneRetries = 2

// pruneOnce prunes, logs and counts what was done, and returns what was blocked and
// what ended it.
func (x *executor) pruneOnce(ctx context.Context, r *running, repo *repository.Repository, o prune.Options) (blocked []error, err error) {
	log := x.o.Log
	report, err := prune.Run(ctx, repo, o)
	if report != nil {
		for _, d := range report.Domains {
			r.run.FreedBytes += d.Deleted.Bytes
			log.Info("pruned", zap.Stringer("domain", d.ID), zap.Uint64("deleted_bytes", d.Deleted.Bytes), zap.Uint64("announced_bytes", d.Announced.Bytes),
				zap.Uint64("waiting_bytes", d.Waiting.Bytes), zap.Uint64("spared_bytes", d.Spared.Bytes), zap.Uint64("locked_bytes", d.Locked.Bytes),
				zap.Uint64("repacked_bytes", d.Repacked.Bytes), zap.Uint64("rewritten_bytes", d.Rewritten))
		}
		for _, n := range report.Notes {
			log.Warn(n)
		}
		for _, b := range report.Blocked {
			blocked = append(blocked, b)
		}
	}
	return blocked, err
}
