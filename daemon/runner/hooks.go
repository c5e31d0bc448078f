package runner

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/command"
	"knowngood/internal/printable"
)

// hookTimeout is the timeout of hooks that have none.
const hookTimeout = 5 * time.Minute

// hooks runs the commands of one kind of hook in order, with stop only until the
// first one fails. It returns the first error.
func (r *Runner) hooks(ctx context.Context, which string, hooks []configs.Hook, environ []string, stop bool) error {
	var first error
	for i, h := range hooks {
		log := r.Log.With(zap.String("hook", which), zap.String("program", h.Command[0]))
		timeout := cmp.Or(time.Duration(h.Timeout), hookTimeout)
		c := command.Command{Argv: h.Command, Env: append(environ, "KNOWNGOOD_HOOK="+which), Timeout: timeout, Outside: h.Outside,
			Line: func(stream, line string) { log.Info(line, zap.String("stream", stream)) }}
		if err := c.Run(ctx); err != nil {
			err = fmt.Errorf("hook %s, command %d: %w", which, i+1, err)
			log.Error("hook failed", zap.Error(err))
			first = cmp.Or(first, err)
			if stop {
				return first
			}
		}
	}
	return first
}

// environ are the variables that describe a run to its hooks, without those that
// are not known yet.
func (r *Runner) environ(name string, run *report.Run) []string {
	env := []string{"KNOWNGOOD_ENVIRONMENT=" + name, "KNOWNGOOD_HOST=" + r.Host, "KNOWNGOOD_REPOSITORY=" + r.Repository, "KNOWNGOOD_TRIGGER=" + run.Trigger,
		"KNOWNGOOD_STARTED=" + run.Started.UTC().Format(time.RFC3339)}
	add := func(name, value string) {
		if value != "" && value != "0" {
			env = append(env, "KNOWNGOOD_"+name+"="+value)
		}
	}
	result := string(run.Result)
	if run.Died {
		result = "died"
	}
	add("RESULT", result)
	add("SNAPSHOT", run.Snapshot)
	add("ERROR", printable.Variable(run.Error))
	for _, n := range []struct {
		name  string
		value uint64
	}{{"FILES", run.Files}, {"BYTES", run.Bytes}, {"NEW_BYTES", run.NewBytes}, {"STORED_BYTES", run.StoredBytes}, {"PROBLEMS", run.Problems}} {
		add(n.name, strconv.FormatUint(n.value, 10))
	}
	return env
}
