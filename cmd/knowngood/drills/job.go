package drills

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"

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
		argv := Arguments(job, sweep)
		if socket == "" {
			return Child(ctx, sess, log, argv[1:])
		}
		return output(ctx, log, "drill", append([]string{os.Args[0], "outside", "--socket", socket, "--"}, argv...), os.Environ())
	}
}

// Child runs this program with arguments, and the flags and variables that it was started
// with itself. It returns what it prints; its messages are logged.
func Child(ctx context.Context, sess *session.Session, log *zap.Logger, args []string) ([]byte, error) {
	env := append(os.Environ(), "KNOWNGOOD_CONFIG="+sess.ConfigFile, "KNOWNGOOD_REPO="+sess.Given.RepoURL, "KNOWNGOOD_IDENTITY="+sess.Given.IdentityPath,
		"KNOWNGOOD_STATE_DIR="+sess.Given.StateDir, "KNOWNGOOD_PIN="+sess.Pin)
	argv := append([]string{os.Args[0]}, args...)
	if sess.Given.Host != "" {
		argv = append(argv, "--host", sess.Given.Host)
	}
	return output(ctx, log, args[0], argv, env)
}

func output(ctx context.Context, log *zap.Logger, what string, argv, env []string) ([]byte, error) {
	var out bytes.Buffer
	c := command.Command{Path: "/proc/self/exe", Argv: argv, Env: env, Stdout: &out, Line: func(_, line string) { log.Info(what + ": " + strings.TrimPrefix(line, "knowngood: ")) }}
	err := c.Run(ctx)
	return out.Bytes(), err
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
