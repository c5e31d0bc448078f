// Package repository puts the parts of a repository over a store together: its
// trust, its history, what is to be deleted, and the objects (docs/FORMAT.md).
//
// A host holds public keys, its signing key and its domain, and can commit,
// list and verify with them; it cannot read what it captured. Whoever unlocks
// the repository with an identity can read. What an identity opens stays in
// memory.
//
// Everything read is verified: the descriptor against a pin, statements
// against the owner key in it, roots against the certificates and the chain,
// listings against what this machine remembers. What does not verify is an
// *authentic.DamageError or *authentic.TamperError and never used. On a store that
// keeps versions an object that was hidden or overwritten is found beneath the
// current view, used, and reported (trust.Options.Report).
//
// It never replaces an object, and deletes none of its own accord but those by
// which it probes the store. What may be deleted snapshot/prune decides.
package repository

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/objects"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// Repository is an open repository. Its methods may be called concurrently.
type Repository struct {
	*trust.Trust
	*history.History
	*deletion.Deletion
	*objects.Objects
	// Attest has what drills proved, the attest keys and the marks.
	Attest *attest.Ledger
}

// Options qualify Open.
type Options struct{ trust.Options }

// Open opens the repository in store; see trust.Open.
func Open(ctx context.Context, store storage.Store, o Options) (*Repository, error) {
	t, err := trust.Open(ctx, store, o.Options)
	if err != nil {
		return nil, err
	}
	return parts(t), nil
}

// Init makes a repository in store and enrols this machine as its first host; see
// trust.Init.
func Init(ctx context.Context, store storage.Store, o trust.InitOptions) (*Repository, *trust.InitResult, error) {
	t, made, err := trust.Init(ctx, store, o)
	if err != nil {
		return nil, nil, err
	}
	return parts(t), made, nil
}

func parts(t *trust.Trust) *Repository {
	d := deletion.New(t)
	o := objects.New(t, d)
	a := attest.Open(t)
	return &Repository{t, history.New(t, d, o, a), d, o, a}
}

// Join enrols this machine as a host, with an identity that opens the owner key.
// The error is trust.ErrHostExists when the host is enrolled and Reenrol is not
// set.
func (r *Repository) Join(ctx context.Context, o trust.JoinOptions) (*trust.Host, error) {
	if err := r.heads(ctx, &o); err != nil {
		return nil, err
	}
	return r.Trust.Join(ctx, o)
}

// Grant certifies the host of a join request, with an identity that opens the
// owner key. Whoever grants must know that the request is the host's own: the
// fingerprint of the key in the certificate is the one the host shows. A host that
// believes another descriptor is refused: statement.ErrOtherDescriptor. When the
// request was granted before, and nothing since, it returns that certificate and
// granted is true.
func (r *Repository) Grant(ctx context.Context, request []byte, reenrol bool, now time.Time) (c *statement.Certificate, granted bool, err error) {
	req, err := statement.ParseJoinRequest(request)
	if err != nil {
		return nil, false, fmt.Errorf("%w: was it made by this version of knowngood? On the host: knowngood init --join --request FILE", err)
	}
	if err := req.Verify(r.ID(), r.Pin()); err != nil {
		if errors.Is(err, statement.ErrOtherDescriptor) {
			err = fmt.Errorf("%w. Nothing was granted. Find out who answered the host at its --repo URL; then remove repos/%v and the file of that URL in pins from its state directory, and make the request again with --pin %x", err, r.ID(), r.Pin())
		}
		if errors.Is(err, statement.ErrOtherRepository) {
			err = fmt.Errorf("the request of host %s is for another repository than %s: grant it with the --repo URL that the host gave to init --join", req.Host, r.URL())
		}
		return nil, false, err
	}
	certs, err := r.Certificates(ctx, req.Host)
	if err != nil {
		return nil, false, err
	}
	if len(certs) > 0 && certs[0].HostKey.Equal(req.HostKey) {
		return certs[0], true, nil
	}
	o := trust.JoinOptions{Host: req.Host, Reenrol: reenrol, Now: now}
	if err := r.heads(ctx, &o); err != nil {
		return nil, false, err
	}
	c, err = r.Trust.Grant(ctx, req, o)
	return c, false, err
}

// heads finds out what there is of a host that is to be enrolled, and keeps forgotten
// what is deleted of one whose key ends.
func (r *Repository) heads(ctx context.Context, o *trust.JoinOptions) (err error) {
	if o.Heads, o.Known, err = r.Heads(ctx, o.Host); err != nil || !o.Reenrol {
		return err
	}
	for _, head := range o.Heads {
		if err := r.ForgetLacking(ctx, o.Host, head.Environment, o.Now); err != nil {
			return err
		}
	}
	return nil
}
