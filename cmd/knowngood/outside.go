package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/drills"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/validation"
	"knowngood/internal/outside"
)

// outsideCommand is for the units: the daemon calls it for commands with
// outside: true, and knowngood-outside@.service serves it.
func outsideCommand(sess *session.Session) *cobra.Command {
	var serve, serveDrills bool
	var socket string
	cmd := &cobra.Command{
		Use:         "outside COMMAND... | outside --serve",
		Short:       "Run a command beyond the sandbox of the daemon's unit",
		Example:     "  knowngood outside systemctl reload nginx",
		Hidden:      true,
		Args:        usage.Takes(0, -1),
		Annotations: map[string]string{"config": "none"},
		RunE: func(cmd *cobra.Command, argv []string) (err error) {
			if serve || serveDrills {
				return serveOutside(cmd, cmp.Or(sess.ConfigPath, configs.DefaultPath), serveDrills)
			}
			if len(argv) == 0 {
				return usage.Errorf("which command?")
			}
			sess.Out.Code, err = outside.Run(cmd.Context(), socket, argv, os.Environ(), os.Stdout, os.Stderr)
			return err
		},
	}
	cmd.Flags().BoolVar(&serve, "serve", false, "run what is asked for over the socket on standard input")
	cmd.Flags().StringVar(&socket, "socket", outside.Socket, "`socket` of the server")
	cmd.Flags().BoolVar(&serveDrills, "serve-drills", false, "do the drill that is asked for over the socket on standard input")
	return cmd
}

func serveOutside(cmd *cobra.Command, path string, drillsOnly bool) error {
	c, err := net.FileConn(os.Stdin)
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	defer c.Close()
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("standard input is no Unix socket")
	}
	if drillsOnly {
		return drills.Serve(cmd.Context(), conn, path)
	}
	return outside.Serve(cmd.Context(), conn, func(argv []string) (outside.Permission, error) {
		config, err := configs.LoadRoots(path)
		if err != nil {
			return outside.No, err
		}
		for _, e := range config.Environments {
			for _, h := range slices.Concat(e.Hooks.Before, e.Hooks.After, e.Hooks.OnFailure) {
				if h.Outside && slices.Equal(h.Command, argv) {
					return outside.Hook, validation.RootsAlone(argv)
				}
			}
			for _, s := range e.Sources {
				if s.Outside && slices.Equal(s.Command, argv) {
					return outside.Captured, validation.RootsAlone(argv)
				}
			}
		}
		return outside.No, nil
	})
}
