package drills

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/completion"
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/restore/drill"
	"knowngood/storage/attest"
)

// outcome is a drill that ended, as it is printed.
type outcome struct {
	report      *drill.Report
	result      *attest.Result
	attestation *attest.Attestation
	unsigned    error         // why there is no attestation
	promised    time.Duration // the RTO; 0 for none
}

// missed reports whether the restore would take longer than was promised.
func (o *outcome) missed() bool { return o.promised > 0 && drill.WholeRTO(o.result) > o.promised }

// print prints the outcome, and returns the error that the command ends with.
func (o *outcome) print(out *console.Console) error {
	out.Code = o.code()
	r := o.result
	if err := out.Result(o.json()); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out.Stdout, 0, 4, 2, ' ', 0)
	for i, p := range r.Probes {
		if out.JSON {
			break
		}
		status, what := string(p.Status), o.report.Answers[i].Detail
		if p.Status == attest.Failed {
			status = "FAILED"
		}
		if p.Cause != "" {
			what = strings.TrimSuffix(p.Cause+": "+what, ": ")
		}
		if !p.Required {
			what += " (not required)"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", p.Name, p.Kind, status, human.Duration(p.Took), printable.Line(what))
	}
	if !out.JSON {
		w.Flush()
	}
	for i, p := range r.Probes {
		if text := strings.TrimSpace(o.report.Answers[i].Output); p.Status == attest.Failed && text != "" {
			out.Printf("  %s printed: %s\n", p.Name, printable.Line(text))
		}
	}
	for _, n := range o.report.Notes {
		out.Printf("  note: %s\n", printable.Line(n))
	}
	out.Printf("%s\n", o.text())
	if o.missed() {
		out.Messagef("the RTO of %s is missed: a restore of all of it takes %s. The phases above show where the time goes", human.Duration(o.promised), human.Duration(drill.WholeRTO(r)))
	}
	if o.attestation != nil && o.attestation.SelfAttested {
		out.Notef("note: it is self-attested, because this machine captured the snapshot: it counts where the configuration has a drill of the environment, and elsewhere only with --self-attested")
	}
	if o.unsigned != nil {
		out.Messagef("no attestation was stored: %v", o.unsigned)
	}
	if len(o.report.Damage) > 0 {
		return fmt.Errorf("%w: %s cannot be restored as it was captured: %v (knowngood check names what is affected)", exit.ErrDamage, o.result.Subject, o.report.Damage[0])
	}
	return nil
}

// text is the last line.
func (o *outcome) text() string {
	r := o.result
	var phases []string
	for _, p := range r.Phases {
		phases = append(phases, p.Name+" "+human.Duration(p.Took))
	}
	verdict := "FAILED"
	if r.Passed {
		verdict = "passed, level " + r.Level.String()
	}
	text := fmt.Sprintf("%s %s: %s and %s", o.result.Subject, verdict, human.Counted(r.Files, "file"), human.Bytes(r.Bytes))
	if r.Bytes < r.Of {
		text += " of " + human.Bytes(r.Of)
	}
	text += fmt.Sprintf(" verified, isolation %s, base %s, RTO %s (%s; store %s)", r.Isolation.Rung, r.Isolation.Base, human.Duration(drill.WholeRTO(r)), strings.Join(phases, ", "), human.Duration(r.Store))
	if r.Isolation.Attempts > 0 {
		text += fmt.Sprintf("; %d of %d ways out of the cell refused", r.Isolation.Refused, r.Isolation.Attempts)
	}
	return printable.Line(text)
}

// resultJSON is a result as --json prints it, of a new drill or of a past one.
type resultJSON struct {
	attest.Result
	Ref         string     `json:"ref"`
	ID          string     `json:"id"`
	WholeRTO    float64    `json:"rto_seconds"` // of the whole snapshot
	Measured    float64    `json:"measured_seconds"`
	Store       float64    `json:"store_seconds"`
	NotTested   []string   `json:"not_tested"`
	Stored      *time.Time `json:"stored,omitempty"`
	Attestation string     `json:"attestation,omitempty"` // key of the object
	Self        bool       `json:"self_attested,omitempty"`
	Problem     string     `json:"problem,omitempty"` // why the attestation does not count
}

func toJSON(r *attest.Result) resultJSON {
	j := resultJSON{Result: *r, Ref: r.Subject.String(), ID: fmt.Sprintf("%x", r.Subject.ID),
		WholeRTO: drill.WholeRTO(r).Seconds(), Measured: r.RTO().Seconds(), Store: r.Store.Seconds(), NotTested: present.List(drill.Untested(r))}
	j.Phases, j.Probes, j.Unproven = present.List(r.Phases), present.List(r.Probes), present.List(r.Unproven)
	return j
}

