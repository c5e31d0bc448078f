package daemon

import (
	"knowngood/daemon/report"
	"time"

	"go.uber.org/zap"
)

// logRun is the line that a run leaves at its end.
func logRun(log *zap.Logger, name string, run *report.Run) {
	fields := []zap.Field{zap.String("result", string(run.Result)), zap.String("trigger", run.Trigger), zap.Duration("took", run.Duration().Round(time.Millisecond)), zap.Int("attempts", run.Attempts)}
	what, size := "prune", zap.Uint64("freed_bytes", run.FreedBytes)
	if name == checkJob {
		what, size = "check", zap.Uint64("read_bytes", run.ReadBytes)
	}
	if isEnvironment(name) {
		what, size = "run", zap.Uint64("stored_bytes", run.StoredBytes)
		fields = append(fields, zap.String("environment", name), zap.String("snapshot", run.Snapshot), zap.Uint64("files", run.Files), zap.Uint64("bytes", run.Bytes),
			zap.Uint64("new_bytes", run.NewBytes), zap.Uint64("problems", run.Problems))
	}
	if isDrill(name) {
		what = name
		for i := range run.Drilled {
			fields = append(fields, zap.String(run.Drilled[i].Environment, run.Drilled[i].Text()))
		}
	} else if isDrift(name) {
		what = name
		for i := range run.Drifted {
			fields = append(fields, zap.String(run.Drifted[i].Environment, run.Drifted[i].Text()))
		}
	} else {
		fields = append(fields, size)
	}
	if run.HealedPacks > 0 {
		fields = append(fields, zap.Uint64("healed_packs", run.HealedPacks), zap.Uint64("healed_bytes", run.HealedBytes))
	}
	if run.Missed > 0 {
		fields = append(fields, zap.Int("missed", run.Missed))
	}
	switch {
	case run.Result == report.Interrupted && (isDrill(name) || isDrift(name)):
		log.Info(run.Error, fields...)
	case run.Result == report.Interrupted:
		log.Info(what+" interrupted by the stop of the daemon; the next one goes on from there", fields...)
	case run.Result == report.Failed:
		log.Error(what+" failed", append(fields, zap.String("error", run.Error))...)
	case run.Result == report.Suspect:
		log.Warn(what+" done: the snapshot is suspect, and nothing is forgotten until it is accepted or the source is back", append(fields, zap.Strings("suspect", run.Suspect))...)
	default:
		log.Info(what+" done", fields...)
	}
}
