package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"knowngood/cmd/knowngood/captures"
	"knowngood/cmd/knowngood/drifts"
	"knowngood/cmd/knowngood/drills"
	"knowngood/cmd/knowngood/generations"
	"knowngood/cmd/knowngood/logging"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon"
	"knowngood/daemon/child"
	"knowngood/storage/stores"
)

func daemonCommand(sess *session.Session) *cobra.Command {
	var level, drillSocket string
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Take the scheduled snapshots of the configuration",
		Long: `Take the snapshots of the configuration on their schedules, until stopped.

Each environment with a schedule is captured when it is due: hooks before,
sources, retries while the store fails, hooks after, retention. What was missed
while the machine was off is captured once afterwards (catch_up). Failures, broken
RPOs, damage and recoveries are sent to the channels below notify.

It listens at the address of listen (a Unix socket by default) for:
  knowngood status          the state of each environment
  knowngood snapshot NAME   a run now
and for monitors: /healthz, /readyz, /metrics, /api/v1/report, and a page at /.

SIGHUP loads a changed configuration; one that is not valid changes nothing.
SIGTERM stops runs under way: the next run continues from there.
Run it as the service that the package installs: systemctl enable --now knowngood.`,
		Example: `  systemctl enable --now knowngood
  knowngood daemon --config test.yaml --log-level debug`,
		Annotations: map[string]string{"config": "demanded, with advice"},

		Args: usage.Takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), sess, level, drillSocket) },
	}
	cmd.Flags().StringVar(&drillSocket, "drill-socket", "", "`socket` of knowngood-drill.socket, where drills are asked for (default: the daemon starts them itself)")
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func runDaemon(ctx context.Context, sess *session.Session, level, drillSocket string) error {
	log, err := logging.New(sess.Out.Stderr, level)
	if err != nil {
		return usage.Errorf("--log-level: %w", err)
	}
	defer log.Sync()
	if sess.Given.RepoURL != "" { // that of the configuration was judged with it
		if err := errors.Join(stores.Check(sess.Given.RepoURL)...); err != nil {
			return usage.Errorf("--repo: %w", err)
		}
	}
	if err := sess.RefuseOtherHost(); err != nil {
		return err
	}
	if err := child.NotDumpable(); err != nil {
		return err
	}
	c := captures.New(sess)
	d := daemon.New(daemon.Options{Config: sess.Config, Load: sess.Reload, Open: c.Open, Unlocked: c.Unlocked, Capture: c.Capture, Drill: drills.Jobs(sess, drillSocket, log), Drift: drifts.Jobs(sess, log), Trial: generations.Trials(sess, log), Working: c.Working, Version: sess.Version, ConfigFile: sess.ConfigFile, Log: log,
		Notify: func(state string) {
			if _, err := sd.SdNotify(false, state); err != nil {
				log.Debug("the service manager does not listen", zap.Error(err))
			}
		},
		Watchdog: watchdog()})
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		for {
			select {
			case <-hup:
				d.Reload() // which reports why, if it does not
			case <-ctx.Done():
				return
			}
		}
	}()
	return d.Run(ctx)
}

// watchdog is how often the service manager wants to hear from this process.
func watchdog() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || usec <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}
