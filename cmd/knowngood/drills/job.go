package drills

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"slices"

	"go.uber.org/zap"

	"knowngood/cmd/knowngood/session"
	"knowngood/configs"
	"knowngood/internal/command"
	"knowngood/internal/outside"
	"knowngood/restore/isolate"
)

// Jobs returns how a daemon has its drills done: by a process of its own, or where
// its unit may make no namespaces, by a server of root's at a socket, which knows only
// its own configuration.
func Jobs(sess *session.Session, socket string, log *zap.Logger) func(ctx context.Context, job string, sweep bool) ([]byte, error) {
	return func(ctx context.Context, job string, sweep bool) ([]byte, error) {
		var out bytes.Buffer
		c := command.Command{Path: "/proc/self/exe", Argv: Arguments(job, sweep), Env: os.Environ(), Stdout: &out, Line: func(_, line string) { log.Info("drill: " + line) }}
		if socket != "" {
			c.Argv = append([]string{os.Args[0], "outside", "--socket", socket, "--"}, c.Argv...)
		} else {
			c.Argv[0] = os.Args[0]
			c.Env = append(c.Env, "KNOWNGOOD_CONFIG="+sess.ConfigFile, "KNOWNGOOD_REPO="+sess.Given.RepoURL, "KNOWNGOOD_IDENTITY="+sess.Given.IdentityPath,
				"KNOWNGOOD_STATE_DIR="+sess.Given.StateDir, "KNOWNGOOD_PIN="+sess.Pin)
			if sess.Given.Host != "" {
				c.Argv = append(c.Argv, "--host", sess.Given.Host)
			}
		}
		err := c.Run(ctx)
		return out.Bytes(), err
	}
}

// Serve does one job of the configuration at path, which only root may change, for
// the daemon at the other end of conn.
func Serve(ctx context.Context, conn *net.UnixConn, path string) error {
	if err := errors.Join(os.Setenv("KNOWNGOOD_CONFIG", path), isolate.OwnGroup()); err != nil {
		return err
	}
	return outside.Serve(ctx, conn, func(argv []string) (outside.Permission, error) {
		config, err := configs.LoadRoots(path)
		if err != nil {
			return outside.No, err
		}
		for _, d := range config.AllDrills() {
			if slices.Equal(argv, Arguments(d.Name(), false)) || slices.Equal(argv, Arguments(d.Name(), true)) {
				return outside.Own, nil
			}
		}
		return outside.No, nil
	})
}
