package main

import (
	"fmt"
	"os"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/storage/trust"

	"github.com/spf13/cobra"
)

func keysCommand(sess *session.Session) *cobra.Command {
	var reenrol bool
	grant := &cobra.Command{
		Use:   "grant REQUEST",
		Short: "Grant a host's join request, with an identity that opens the owner key",
		Example: `  knowngood keys grant web-8.request --identity ~/knowngood.identity
  knowngood keys grant web-8.request --reenrol --identity ~/knowngood.identity`,
		Long: `Grant the join request of a host, with an identity that opens the owner key.

A request names the repository that the host was shown, by its pin. When that is
not the pin of this repository, nothing is granted: somebody answered the host in
the place of the store. The fingerprint of the host's key is printed here, and on
the host by init --join --request: compare the two when the request came by a way
on which it could be exchanged.`,
		Args: usage.Takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			r, err := sess.OpenForReading(cmd.Context())
			if err != nil {
				return err
			}
			c, granted, err := r.Grant(cmd.Context(), b, reenrol, time.Now())
			if err != nil {
				return err
			}
			verb := "Granted"
			if granted {
				verb = "Granted already, nothing to do here"
			}
			key := trust.Fingerprint(c.HostKey)
			sess.Out.Printf("%s: host %s (certificate %d)\n", verb, c.Host, c.Serial)
			present.Join(sess.Out, r, key)
			sess.Out.Printf("Compare the host key with the one that the host printed. On it: knowngood init --join --accept --repo %s\n", printable.Word(r.URL()))
			return sess.Out.Result(present.JoinJSON(r, key, map[string]any{"host": c.Host, "serial": c.Serial, "granted_before": granted}))
		},
	}
	grant.Flags().BoolVar(&reenrol, "reenrol", false, "the host is known and was reinstalled: its old key ends")
	return usage.Group(&cobra.Command{
		Use:   "keys",
		Short: "List, add and remove the public keys that can read, and admit hosts",
		Example: `  knowngood keys list
  knowngood keys add 'age1pq1…' --identity ~/knowngood.identity
  knowngood keys grant web-8.request --identity ~/knowngood.identity`,
	}, grant,
		&cobra.Command{
			Use:   "list",
			Short: "List who can read what is captured from now on",
			Example: `  knowngood keys list
  knowngood keys list --json`,
			Args: usage.Takes(0, 0),
			RunE: func(cmd *cobra.Command, _ []string) error {
				r, err := sess.Open(cmd.Context())
				if err != nil {
					return err
				}
				list, err := r.Recipients(cmd.Context())
				if err != nil {
					return err
				}
				for _, k := range list {
					sess.Out.Printf("%s  %s\n", k.Fingerprint, trust.ShortRecipient(k.Text))
				}
				out := console.Each(list, func(k trust.Recipient) recipientJSON { return recipientJSON{k.Text, k.Fingerprint} })
				sess.Out.Printf("owner %s\npin   %x\n", r.OwnerFingerprint(), r.Pin())
				return sess.Out.Result(map[string]any{"type": "result", "recipients": out, "owner": r.OwnerFingerprint(), "pin": fmt.Sprintf("%x", r.Pin())})
			},
		},
		&cobra.Command{
			Use:   "add RECIPIENT",
			Short: "Add a public key that can read",
			Long: `Add a public key that can read past and future snapshots of all hosts. It takes an
identity that can read already. For a key that can read already, wrapped keys that
the store lost are made again.`,
			Example: `  knowngood keys add 'age1pq1…' --identity ~/knowngood.identity
  knowngood keys add "$(cat ~/.ssh/id_ed25519.pub)"`,
			Args: usage.Takes(1, 1),
			RunE: func(cmd *cobra.Command, args []string) error {
				r, err := sess.Open(cmd.Context())
				if err != nil {
					return err
				}
				c, err := r.AddRecipient(cmd.Context(), args[0], time.Now())
				if err != nil {
					return err
				}
				return printRecipient(sess.Out, "Added", "can read past and future snapshots", c)
			},
		},
		&cobra.Command{
			Use:   "remove RECIPIENT|FINGERPRINT",
			Short: "Stop a public key from reading what is captured from now on",
			Long: `Stop a public key from reading what is captured from now on. It can still read
what it could read before: that was sealed to it, and may have been copied. It takes
an identity. Of the fingerprint, as keys list shows it, the first characters are
enough when no other begins with them.`,
			Example: `  knowngood keys remove 'age1pq1…' --identity ~/knowngood.identity
  knowngood keys remove 3f2a9c0d --identity ~/knowngood.identity`,
			Args: usage.Takes(1, 1),
			RunE: func(cmd *cobra.Command, args []string) error {
				r, err := sess.Open(cmd.Context())
				if err != nil {
					return err
				}
				c, err := r.RemoveRecipient(cmd.Context(), args[0], time.Now())
				if err != nil {
					return err
				}
				return printRecipient(sess.Out, "Removed", "can read nothing that is captured from now on", c)
			},
		})
}

// recipientJSON is a public key as --json prints it.
type recipientJSON struct {
	Recipient   string `json:"recipient"`
	Fingerprint string `json:"fingerprint"`
}

func printRecipient(out *console.Console, verb, effect string, c *trust.RecipientChange) error {
	out.Printf("%s %s (%s): %s, of all hosts\n", verb, trust.ShortRecipient(c.Recipient.Text), c.Recipient.Fingerprint, effect)
	for _, n := range c.Notes {
		out.Printf("note: %s\n", printable.Line(n))
	}
	return out.Result(map[string]any{"type": "result", "recipient": c.Recipient.Text, "fingerprint": c.Recipient.Fingerprint, "epoch": c.Epoch.String(), "past": c.Past, "notes": c.Notes})
}
