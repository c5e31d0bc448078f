package main

import (
	"context"
	"errors"
	"fmt"

	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/snapshot/check"
	"knowngood/storage/repository"
	"knowngood/storage/trust"
)

// openForCheck opens the repository for a check. A repair takes the keys of this
// machine's host, and an identity only to look into what it captured.
func openForCheck(ctx context.Context, sess *session.Session, repair bool, o *check.Options) (*repository.Repository, error) {
	if !repair {
		return sess.OpenForReading(ctx)
	}
	r, err := sess.Open(ctx)
	if err != nil {
		return nil, err
	}
	if own := sess.OwnHost(); sess.Given.Host != "" && own != sess.Given.Host {
		return nil, usage.Errorf("--repair: only host %s itself can sign its index: run this there", sess.Given.Host)
	}
	o.Repair, err = r.Host(ctx)
	if errors.Is(err, trust.ErrNotEnrolled) {
		return nil, usage.Errorf("--repair: only a host can sign its index, and the state directory %s has the keys of none: run this on the host whose index is to be rebuilt (%v)", sess.StateDir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("--repair: %w", err)
	}
	if o.Sealed = sess.IdentityPath == ""; o.Sealed {
		o.Host = o.Repair.Name
	}
	return r, nil
}
