package main

import (
	"context"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/notify"
	"knowngood/storage/stores"
)

func testNotifyCommand(sess *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "test-notify",
		Short: "Send a test by each configured way of notification",
		Long: `Send a test message by each webhook, by mail and by the command that are
configured below notify, and show whether each was sent. The ping is not sent: its
monitor would take it for a run.`,
		Example: `  knowngood config test-notify`,
		Args:    usage.Takes(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return testNotify(cmd.Context(), sess) },
	}
}

func testNotify(ctx context.Context, sess *session.Session) error {
	n, err := notify.New(sess.Config.Notify, notify.Options{Host: sess.Host, Repository: stores.Redact(sess.RepoURL), Version: sess.Version})
	if err != nil {
		return usage.Errorf("%w", err)
	}
	tests := n.Test(ctx)
	if len(tests) == 0 {
		return usage.Errorf("nothing to test: the configuration has no webhook, email or command below notify")
	}
	channels := []any{}
	for _, t := range tests {
		said := map[string]any{"channel": t.Channel, "sent": t.Err == nil}
		if t.Err == nil {
			sess.Out.Printf("%s: sent\n", t.Channel)
		} else {
			sess.Out.Code = exit.Failed
			said["error"] = t.Err.Error()
			sess.Out.Printf("%s: FAILED: %v\n", t.Channel, t.Err)
		}
		channels = append(channels, said)
	}
	return sess.Out.Result(map[string]any{"type": "result", "channels": channels})
}
