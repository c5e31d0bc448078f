package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"knowngood/daemon/report"
)

// driftJob begins the names of the jobs that compare with the known-good state; what
// follows is the name of the entry.
const driftJob = "drift of "

const driftPhase = "drift"

func isDrift(name string) bool { return strings.HasPrefix(name, driftJob) }

// drift is a run of a job that compares, in a process of its own. It leaves nothing behind
// that a later one would have to settle.
func (x *executor) drift(ctx context.Context, name string, r *running) error {
	if err := x.places.Take(ctx); err != nil {
		return err
	}
	defer x.places.Leave()
	x.o.Log.Info("drift started", zap.String("of", name[len(driftJob):]), zap.String("trigger", r.run.Trigger))
	r.live.Enter(driftPhase)
	r.run.Attempts = 1
	out, err := x.o.Drift(ctx, name[len(driftJob):])
	if context.Cause(ctx) != nil {
		r.run.Result, r.run.Error = report.Interrupted, "the comparison was stopped, and begins again"
		return nil
	}
	var last struct {
		Type   string
		Error  string
		Drifts []report.Drifted
	}
	switch unread := lastLine(out, &last); {
	case unread == nil && last.Type == "result" && len(last.Drifts) > 0:
		r.run.SetDrifted(last.Drifts)
		return nil
	case unread == nil && last.Error != "":
		return errors.New("nothing could be compared: " + last.Error)
	}
	return fmt.Errorf("the comparison ended without a result: %w", errors.Join(err, errors.New("see the log")))
}
