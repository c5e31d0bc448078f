package session

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/runner"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/localstate"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
	"knowngood/storage/throttle"
	"knowngood/storage/trust"
)

// Store opens the store of the repository URL; create makes its directory.
func (sess *Session) Store(ctx context.Context, create bool) (storage.Store, error) {
	if sess.RepoURL == "" {
		return nil, usage.Errorf("which repository? Give --repo URL, set KNOWNGOOD_REPO, or name it in the configuration")
	}
	open := stores.Open
	if create {
		open = stores.Create
	}
	limits := sess.Limits
	if limits == nil {
		up, down, err := sess.Rates()
		if err != nil {
			return nil, err
		}
		limits = new(throttle.Rates(up, down))
	}
	s, err := open(ctx, sess.RepoURL, stores.Options{Limits: *limits, Region: sess.Region})
	if errors.Is(err, stores.ErrURL) {
		err = usage.Errorf("%w", err)
	}
	if err == nil && sess.Over != nil {
		s = sess.Over(s)
	}
	return s, err
}

// Rates are the limits of flags and configuration in bytes per second; 0 for none.
func (sess *Session) Rates() (up, down int64, err error) {
	u, err := rate("--limit-upload", sess.LimitUpload, sess.Config.Limits.Upload)
	if err != nil {
		return 0, 0, err
	}
	d, err := rate("--limit-download", sess.LimitDownload, sess.Config.Limits.Download)
	return int64(u), int64(d), err
}

// Open opens the repository for a command that is about a host, which must be
// one of the repository's when --host names it.
func (sess *Session) Open(ctx context.Context) (*repository.Repository, error) {
	r, err := sess.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return r, sess.checkHost(ctx, r)
}

// Connect opens the repository; with an identity when one is configured.
func (sess *Session) Connect(ctx context.Context) (*repository.Repository, error) {
	s, err := sess.Store(ctx, false)
	if err != nil {
		return nil, err
	}
	o := repository.Options{Options: trust.Options{StateDir: sess.StateDir, URL: stores.Redact(sess.RepoURL), Place: stores.Place(sess.RepoURL), Now: time.Now(), Fresh: max(sess.Fresh, time.Minute), Report: sess.Findings.Add}}
	if sess.Pin != "" {
		pin, err := hex.DecodeString(strings.TrimSpace(sess.Pin))
		if err != nil || len(pin) != 32 {
			return nil, usage.Errorf("--pin (KNOWNGOOD_PIN): %q is no pin: give the 64 hexadecimal digits that knowngood init printed", sess.Pin)
		}
		o.Given = &localstate.Pin{Descriptor: [32]byte(pin), Source: "--pin"}
	}
	var file *identity.File
	if sess.IdentityPath != "" {
		if file, err = sess.Identity(); err != nil {
			return nil, err
		}
		usePins(&o, file)
	}

	r, err := repository.Open(ctx, s, o)
	if err != nil {
		return nil, err
	}
	sess.Repo = r
	if file != nil {
		r.Unlock(file)
	}
	if own := sess.OwnHost(); sess.Given.Host == "" && own != "" {
		sess.Host = own // by now the place is remembered
	}
	return r, nil
}

// usePins takes over what an identity file remembers. Of the repository's place
// what was added last counts, because a repository may have been made again there;
// pins of other places confirm a copy.
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

// OwnHost is the host whose keys are in the state directory; "" when none are.
func (sess *Session) OwnHost() string {
	if sess.RepoURL == "" {
		return ""
	}
	return trust.EnrolledAs(sess.StateDir, stores.Place(sess.RepoURL))
}

// checkHost refuses a --host that the repository does not have.
func (sess *Session) checkHost(ctx context.Context, r *repository.Repository) error {
	if sess.Given.Host == "" || sess.Given.Host == sess.OwnHost() {
		return nil
	}
	known, err := r.Enrolled(ctx)
	if err == nil && !slices.Contains(known, sess.Given.Host) {
		known, err = r.AllHosts(ctx) // the certificates of one may be gone
	}
	switch {
	case errors.Is(err, storage.ErrDenied):
		return nil // credentials of one host do not show the others
	case err != nil:
		return err
	case len(known) == 0:
		return usage.Errorf("--host: the repository has no host %q, nor any other", sess.Given.Host)
	case !slices.Contains(known, sess.Given.Host):
		return usage.Errorf("--host: the repository has no host %q. It has: %s", sess.Given.Host, strings.Join(known, ", "))
	}
	return nil
}

// RefuseOtherHost refuses a --host that this machine is not, for commands that
// capture: they do so as the host whose keys are in the state directory.
func (sess *Session) RefuseOtherHost() error {
	if own := sess.OwnHost(); sess.Given.Host != "" && own != "" && own != sess.Given.Host {
		return usage.Errorf("--host %s: this machine captures as host %s, whose keys are in %s; leave --host out, or give the --state-dir of host %s", sess.Given.Host, own, sess.StateDir, sess.Given.Host)
	}
	return nil
}

// ErrIdentityMissing: a command needs an identity, and none is named.
var ErrIdentityMissing = fmt.Errorf("%w: give --identity FILE, or set KNOWNGOOD_IDENTITY (a host that only captures has none; use the one made by init)", trust.ErrNoUsableIdentity)

