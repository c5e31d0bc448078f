// Package drills is what the drill command does: it chooses a snapshot, drills it,
// signs the result and prints it; and the hidden command that serves in a cell.
package drills

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/restore"
	"knowngood/restore/drill"
	"knowngood/restore/generation"
	"knowngood/restore/isolate"
	"knowngood/restore/probe"
	"knowngood/snapshot"
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// Command is the drill command.
func Command(sess *session.Session) *cobra.Command {
	var scratch string
	var m many
	cmd := &cobra.Command{
		Use:   "drill [ENV|REF] | drill --all",
		Short: "Prove a snapshot: restore it, start its services, run its probes",
		Long: `Drill a snapshot: restore it into scratch space, every byte verified, compare it
with its list of files, start the services that the configuration names for the
environment from the restored tree, and run its probes; measure each phase, sign
the result and store it. The scratch space is removed afterwards; what a killed
drill left is removed by the next one.

Programs of the tree run in namespaces of their own, in which there is no network
and nothing of this machine's files but, with base: host, /usr. A machine that
cannot make namespaces runs no programs; what needs them is not tested then.

Which snapshot of ENV is drilled, and what is asked, is in the configuration of
this machine, below drill, or for other hosts below drills. With nothing there it
restores, verifies and compares. --all drills each environment that these have, of
each host in turn, past those that fail; the exit code is the worst.

The exit code is 0 when it passed, 3 when it passed but something required was not
tested or took longer than rto, 14 when a probe failed, and 13 when what is stored
is damaged. A host that only writes cannot drill: run it where the identity is.`,
		Example: `  knowngood drill web
  knowngood drill web@42 --scratch /mnt/scratch
  knowngood drill --all
  knowngood drill list web`,
		Args:              usage.Takes(0, 1),
		ValidArgsFunction: completion.References(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if m.all || cmd.Flags().Changed("job") {
				if len(args) > 0 {
					return usage.Errorf("--all drills what the configuration names: leave %s out", args[0])
				}
				return m.run(cmd.Context(), sess, scratch)
			}
			return run(cmd.Context(), sess, strings.Join(args, ""), scratch)
		},
	}
	cmd.Flags().StringVar(&scratch, "scratch", "", "`directory` for scratch space (default: drills in the state directory)")
	m.flags(cmd.Flags())
	cmd.AddCommand(listCommand(sess))
	return cmd
}

// Cell is the hidden command that is the first process of a cell.
func Cell() *cobra.Command {
	return &cobra.Command{
		Use:         "cell",
		Short:       "Serve in a cell of a drill",
		Example:     "  knowngood cell",
		Hidden:      true,
		Args:        usage.Takes(0, 1),
		Annotations: map[string]string{"config": "none"},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 { // of a patch
				return isolate.Enter(generation.ServeRun)
			}
			return isolate.Enter(probe.Serve)
		},
	}
}

// errWriteOnly is about a host that cannot read what it stores.
var errWriteOnly = fmt.Errorf("%w: this host only writes, and a drill reads. Run knowngood drill on the machine that has an identity, or name one with --identity FILE", trust.ErrNoUsableIdentity)

func run(ctx context.Context, sess *session.Session, arg, scratch string) error {
	started := time.Now()
	if sess.IdentityPath == "" {
		return errWriteOnly
	}
	if arg == "" {
		names := sess.Config.EnvironmentNames()
		if len(names) != 1 {
			return usage.Errorf("which environment? Name one, or a snapshot such as web@42")
		}
		arg = names[0]
	}
	r, err := sess.OpenForReading(ctx)
	if err != nil {
		return err
	}
	s, d, err := choose(ctx, sess, r, arg)
	if err != nil {
		return err
	}
	out, err := drillOf(ctx, sess, r, s, d, scratch, started)
	if err != nil {
		return err
	}
	return out.print(sess.Out)
}