func (o *outcome) json() any {
	j := toJSON(o.result)
	if o.attestation != nil {
		j.Attestation = o.attestation.Key
	}
	return struct {
		Type string `json:"type"`
		resultJSON
		Answers  []drill.Answer `json:"answers"`
		Notes    []string       `json:"notes"`
		Promised float64        `json:"rto_promised_seconds,omitempty"`
		Missed   bool           `json:"rto_missed"`
	}{"result", j, present.List(o.report.Answers), present.List(o.report.Notes), o.promised.Seconds(), o.missed()}
}

func listCommand(sess *session.Session) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "list [ENVIRONMENT]",
		Short: "List past drills, the newest last",
		Long: `List the drills of this host's environments, or of one, as their attestations
have them: the snapshot, when the store took the result, the level that was reached,
the RTO, how programs were isolated, and what was not tested. It needs no identity.

--all is for a drill host: it lists every environment that was captured, on any host,
with its newest proof. One that the configuration has no drill of, or that has no
proof of the last 30 days, is never proven.`,
		Example: `  knowngood drill list
  knowngood drill list web --json
  knowngood drill list --all`,
		Args:              usage.Takes(0, 1),
		ValidArgsFunction: completion.Environments(sess, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usage.Errorf("--all lists every environment: leave %s out", args[0])
			case all:
				return listAll(cmd.Context(), sess)
			}
			return list(cmd.Context(), sess, args)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list how each environment of each host is proven")
	return cmd
}

func list(ctx context.Context, sess *session.Session, envs []string) error {
	r, err := sess.Open(ctx)
	if err != nil {
		return err
	}
	hosts, err := catalog.Hosts(ctx, r, sess.Host, false)
	if err != nil {
		return err
	}
	what := "ENV"
	if len(envs) > 0 {
		what = envs[0]
		ref, sub, err := sess.Ref(what)
		if err != nil {
			return err
		}
		if ref.Environment == "" || sub != "" || strings.Contains(what, "@") {
			return usage.Errorf("%s: name an environment, such as web or web-7/web, not one of its snapshots and no path", what)
		}
		if ref.Host != "" {
			hosts = []string{ref.Host}
		}
		envs = []string{ref.Environment}
	}
	var rows []resultJSON
	for _, host := range hosts {
		of := envs
		if len(of) == 0 {
			if of, err = r.EveryEnvironment(ctx, host); err != nil {
				return err
			}
		}
		for _, env := range of {
			all, err := r.Attest.All(ctx, host, env)
			if err != nil {
				return err
			}
			for _, a := range slices.Backward(all) {
				rows = append(rows, past(a))
			}
		}
	}
	if err := sess.Out.Result(map[string]any{"type": "result", "drills": rows}); err != nil || sess.Out.JSON {
		return err
	}
	if len(rows) == 0 {
		sess.Out.Printf("No drills yet. Run one: knowngood drill %s\n", what)
		return nil
	}
	w := tabwriter.NewWriter(sess.Out.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SNAPSHOT\tSTORED\tRESULT\tLEVEL\tRTO\tISOLATION\tBASE\tMACHINE\tNOT TESTED")
	for i := range rows {
		j := &rows[i]
		if j.Level == attest.Unproven && j.Problem != "" && j.ID == "" {
			fmt.Fprintf(w, "-\t%s\tunreadable\t-\t-\t-\t-\t-\t%s\n", human.Time(*j.Stored), printable.Line(j.Problem))
			continue
		}
		result, rest := "FAILED", strings.Join(append(j.NotTested, j.Unproven...), ", ")
		if j.Passed {
			result = "passed"
		}
		if j.Problem != "" {
			result, rest = "does not count", j.Problem
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable.Line(j.Ref), human.Time(*j.Stored), result, j.Level, human.Duration(drill.WholeRTO(&j.Result)),
			printable.Line(j.Isolation.Rung), printable.Line(j.Isolation.Base), printable.Line(j.Machine), printable.Line(rest))
	}
	return w.Flush()
}

// past is an attestation as it is listed.
func past(a *attest.Attestation) resultJSON {
	var j resultJSON
	if a.Result != nil {
		j = toJSON(a.Result)
	}
	j.Stored, j.Attestation, j.Self = &a.Stored, a.Key, a.SelfAttested
	if a.Err != nil {
		j.Problem = a.Err.Error()
	}
	return j
}
