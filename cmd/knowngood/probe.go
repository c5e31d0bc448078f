package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

func probeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "probe",
		Short: "Find out what the store does when somebody overwrites an object",
		Long: `Find out, with an object of its own, what the store does to a put of a key that
exists, with the condition that it must not exist and without, and whether what was
overwritten or deleted can be read again. The credentials of this machine are used:
on a host, probe shows what somebody who takes that host over could do.

The result is remembered on this machine, for status and check. It says nothing of
other credentials, of tomorrow, or of whoever administers the store.`,
		Example: `  knowngood probe
  knowngood probe --host web-7 --json    with the credentials of web-7, before it joins`,
		Args: usage.Takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.probe(cmd.Context()) },
	}
}

func (a *app) probe(ctx context.Context) error {
	r, err := a.connectWithoutIdentity(ctx)
	if err != nil {
		return err
	}
	host := a.given.host
	if host == "" {
		host = a.ownHost()
	}
	p, err := r.Probe(ctx, host, time.Now())
	if err != nil {
		return err
	}

	a.out.Printf("probed %s\n\n", r.URL())
	a.out.Printf("  a put where nothing must exist   %s\n", either(p.SecondCreateRefused, "refused when something exists", "NOT refused when something exists"))
	a.out.Printf("  a put without that condition     %s\n", either(p.PlainPutRefused, "refused", "not refused"))
	a.out.Printf("  what was overwritten or deleted  %s\n\n", either(p.VersionsKept, "can be read again: there are versions", "could not be read again"))
	if p.Unprotected() {
		a.out.Printf("WARNING: %s.\n%s.\n", trust.Unprotected, protect)
	}
	return a.out.Result(map[string]any{"type": "result", "repository": r.URL(), "store": toStoreJSON(p)})
}

// protect is what to do about a store where objects can be replaced for good.
const protect = "Turn versions on in the bucket, or demand If-None-Match by a policy (configs/iam/create-only-bucket-policy.json); `knowngood probe` then tests it again. A directory can do neither: keep it where a host that may be taken over cannot write"

func either(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

// storeJSON is what is known of a store as --json prints it.
type storeJSON struct {
	VersionsKept   bool      `json:"versions_kept"`
	CreateEnforced bool      `json:"create_enforced"`
	Unprotected    bool      `json:"unprotected"` // neither of both
	Probed         time.Time `json:"probed"`
}

// toStoreJSON is nil where nothing is known.
func toStoreJSON(p *statement.Probe) *storeJSON {
	if p == nil {
		return nil
	}
	return &storeJSON{p.VersionsKept, p.PlainPutRefused, p.Unprotected(), p.At.UTC()}
}

// printUnprotected prints a warning where the store was seen to keep no versions
// and to enforce no create, with the date of that.
func (a *app) printUnprotected(p *statement.Probe) {
	if p != nil && p.Unprotected() {
		a.out.Printf("WARNING: %s.\n  As probed on %s. %s.\n", trust.Unprotected, human.Time(p.At), protect)
	}
}
