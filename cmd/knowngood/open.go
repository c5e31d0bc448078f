package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/localstate"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

// store opens the store of the repository URL; create makes its directory.
func (a *app) store(ctx context.Context, create bool) (storage.Store, error) {
	if a.repoURL == "" {
		return nil, usage.Errorf("which repository? Give --repo URL, set KNOWNGOOD_REPO, or name it in the configuration")
	}
	open := stores.Open
	if create {
		open = stores.Create
	}
	up, err := rate("--limit-upload", a.limitUpload, a.config.Limits.Upload)
	if err != nil {
		return nil, err
	}
	down, err := rate("--limit-download", a.limitDownload, a.config.Limits.Download)
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, a.repoURL, stores.Options{Upload: int64(up), Download: int64(down)})
	if errors.Is(err, stores.ErrURL) {
		err = usage.Errorf("%w", err)
	}
	return s, err
}

// open opens the repository for a command that is about a host, which must be
// one of the repository's when --host names it.
func (a *app) open(ctx context.Context) (*repository.Repository, error) {
	r, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return r, a.checkHost(ctx, r)
}

// connect opens the repository; with an identity when one is configured.
func (a *app) connect(ctx context.Context) (*repository.Repository, error) {
	s, err := a.store(ctx, false)
	if err != nil {
		return nil, err
	}
	o := repository.Options{Options: trust.Options{StateDir: a.stateDir, URL: stores.Redact(a.repoURL), Place: stores.Place(a.repoURL), Now: time.Now(), Fresh: max(a.fresh, time.Minute), Report: a.findings.Add}, KeepIndex: a.keepIndex}
	if a.pin != "" {
		pin, err := hex.DecodeString(strings.TrimSpace(a.pin))
		if err != nil || len(pin) != 32 {
			return nil, usage.Errorf("--pin (KNOWNGOOD_PIN): %q is no pin: give the 64 hexadecimal digits that knowngood init printed", a.pin)
		}
		o.Given = &localstate.Pin{Descriptor: [32]byte(pin), Source: "--pin"}
	}
	var file *identity.File
	if a.identityPath != "" {
		if file, err = a.identity(); err != nil {
			return nil, err
		}
		usePins(&o, file)
	}

	r, err := repository.Open(ctx, s, o)
	if err != nil {
		return nil, err
	}
	a.repo = r
	if file != nil {
		r.Unlock(file)
	}
	if own := a.ownHost(); a.given.host == "" && own != "" {
		a.host = own // by now the place is remembered
	}
	return r, nil
}

// usePins takes over what an identity file remembers. Of the repository's place
// what was added last holds, for a repository may have been made anew there;
// pins of other places vouch for a copy.
func usePins(o *repository.Options, f *identity.File) {
	here := false
	for _, p := range slices.Backward(f.Pins) {
		switch {
		case stores.Place(p.Repository) != o.Place:
			o.Known = append(o.Known, p.Descriptor)
		case !here:
			here = true
			o.Pins = append(o.Pins, localstate.Pin{Descriptor: p.Descriptor, Source: "the identity file " + f.Path})
		}
	}
}

// ownHost is the host whose keys are in the state directory; "" when none are.
func (a *app) ownHost() string {
	if a.repoURL == "" {
		return ""
	}
	return trust.EnrolledAs(a.stateDir, stores.Place(a.repoURL))
}

// checkHost refuses a --host that the repository does not have.
func (a *app) checkHost(ctx context.Context, r *repository.Repository) error {
	if a.given.host == "" || a.given.host == a.ownHost() {
		return nil
	}
	known, err := r.Enrolled(ctx)
	if err == nil && !slices.Contains(known, a.given.host) {
		known, err = r.AllHosts(ctx) // the certificates of one may be gone
	}
	switch {
	case errors.Is(err, storage.ErrDenied):
		return nil // credentials of one host do not show the others
	case err != nil:
		return err
	case len(known) == 0:
		return usage.Errorf("--host: the repository has no host %q; it has none at all", a.given.host)
	case !slices.Contains(known, a.given.host):
		return usage.Errorf("--host: the repository has no host %q; it has %s", a.given.host, strings.Join(known, ", "))
	}
	return nil
}

// refuseOtherHost refuses a --host that this machine is not, for commands that
// capture: they do so as the host whose keys are in the state directory.
func (a *app) refuseOtherHost() error {
	if own := a.ownHost(); a.given.host != "" && own != "" && own != a.given.host {
		return usage.Errorf("--host %s: this machine captures as host %s, whose keys are in %s; leave --host out, or give the --state-dir of host %s", a.given.host, own, a.stateDir, a.given.host)
	}
	return nil
}

// errIdentityMissing says that a command takes an identity, and none is named.
var errIdentityMissing = fmt.Errorf("%w: give --identity FILE, or set KNOWNGOOD_IDENTITY (a host that only captures has none; use the one made by init)", trust.ErrNoUsableIdentity)

// openForReading opens the repository, and asks for an identity.
func (a *app) openForReading(ctx context.Context) (*repository.Repository, error) {
	if a.identityPath == "" {
		return nil, errIdentityMissing
	}
	return a.open(ctx)
}

// connectWithoutIdentity opens the repository for what needs none: one that
// cannot be read must not hinder it.
func (a *app) connectWithoutIdentity(ctx context.Context) (*repository.Repository, error) {
	path := a.identityPath
	a.identityPath = ""
	r, err := a.connect(ctx)
	a.identityPath = path
	return r, err
}

// openForWriting opens the repository, and this machine as its host.
func (a *app) openForWriting(ctx context.Context) (*repository.Repository, *trust.Host, error) {
	r, err := a.connectWithoutIdentity(ctx)
	if err == nil {
		err = a.refuseOtherHost() // which opening may have made known
	}
	if err != nil {
		return nil, nil, err
	}
	host, err := r.Host(ctx)
	return r, host, err
}

func (a *app) identity() (*identity.File, error) {
	p := identity.NewPassphrase(a.passphraseFD)
	f, err := identity.Load(a.identityPath, func() ([]byte, error) { return p.Get(a.identityPath) })
	if err != nil {
		return nil, err
	}
	for _, w := range f.Warnings {
		a.out.Messagef("warning: %s", printable.Line(w))
	}
	return f, nil
}

// ref reads a reference; of the host that --host names, unless it has its own.
func (a *app) ref(text string) (ref history.Ref, sub string, err error) {
	ref, sub, err = history.ParseRef(text)
	switch {
	case err != nil:
		err = usage.Errorf("%w", err)
	case a.given.host == "" || ref.Host == a.given.host:
	case ref.Host != "":
		err = usage.Errorf("%s is of host %s, and --host names %s: leave one of them out", text, ref.Host, a.given.host)
	case ref.ID == "":
		ref.Host = a.given.host
	}
	return ref, strings.Trim(sub, "/"), err
}

// resolve finds the snapshot of a reference, and the manifest path after it.
func (a *app) resolve(ctx context.Context, r *repository.Repository, text string) (*history.Snapshot, string, error) {
	ref, sub, err := a.ref(text)
	if err != nil {
		return nil, "", err
	}
	s, err := r.Resolve(ctx, ref, a.host)
	return s, sub, err
}
