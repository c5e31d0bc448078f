package main

import (
	"context"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/notify"
	"knowngood/storage/stores"
)

func testNotifyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "test-notify",
		Short: "Send a test by each configured way of notification",
		Long: `Send a test message by each webhook, by mail and by the command that are
configured below notify, and show whether each was sent. The ping is not sent: its
monitor would take it for a run.`,
		Example: `  knowngood config test-notify`,
		Args:    usage.Takes(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.testNotify(cmd.Context()) },
	}
}

func (a *app) testNotify(ctx context.Context) error {
	n, err := notify.New(a.config.Notify, notify.Options{Host: a.host, Repository: stores.Redact(a.repoURL), Version: version})
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
			a.out.Printf("%s: sent\n", t.Channel)
		} else {
			a.out.Code = exit.Failed
			said["error"] = t.Err.Error()
			a.out.Printf("%s: FAILED: %v\n", t.Channel, t.Err)
		}
		channels = append(channels, said)
	}
	return a.out.Result(map[string]any{"type": "result", "channels": channels})
}
