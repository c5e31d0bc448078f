package proof

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/storage/attest"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// keyFlags of the command attest key. At most one of the actions is asked for.
type keyFlags struct {
	request, pem           bool
	certify, revoke, since string
	hosts                  []string
}

func keyCommand(sess *session.Session) *cobra.Command {
	var f keyFlags
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, certify and revoke the keys that sign what drills proved",
		Long: `List the attest keys, or with a flag certify or revoke one.

A machine whose identity opens the owner key makes and certifies its attest key at
its first drill. A drill host that has no such identity shows what is to be certified
with --request; the owner certifies it, for the hosts that it may speak of.

--revoke ends a key: what the store took at the time of --since or later, by its own
clock, no longer counts; without --since that is now, by the clock of the store.
Give the time from which on the key may have been in other hands.`,
		Example: `  knowngood attest key
  knowngood attest key --request
  knowngood attest key --certify KEY --hosts 'web-*' --identity FILE
  knowngood attest key --revoke 0123456789abcdef --since 2026-11-20 --identity FILE
  knowngood attest key --pem`,
		Args: usage.Takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return key(cmd.Context(), sess, &f)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.request, "request", false, "print what the owner certifies the key of this machine by")
	fl.StringVar(&f.certify, "certify", "", "certify the `key` that --request printed elsewhere")
	fl.StringArrayVar(&f.hosts, "hosts", nil, "with --certify: a `pattern` of the hosts that the key may speak of; may be repeated")
	fl.StringVar(&f.revoke, "revoke", "", "revoke the key of this `ID`")
	fl.StringVar(&f.since, "since", "", "with --revoke: the `time` from which on the key does not count, such as 2026-11-20T10:00, or 12h for as long ago")
	fl.BoolVar(&f.pem, "pem", false, "print the public key of this machine, as other tools read it")
	cmd.MarkFlagsMutuallyExclusive("request", "certify", "revoke", "pem")
	return cmd
}

func key(ctx context.Context, sess *session.Session, f *keyFlags) error {
	switch {
	case (f.certify != "") != (len(f.hosts) > 0):
		return usage.Errorf("--certify and --hosts go together: which hosts may the key speak of?")
	case f.since != "" && f.revoke == "":
		return usage.Errorf("--since goes with --revoke")
	}
	for _, pattern := range f.hosts {
		if err := statement.ValidHostPattern(pattern); err != nil {
			return usage.Errorf("--hosts: %w", err)
		}
	}
	r, err := sess.Connect(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	switch {
	case f.request:
		return request(sess, r, now)
	case f.certify != "":
		x, err := r.Attest.Certify(ctx, f.certify, f.hosts, now)
		return keyResult(sess, x, "Certified", err)
	case f.revoke != "":
		id, ok := layout.ParseKeyID(f.revoke)
		if !ok {
			return usage.Errorf("--revoke %q: an ID of 16 hexadecimal digits, as knowngood attest key lists them", f.revoke)
		}
		var since time.Time
		if f.since == "" {
			if since, err = r.StoreTime(ctx, sess.Host); err != nil {
				return fmt.Errorf("%w: give the time from which on the key does not count, with --since TIME", err)
			}
		} else if since, _, err = usage.Moment("--since", f.since, now); err != nil {
			return err
		}
		x, err := r.Attest.Revoke(ctx, id, since, now)
		return keyResult(sess, x, "Revoked", err)
	case f.pem:
		x, err := r.Attest.PublicKey()
		if err != nil {
			return err
		}
		sess.Out.Printf("%s", attest.PEM(x))
		return sess.Out.Result(map[string]any{"type": "result", "id": statement.AttestKeyID(x).String(), "pem": string(attest.PEM(x))})
	}
	return listKeys(ctx, sess, r)
}

// request prints the request of this machine's key, and what the owner will certify.
func request(sess *session.Session, r *repository.Repository, now time.Time) error {
	text, id, err := r.Attest.Request(sess.Host, now)
	if err != nil {
		return err
	}
	sess.Out.Messagef("attest key %v of machine %s. Where the owner's identity is, run: knowngood attest key --certify KEY --hosts 'PATTERN' --identity FILE, with this as KEY:", id, sess.Host)
	sess.Out.Printf("%s\n", text)
	return sess.Out.Result(map[string]any{"type": "result", "id": id.String(), "machine": sess.Host, "request": text})
}

// keyJSON is an attest key as --json prints it.
type keyJSON struct {
	ID      string    `json:"id"`
	Machine string    `json:"machine"`
	Hosts   []string  `json:"hosts"`
	Host    string    `json:"host,omitempty"` // of the repository, that the machine is
	Serial  uint64    `json:"serial"`
	Issued  time.Time `json:"issued"`
	Revoked time.Time `json:"revoked,omitzero"`
}

func toKeyJSON(x *statement.AttestKey) keyJSON {
	return keyJSON{x.ID().String(), x.Machine, append([]string{}, x.Hosts...), x.Host, x.Serial, x.Issued, x.Before}
}

func keyResult(sess *session.Session, x *statement.AttestKey, verb string, err error) error {
	if err != nil {
		return err
	}
	sess.Out.Printf("%s: %s\n", verb, keyText(x))
	return sess.Out.Result(map[string]any{"type": "result", "key": toKeyJSON(x)})
}

func keyText(x *statement.AttestKey) string {
	s := fmt.Sprintf("%v  machine %s  for hosts %s  certificate %d of %s", x.ID(), x.Machine, printable.Name(strings.Join(x.Hosts, ", ")), x.Serial, human.Time(x.Issued))
	if x.Host != "" {
		s += "  (it is host " + x.Host + ")"
	}
	if !x.Before.IsZero() {
		s += "  REVOKED: what was stored from " + human.Time(x.Before) + " on does not count"
	}
	return s
}

func listKeys(ctx context.Context, sess *session.Session, r *repository.Repository) error {
	keys, err := r.Attest.Keys(ctx)
	if err != nil {
		return err
	}
	for _, x := range keys {
		sess.Out.Printf("%s\n", keyText(x))
	}
	if len(keys) == 0 {
		sess.Out.Printf("No attest key is certified. A machine makes its own at its first drill.\n")
	}
	return sess.Out.Result(map[string]any{"type": "result", "keys": console.Each(keys, toKeyJSON)})
}
