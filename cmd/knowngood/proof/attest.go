package proof

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/durable"
	"knowngood/internal/printable"
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/statement"
)

// Command is attest, with what is below it.
func Command(sess *session.Session) *cobra.Command {
	return usage.Group(&cobra.Command{
		Use:   "attest",
		Short: "Show, verify and export what drills proved, mark snapshots as bad",
		Example: `  knowngood attest show web@known-good
  knowngood attest export web@42 --output web-42.json
  knowngood attest bad web@42 --reason "its database is corrupt"
  knowngood attest key`,
	}, showCommand(sess), verifyCommand(sess), exportCommand(sess), badCommand(sess), keyCommand(sess))
}

// resolve finds the snapshot that a reference names, be it forgotten or pruned.
func resolve(ctx context.Context, sess *session.Session, text string) (*history.Snapshot, error) {
	r, err := sess.Open(ctx)
	if err != nil {
		return nil, err
	}
	s, sub, err := sess.Resolve(ctx, r, text)
	if err != nil && (s == nil || !errors.Is(err, history.ErrPruned)) {
		return nil, err
	}
	if sub != "" {
		return nil, usage.Errorf("%s: drills and marks are about a whole snapshot: leave the path out", text)
	}
	return s, nil
}

// attestations resolves a reference, and reads what drills proved of the snapshot.
func attestations(ctx context.Context, sess *session.Session, text string) (*history.Snapshot, []*attest.Attestation, error) {
	s, err := resolve(ctx, sess, text)
	if err != nil {
		return nil, nil, err
	}
	all, err := sess.Repo.Attest.Of(ctx, s.Host, s.Environment, s.Number)
	return s, all, err
}

// about refuses an attestation that counts and is about another root.
func about(s *history.Snapshot, a *attest.Attestation) error {
	if a.Err == nil && a.Subject.ID != s.ID {
		return fmt.Errorf("it is about another root: %x", a.Subject.ID)
	}
	return a.Err
}

func noneCounts(s *history.Snapshot) error {
	return fmt.Errorf("no attestation of %s counts: knowngood attest show %s/%s shows why", s.Ref(), s.Host, s.Ref())
}

// attestationJSON is an attestation as --json prints it.
type attestationJSON struct {
	Key          string         `json:"key"`
	KeyID        string         `json:"key_id"`
	Stored       time.Time      `json:"stored"`
	Counts       bool           `json:"counts"`
	Reason       string         `json:"reason,omitempty"` // why it does not
	SelfAttested bool           `json:"self_attested"`
	Outputs      bool           `json:"evidence"` // there is what probes printed
	Drill        *attest.Result `json:"drill,omitempty"`
}

func toJSON(s *history.Snapshot, all []*attest.Attestation) []attestationJSON {
	return console.Each(all, func(a *attest.Attestation) attestationJSON {
		j := attestationJSON{a.Key, a.KeyID.String(), a.Stored, true, "", a.SelfAttested, a.HasOutputs, a.Result}
		if err := about(s, a); err != nil {
			j.Counts, j.Reason = false, err.Error()
		}
		return j
	})
}

func showCommand(sess *session.Session) *cobra.Command {
	var evidence bool
	cmd := &cobra.Command{
		Use:   "show REF",
		Short: "Show what drills proved of a snapshot",
		Long: `Show what drills proved of a snapshot: each attestation, the newest first, with those
that do not count and why; marks; and whether the snapshot is known-good by the
configuration here. --evidence also prints what the probes of the newest drill that
counts printed, which takes an identity.`,
		Example: `  knowngood attest show web@42
  knowngood attest show web@known-good --evidence --identity FILE`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(cmd.Context(), sess, args[0], evidence)
		},
	}
	cmd.Flags().BoolVar(&evidence, "evidence", false, "also print what the probes of the newest drill printed")
	return cmd
}

func show(ctx context.Context, sess *session.Session, text string, evidence bool) error {
	s, all, err := attestations(ctx, sess, text)
	if err != nil {
		return err
	}
	policy, err := sess.Policy(s.Host, s.Environment)
	if err != nil {
		return err
	}
	proven, err := sess.Repo.Judge(ctx, s.Host, s.Environment, policy, time.Now())
	if err != nil {
		return err
	}
	judged := attest.Judged{Reason: "it is forgotten"}
	for _, j := range proven.Verdict.Snapshots {
		if j.Number == s.Number {
			judged = j
		}
	}

	sess.Out.Printf("snapshot    %s of host %s\nid          %x\n", s.Ref(), s.Host, s.ID)
	if judged.Reason == "" {
		sess.Out.Printf("known-good  yes, %s\n", present.ProofText(judged.Proof))
	} else {
		sess.Out.Printf("known-good  no: %s\n", printable.Name(judged.Reason))
	}
	if judged.HostBad {
		sess.Out.Printf("marked bad  by the host itself, which changes nothing%s\n", because(judged.HostReason))
	}
	var newest *attest.Attestation
	for _, a := range all {
		if err := about(s, a); err != nil {
			sess.Out.Printf("\nattestation %s\n  does not count: %s\n", a.Key, printable.Error(err))
			continue
		}
		if newest == nil {
			newest = a
		}
		printResult(sess, a)
	}
	if len(all) == 0 {
		sess.Out.Printf("No drill of it is stored.\n")
	}
	out := map[string]any{"type": "result", "ref": s.Ref(), "host": s.Host, "id": fmt.Sprintf("%x", s.ID), "known_good": judged.Reason == "", "reason": judged.Reason, "marked_bad": judged.Bad, "proof": present.Proof(judged.Proof),
		"attestations": toJSON(s, all)}
	if evidence && newest != nil {
		b, err := sess.Repo.Attest.Evidence(ctx, newest)
		if err != nil {
			return err
		}
		sess.Out.Printf("\n%s", printable.Text(string(b)))
		out["evidence"] = string(b)
	}
	return sess.Out.Result(out)
}

