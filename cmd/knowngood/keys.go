package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"knowngood/storage/repository"
)

func keysCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "List, add and remove who can read, and let hosts in",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		Annotations: map[string]string{"config": "none"},
	}
	var reenrol bool
	grant := &cobra.Command{
		Use:   "grant REQUEST",
		Short: "Grant a host's join request, with an identity that holds the owner key",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			r, err := a.openForReading(cmd.Context())
			if err != nil {
				return err
			}
			c, err := r.Grant(cmd.Context(), b, reenrol, time.Now())
			if err != nil {
				return err
			}
			a.printf("Granted: host %s (certificate %d). On it: knowngood init --join --accept --repo %s\n", c.Host, c.Serial, quoted(r.URL()))
			return a.result(map[string]any{"type": "result", "host": c.Host, "serial": c.Serial})
		},
	}
	grant.Flags().BoolVar(&reenrol, "reenrol", false, "the host is known and was installed anew: ends its old key")
	cmd.AddCommand(grant,
		&cobra.Command{
			Use:   "list",
			Short: "List who can read what is captured from now on",
			Args:  args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error {
				r, err := a.open(cmd.Context())
				if err != nil {
					return err
				}
				list, err := r.Recipients(cmd.Context())
				if err != nil {
					return err
				}
				out := []recipientJSON{}
				for _, k := range list {
					a.printf("%s  %s\n", k.Fingerprint, repository.ShortRecipient(k.Text))
					out = append(out, recipientJSON{k.Text, k.Fingerprint})
				}
				a.printf("owner %s\npin   %x\n", r.OwnerFingerprint(), r.Pin())
				return a.result(map[string]any{"type": "result", "recipients": out, "owner": r.OwnerFingerprint(), "pin": fmt.Sprintf("%x", r.Pin())})
			},
		},
		&cobra.Command{
			Use:   "add RECIPIENT",
			Short: "Let a further public key read",
			Long: `Let a further public key read. With an identity: past and future snapshots of all
hosts; for one that can read already, wrapped keys that the store lost are made
again. Without one: what this host stores anew from now on. Files that did not
change since stay closed to the new key, and with them the snapshots that share them.`,
			Args: args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, args []string) error {
				r, err := a.open(cmd.Context())
				if err != nil {
					return err
				}
				c, err := r.AddRecipient(cmd.Context(), args[0], time.Now())
				if err != nil {
					return err
				}
				past := "what is stored anew from now on"
				if c.Past {
					past = "past and future snapshots"
				}
				return a.tellRecipient("Added", "can read "+past, c)
			},
		},
		&cobra.Command{
			Use:   "remove RECIPIENT|FINGERPRINT",
			Short: "Let a public key read nothing that is captured from now on",
			Long: `Let a public key read nothing that is captured from now on. What it could read
before, it still can: that was sealed to it, and may have been copied.`,
			Args: args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, args []string) error {
				r, err := a.open(cmd.Context())
				if err != nil {
					return err
				}
				c, err := r.RemoveRecipient(cmd.Context(), args[0], time.Now())
				if err != nil {
					return err
				}
				return a.tellRecipient("Removed", "can read nothing that is captured from now on", c)
			},
		})
	return cmd
}

// recipientJSON is a public key as --json prints it.
type recipientJSON struct {
	Recipient   string `json:"recipient"`
	Fingerprint string `json:"fingerprint"`
}

func (a *app) tellRecipient(verb, effect string, c *repository.RecipientChange) error {
	scope := "of all hosts"
	if c.Host != "" {
		scope = "of host " + c.Host + " alone"
	}
	a.printf("%s %s (%s): %s, %s\n", verb, repository.ShortRecipient(c.Recipient.Text), c.Recipient.Fingerprint, effect, scope)
	for _, n := range c.Notes {
		a.printf("note: %s\n", n)
	}
	return a.result(map[string]any{"type": "result", "recipient": c.Recipient.Text, "fingerprint": c.Recipient.Fingerprint, "epoch": c.Epoch.String(), "host": c.Host, "past": c.Past, "notes": listed(c.Notes)})
}