// OpenForReading opens the repository, and asks for an identity.
func (sess *Session) OpenForReading(ctx context.Context) (*repository.Repository, error) {
	if sess.IdentityPath == "" {
		return nil, ErrIdentityMissing
	}
	return sess.Open(ctx)
}

// ConnectWithoutIdentity opens the repository for what needs none: one that
// cannot be read must not hinder it.
func (sess *Session) ConnectWithoutIdentity(ctx context.Context) (*repository.Repository, error) {
	path := sess.IdentityPath
	sess.IdentityPath = ""
	r, err := sess.Connect(ctx)
	sess.IdentityPath = path
	return r, err
}

// OpenForWriting opens the repository, and this machine as its host.
func (sess *Session) OpenForWriting(ctx context.Context) (*repository.Repository, *trust.Host, error) {
	r, err := sess.ConnectWithoutIdentity(ctx)
	if err == nil {
		err = sess.RefuseOtherHost() // which opening may have made known
	}
	if err != nil {
		return nil, nil, err
	}
	host, err := r.Host(ctx)
	return r, host, err
}

func (sess *Session) Identity() (*identity.File, error) {
	p := identity.NewPassphrase(sess.PassphraseFD)
	f, err := identity.Load(sess.IdentityPath, func() ([]byte, error) { return p.Get(sess.IdentityPath) })
	if err != nil {
		return nil, err
	}
	for _, w := range f.Warnings {
		sess.Out.Messagef("warning: %s", printable.Line(w))
	}
	return f, nil
}

// Ref reads a reference; of the host that --host names, unless it has its own.
func (sess *Session) Ref(text string) (ref history.Ref, sub string, err error) {
	ref, sub, err = history.ParseRef(text)
	switch {
	case err != nil:
		err = usage.Errorf("%w", err)
	case sess.Given.Host == "" || ref.Host == sess.Given.Host:
	case ref.Host != "":
		err = usage.Errorf("%s is of host %s, and --host names %s: leave one of them out", text, ref.Host, sess.Given.Host)
	case ref.ID == "":
		ref.Host = sess.Given.Host
	}
	if err == nil && ref.Selector != history.KnownGood && sess.Proof.given() {
		err = usage.Errorf("%s: --require, --self-attested and --allow-partial say what known-good means: they go with %s@known-good", text, cmp.Or(ref.Environment, "ENV"))
	}
	if err == nil {
		ref.Now = time.Now()
		ref.Policy, err = sess.Policy(ref.Host, ref.Environment)
	}
	return ref, strings.Trim(sub, "/"), err
}

// Resolve finds the snapshot of a reference, and the manifest path after it.
func (sess *Session) Resolve(ctx context.Context, r *repository.Repository, text string) (*history.Snapshot, string, error) {
	ref, sub, err := sess.Ref(text)
	if err != nil {
		return nil, "", err
	}
	s, err := r.Resolve(ctx, ref, sess.Host)
	return s, sub, err
}

// Tree opens the manifest that a reference names.
func (sess *Session) Tree(ctx context.Context, ref string) (*snapshot.Tree, string, error) {
	r, err := sess.OpenForReading(ctx)
	if err != nil {
		return nil, "", err
	}
	s, sub, err := sess.Resolve(ctx, r, ref)
	if err != nil {
		return nil, "", err
	}
	t, err := snapshot.OpenTree(ctx, r, s)
	return t, sub, err
}

// OwnPlaces are the places of what a restore needs itself.
func (sess *Session) OwnPlaces() (places []string) {
	for _, path := range []string{sess.StateDir, sess.IdentityPath, strings.TrimPrefix(sess.RepoURL, "file://")} {
		if abs, err := filepath.Abs(path); err == nil && path != "" {
			if real, err := filepath.EvalSymlinks(abs); err == nil {
				places = append(places, real)
			}
		}
	}
	return places
}

// rate reads a limit in bytes a second; without text it is the configured one.
func rate(flag, text string, configured configs.Rate) (configs.Rate, error) {
	if text == "" {
		return configured, nil
	}
	r, err := configs.ParseRate(text)
	if err != nil {
		return 0, usage.Errorf("%s: %w", flag, err)
	}
	return r, nil
}

// Reasons are why a snapshot is suspect. Its sources are named as its manifest,
// the configuration or the state directory of its host name them: whichever is
// there.
func (sess *Session) Reasons(ctx context.Context, r *repository.Repository, s *history.Snapshot) []string {
	if s.Body == nil || len(s.Body.Suspect) == 0 {
		return nil
	}
	var paths []string
	if s.Host == sess.Host {
		if env := sess.Config.Environments[s.Environment]; env != nil {
			paths = runner.SourcePaths(env)
		}
		paths = append(paths, snapshot.RememberedPaths(r, s.Environment)...)
	}
	if r.Unlocked() {
		// Only its names are needed: without it there are positions.
		if tree, err := snapshot.OpenTree(ctx, r, s); err == nil {
			paths = append(paths, SourcePaths(tree)...)
			tree.Reader.Close()
		}
	}
	return snapshot.Reasons(s, paths)
}

// SourcePaths are the paths of the sources of a snapshot.
func SourcePaths(t *snapshot.Tree) []string {
	var out []string
	for i := range t.Table.Sources {
		out = append(out, t.Table.Sources[i].Path)
	}
	return out
}
