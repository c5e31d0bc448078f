package daemon

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/storage/prune"
)

// prune is a run of the prune job, over what this host stored.
func (d *Daemon) prune(c *configs.Config, r *running) func(context.Context) error {
	o := prune.Options{Host: c.Host, Announce: time.Duration(c.Prune.Announce)}
	return func(ctx context.Context) error {
		r.live.enter("prune")
		r.run.Attempts = 1
		repo, err := d.repository(ctx)
		if err != nil {
			return err
		}
		report, err := prune.Run(ctx, repo, o)
		for errors.Is(err, prune.ErrChanged) && r.run.Attempts < 10 { // by a run of our own that ended just now
			r.run.Attempts++
			report, err = prune.Run(ctx, repo, o)
		}
		var blocked []error
		if report != nil {
			for _, x := range report.Domains {
				r.run.StoredBytes += x.Deleted.Bytes
				d.Log.Info("pruned", zap.Stringer("domain", x.ID), zap.Uint64("deleted_bytes", x.Deleted.Bytes), zap.Uint64("announced_bytes", x.Announced.Bytes),
					zap.Uint64("waiting_bytes", x.Waiting.Bytes), zap.Uint64("spared_bytes", x.Spared.Bytes), zap.Uint64("locked_bytes", x.Locked.Bytes))
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