// printResult prints an attestation that counts.
func printResult(sess *session.Session, a *attest.Attestation) {
	word := "passed, " + a.Level.String()
	if !a.Passed {
		word = "FAILED"
	}
	self := ""
	if a.SelfAttested {
		self = ", self-attested: by the machine that captured it"
	}
	sess.Out.Printf("\n%s on %s%s\n", word, a.Machine, self)
	sess.Out.Printf("  stored      %s, by the clock of the store; key %v\n", human.Time(a.Stored), a.KeyID)
	sess.Out.Printf("  isolation   %s, base %s", printable.Name(a.Isolation.Rung), printable.Name(a.Isolation.Base))
	if a.Isolation.Attempts > 0 {
		sess.Out.Printf("; %d of %d ways out were refused", a.Isolation.Refused, a.Isolation.Attempts)
	}
	sess.Out.Printf("\n  restored    %s, %s of %s\n", human.Counted(a.Files, "file"), human.Bytes(a.Bytes), human.Bytes(a.Of))
	sess.Out.Printf("  RTO         %s, of it %s waiting for the store", human.Duration(a.RTO()), human.Duration(a.Store))
	phases := console.Each(a.Phases, func(p attest.Phase) string { return printable.Name(p.Name) + " " + human.Duration(p.Took) })
	sess.Out.Printf(": %s\n", strings.Join(phases, ", "))
	for _, p := range a.Probes {
		cause := ""
		if p.Cause != "" {
			cause = ": " + printable.Name(p.Cause)
		}
		sess.Out.Printf("  probe       %s (%s): %s%s, %s\n", printable.Name(p.Name), printable.Name(p.Kind), p.Status, cause, human.Duration(p.Took))
	}
	for _, u := range a.Unproven {
		sess.Out.Printf("  not proven  %s\n", printable.Name(u))
	}
}

func verifyCommand(sess *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "verify REF",
		Short: "Verify the attestations of a snapshot",
		Long: `Verify each attestation of a snapshot: the hash in its name, the signature, the
certificate of its key, its place, and that its subject is the root of the snapshot.

The exit code is 13 where one is damaged or forged, and 1 where none counts.
One by a key that was revoked, or that may not speak of the host, does not count.`,
		Example:           `  knowngood attest verify web@42`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, all, err := attestations(cmd.Context(), sess, args[0])
			if err != nil {
				return err
			}
			counts, forged := 0, 0
			for _, a := range all {
				err := about(s, a)
				switch {
				case err == nil:
					counts++
					sess.Out.Printf("verified    %s\n", a.Key)
					continue
				case !errors.Is(err, attest.ErrRevoked) && !errors.Is(err, statement.ErrOutOfScope):
					forged++
				}
				sess.Out.Printf("NOT valid   %s: %s\n", a.Key, printable.Error(err))
			}
			err = sess.Out.Result(map[string]any{"type": "result", "ref": s.Ref(), "host": s.Host, "id": fmt.Sprintf("%x", s.ID), "verified": counts, "forged": forged,
				"attestations": toJSON(s, all)})
			switch {
			case err != nil:
				return err
			case forged > 0:
				return &authentic.TamperError{What: "attestations of " + s.Host + "/" + s.Ref(), Remembered: "results that an attest key signed", Found: human.Counted(forged, "object") + " that do not verify", Hint: "find out who may put below attestations/"}
			case counts == 0:
				return noneCounts(s)
			}
			return nil
		},
	}
}

func exportCommand(sess *session.Session) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export REF",
		Short: "Write the newest attestation of a snapshot that counts, as it is stored",
		Long: `Write the newest attestation of a snapshot that counts to the standard output, or to
a new file: the bytes of the object, which
are a DSSE envelope around an in-toto statement. knowngood attest key --pem has the
key that verifies it.`,
		Example: `  knowngood attest export web@42 | jq -r .payload | base64 -d
  knowngood attest export web@42 --output web-42.json`,
		Args:              usage.Takes(1, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, all, err := attestations(cmd.Context(), sess, args[0])
			if err != nil {
				return err
			}
			for _, a := range all {
				if about(s, a) != nil {
					continue
				}
				object, err := sess.Repo.Attest.Object(cmd.Context(), a)
				if err != nil {
					return err
				}
				if output != "" {
					if err := durable.Create(output, object, 0o644); err != nil {
						return err
					}
					return sess.Out.Result(map[string]any{"type": "result", "ref": s.Ref(), "host": s.Host, "output": output})
				}
				_, err = sess.Out.Stdout.Content().Write(object)
				return err
			}
			return noneCounts(s)
		},
	}
	cmd.Flags().StringVar(&output, "output", "", "write it to this `file`")
	return cmd
}
