package generations

import (
	"context"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"knowngood/cmd/knowngood/drills"
	"knowngood/cmd/knowngood/session"
	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/scratch"
	"knowngood/restore/generation"
	"knowngood/snapshot/live"
)

// Trials returns how a daemon finds what of an environment is on trial. What is on trial for too
// long is taken back, by a process of its own, where this user may.
func Trials(sess *session.Session, log *zap.Logger) func(ctx context.Context, name string, env *configs.Environment) (*report.Trial, error) {
	return func(ctx context.Context, name string, env *configs.Environment) (*report.Trial, error) {
		u, err := uncommitted(sess.StateDir, name, env)
		if u == nil || time.Now().Before(u.Deadline) || unix.Access(u.Dir, unix.W_OK) != nil {
			return trial(u), err
		}
		if _, err := drills.Child(ctx, sess, log, []string{"generations", name, "--recover"}); err != nil {
			log.Warn("a trial that is over could not be taken back", zap.String("environment", name), zap.Error(err))
		}
		u, err = uncommitted(sess.StateDir, name, env)
		return trial(u), err
	}
}

// OnTrial is what of an environment is on trial; nil for nothing. It only reads.
func OnTrial(sess *session.Session, name string) (*report.Trial, error) {
	env := sess.Config.Environments[name]
	if env == nil {
		return nil, nil
	}
	u, err := uncommitted(sess.StateDir, name, env)
	return trial(u), err
}

func trial(u *generation.Unfinished) *report.Trial {
	if u == nil {
		return nil
	}
	return &report.Trial{Generation: u.Generation, Deadline: u.Deadline, Back: u.Back}
}

// uncommitted is that of the root of an environment, or of a patch in place by this user or by
// root.
func uncommitted(stateDir, name string, env *configs.Environment) (*generation.Unfinished, error) {
	o := &generation.Options{Environment: name, Config: env}
	if env.Root != "" {
		if unix.Access(filepath.Join(filepath.Dir(env.Root), live.DirName(env.Root)), unix.F_OK) != nil {
			return nil, nil
		}
		return generation.Uncommitted(o)
	}
	for _, dir := range scratch.Places(stateDir, "patches") {
		o.InPlace = &generation.InPlace{Dir: filepath.Join(dir, name)}
		if u, err := generation.Uncommitted(o); u != nil || err != nil {
			return u, err
		}
	}
	return nil, nil
}
