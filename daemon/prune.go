package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"knowngood/snapshot/prune"
)

// prune is a run of the prune job, over what this host stored, as it is
// configured when its turn comes.
func (d *Daemon) prune(r *running) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		if err := d.places.Take(ctx); err != nil {
			return err
		}
		defer d.places.Leave()
		defer func() { err = because(ctx, err) }()
		d.mu.Lock()
		c := d.config
		d.mu.Unlock()
		if c.Prune == nil {
			return errGone
		}
		o := prune.Options{Host: c.Host, Announce: time.Duration(c.Prune.Announce), MaxRepack: uint64(c.Prune.MaxRepack), Progress: &r.pruned}
		d.Log.Info("prune started", zap.String("trigger", r.run.Trigger))
		r.live.enter("prune")
		r.run.Attempts = 1
		repo, _, err := d.repository(ctx)
		if err != nil {
			return err
		}
		if o.MaxRepack > 0 && c.Identity != "" {
			unlocked, err := d.Unlocked(ctx, c)
			if err != nil {
				return fmt.Errorf("open the repository with the identity, to repack: %w", err)
			}
			defer unlocked.Close()
			defer repo.LookAnew() // what was announced, lest the next snapshot refer to it
			repo = unlocked
		}
		report, err := prune.Run(ctx, repo, o)
		for errors.Is(err, prune.ErrChanged) && r.run.Attempts < 10 { // by a run of our own that ended just now
			r.run.Attempts++
			report, err = prune.Run(ctx, repo, o)
		}
		var blocked []error
		if report != nil {
			for _, x := range report.Domains {
				r.run.FreedBytes += x.Deleted.Bytes
				d.Log.Info("pruned", zap.Stringer("domain", x.ID), zap.Uint64("deleted_bytes", x.Deleted.Bytes), zap.Uint64("announced_bytes", x.Announced.Bytes),
					zap.Uint64("waiting_bytes", x.Waiting.Bytes), zap.Uint64("spared_bytes", x.Spared.Bytes), zap.Uint64("locked_bytes", x.Locked.Bytes),
					zap.Uint64("repacked_bytes", x.Repacked.Bytes), zap.Uint64("rewritten_bytes", x.Rewritten))
			}
			for _, n := range report.Notes {
				d.Log.Warn(n)
			}
			for _, b := range report.Blocked {
				blocked = append(blocked, b)
			}
		}
		return errors.Join(append(blocked, err)...)
	}
}