// drillOf drills a snapshot, signs the result and stores it.
func drillOf(ctx context.Context, sess *session.Session, r *repository.Repository, s *history.Snapshot, d *configs.DrillEntry, scratch string, started time.Time) (out *outcome, err error) {
	if s.Body == nil {
		return nil, r.Closed(ctx, s.Root)
	}
	o, err := options(sess, d, scratch, started)
	if err != nil {
		return nil, err
	}
	key, unsigned := r.Attest.EnsureKey(ctx, s.Host, o.Machine, started)
	if unsigned != nil && !errors.Is(unsigned, attest.ErrNotCertified) {
		return nil, unsigned
	}

	rep, err := drillOne(ctx, sess, r, s, o)
	if err != nil {
		return nil, err
	}
	for _, d := range rep.Damage {
		sess.Damage.Add(d)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out = &outcome{report: rep, result: &rep.Result, unsigned: unsigned, promised: time.Duration(d.RTO)}
	if unsigned == nil {
		if out.attestation, err = r.Attest.Put(ctx, &rep.Result, key, time.Now()); err != nil {
			out.unsigned = fmt.Errorf("the result is not stored: %w", err)
		}
	}
	return out, nil
}

// Unsigned drills a snapshot as an entry has it, and
// neither signs nor stores the result.
func Unsigned(ctx context.Context, sess *session.Session, s *history.Snapshot, d *configs.DrillEntry, scratch string) (*drill.Report, error) {
	o, err := options(sess, d, scratch, time.Now())
	if err != nil {
		return nil, err
	}
	return drillOne(ctx, sess, sess.Repo, s, o)
}

// Signed drills a snapshot as an entry has it, signs the result and stores it. unsigned is
// why that is not stored.
func Signed(ctx context.Context, sess *session.Session, r *repository.Repository, s *history.Snapshot, d *configs.DrillEntry) (rep *drill.Report, unsigned, err error) {
	out, err := drillOf(ctx, sess, r, s, d, "", time.Now())
	if err != nil {
		return nil, nil, err
	}
	return out.report, out.unsigned, nil
}

// EntryOf is what this machine's configuration asks of an environment of a host.
func EntryOf(sess *session.Session, host, environment string) *configs.DrillEntry {
	d, _ := sess.Config.DrillOf(own(sess), host, environment)
	return d
}

// options are those of a drill.
func options(sess *session.Session, d *configs.DrillEntry, scratch string, started time.Time) (*drill.Options, error) {
	if _, err := os.Stat(scratch); scratch != "" && err != nil {
		return nil, fmt.Errorf("scratch space: %w: make the directory, or mount what belongs there", err)
	}
	scratch, err := filepath.Abs(cmp.Or(scratch, drill.ScratchDir(sess.StateDir)))
	return &drill.Options{
		Config: &d.Drill, Started: started, Version: sess.Version, Machine: own(sess),
		Scratch: scratch, Cell: []string{"knowngood", "cell"}, Progress: &restore.Progress{},
	}, err
}

// drillOne drills a snapshot. One of which the list of files is damaged has failed.
func drillOne(ctx context.Context, sess *session.Session, r *repository.Repository, s *history.Snapshot, o *drill.Options) (rep *drill.Report, err error) {
	if o.Tree, err = snapshot.OpenTree(ctx, r, s); err != nil {
		if authentic.Damaged(err) {
			return drill.Unreadable(s, o, err), nil
		}
		return nil, err
	}
	defer o.Tree.Reader.Close()
	if env := sess.Config.Environments[s.Environment]; env != nil && s.Host == sess.OwnHost() {
		o.Carried = env.Scale == nil && len(env.Carried()) > 0
	}
	if base := o.Config.Base; strings.Contains(base, "@") {
		if o.Base, _, err = sess.Tree(ctx, base); err != nil {
			return nil, fmt.Errorf("base %s: %w", base, err)
		}
		defer o.Base.Reader.Close()
	}
	var phase atomic.Value
	phase.Store("")
	o.Step = func(name string) { phase.Store(name) }
	p := sess.Out.Progress(func() console.State {
		return console.State{Files: o.Progress.Files.Load(), Bytes: o.Progress.Bytes.Load(), Note: phase.Load().(string)}
	})
	defer p.End()
	return drill.Run(ctx, *o)
}

// own is the name of this machine, as a host where it is one.
func own(sess *session.Session) string { return cmp.Or(sess.OwnHost(), sess.Host) }

// choose finds the snapshot that is meant, and what this machine's configuration asks
// of it. What it has for its own environments is not meant for those of other hosts.
func choose(ctx context.Context, sess *session.Session, r *repository.Repository, arg string) (*history.Snapshot, *configs.DrillEntry, error) {
	ref := arg
	if !strings.ContainsAny(arg, "@:") {
		ref += "@latest"
	}
	s, sub, err := sess.Resolve(ctx, r, ref)
	if err != nil && ref != arg { // then it may be an ID
		if byID, _, iderr := sess.Resolve(ctx, r, arg); iderr == nil {
			s, ref, err = byID, arg, nil
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if sub != "" {
		return nil, nil, usage.Errorf("a drill is of a whole snapshot: name %s without the path", s.Ref())
	}
	d := EntryOf(sess, s.Host, s.Environment)
	if ref != arg {
		s, err = chosen(ctx, r, s, d.Snapshot)
	}
	return s, d, err
}

// chosen is the snapshot of an environment that a configuration means.
func chosen(ctx context.Context, r *repository.Repository, latest *history.Snapshot, which string) (*history.Snapshot, error) {
	if which == "latest" {
		return latest, nil
	}
	var kept []*history.Snapshot
	for s, err := range r.Kept(ctx, latest.Host, latest.Environment) {
		if err != nil && !authentic.Damaged(err) {
			return nil, err
		}
		if err == nil {
			kept = append(kept, s)
		}
	}
	if len(kept) == 0 {
		return latest, nil
	}
	slices.SortFunc(kept, func(a, b *history.Snapshot) int { return cmp.Compare(b.Number, a.Number) })
	if which == "random" {
		return kept[rand.IntN(len(kept))], nil
	}
	all, err := r.Attest.All(ctx, latest.Host, latest.Environment)
	if err != nil {
		return nil, err
	}
	for _, s := range kept {
		if !slices.ContainsFunc(all, func(a *attest.Attestation) bool { return a.Err == nil && a.Passed && a.Subject.ID == s.ID }) {
			return s, nil
		}
	}
	return latest, nil
}

// code is the exit code of a drill that ended.
func (o *outcome) code() int {
	switch {
	case len(o.report.Damage) > 0:
		return exit.Damage
	case !o.result.Passed:
		return exit.ProbeFailed
	case o.unsigned != nil && !errors.Is(o.unsigned, attest.ErrNotCertified):
		return exit.Failed
	case o.unsigned != nil, len(drill.Untested(o.result)) > 0, o.report.Incomplete, o.missed():
		return exit.Incomplete
	}
	return exit.Done
}
