package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/internal/printable"
	"knowngood/storage"
	"knowngood/storage/chunk"
	"knowngood/storage/identity"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

// initFlags of the init command.
type initFlags struct {
	recipients    []string
	kind          string
	protect       bool
	join, reenrol bool
	accept        bool
	request       string
	lockMode      string
	lockKeep      string
	chunkAvg      string
	unprotected   bool
	firstUse      bool
}

func initCommand(sess *session.Session) *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init --repo URL --identity FILE",
		Short: "Make a repository, or join one as a further host",
		Long: `Make a repository at URL and enrol this machine as its first host.

The identity is the key that restores. When FILE does not exist it is made
(0600; hybrid post-quantum age key). Existing age identities and SSH keys work
too, and --recipient names further public keys: age1…, age1pq1…, ssh-ed25519 …,
or a plugin's. With --recipient alone no identity is needed here: the host then
captures without being able to read what it captured.

init tries what the store does to objects that somebody overwrites, and warns where
it keeps no older versions and lets objects be overwritten: an attacker who takes over a
host can destroy its history there. A host without an identity is set up on such a
store with --unprotected only.

A further host joins with --join and an identity that opens the owner key; one
that may never see an identity writes a request with --request, which is granted
elsewhere (knowngood keys grant) and taken up with --accept. Each step prints the
fingerprint of the host's key, the owner, and the pin of the repository; a request
of a host that was shown another repository is not granted. Give --pin with the
first step: without it, and without an identity file that has it, the host would
trust whatever answers at URL, and joins with --trust-on-first-use only. A
reinstalled host enrols again under its old name with --join --reenrol.`,
		Example: `  knowngood init --repo /backup/kg --identity ~/knowngood.identity
  knowngood init --repo 's3://backups/prod?region=eu-1' --recipient 'age1pq1…'
  knowngood init --repo URL --identity FILE --lock compliance --lock-keep 30d
A further host, with an identity:
  knowngood init --join --repo URL --identity FILE
A further host, without one:
  knowngood init --join --repo URL --pin PIN --request web-8.request
  knowngood keys grant web-8.request --repo URL --identity FILE    where the identity is
  knowngood init --join --repo URL --accept`,
		Args: usage.Takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.join || f.accept || f.request != "" || f.reenrol {
				return joinRepository(cmd.Context(), sess, &f)
			}
			return initRepository(cmd.Context(), sess, &f)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.recipients, "recipient", nil, "a further public `key` that can read; may be repeated")
	fl.StringVar(&f.kind, "identity-type", "hybrid", "`kind` of identity that is made: hybrid (post-quantum) or x25519")
	fl.BoolVar(&f.protect, "passphrase", false, "protect the identity that is made with a passphrase")
	fl.BoolVar(&f.join, "join", false, "join an existing repository as a further host")
	fl.BoolVar(&f.reenrol, "reenrol", false, "with --join: enrol again under a name that is known; ends the old key")
	fl.StringVar(&f.request, "request", "", "with --join: write a join request to `file`")
	fl.BoolVar(&f.accept, "accept", false, "with --join: take up a granted request")
	fl.BoolVar(&f.firstUse, "trust-on-first-use", false, "with --join: trust the repository at the URL without a pin")
	fl.StringVar(&f.lockMode, "lock", "", "Object Lock `mode` for what is written: compliance or governance")
	fl.StringVar(&f.lockKeep, "lock-keep", "", "for how long after the last snapshot that needs them objects are locked, such as 30d")
	fl.BoolVar(&f.unprotected, "unprotected", false, "let a host without an identity use a store where it can destroy its history")
	fl.StringVar(&f.chunkAvg, "chunk-size", "", "average chunk `size`, a power of two; 1MiB by default")
	return cmd
}

func initRepository(ctx context.Context, sess *session.Session, f *initFlags) error {
	if sess.IdentityPath == "" && len(f.recipients) == 0 {
		return usage.Errorf("who will be able to restore? Give --identity FILE (made when it does not exist), or --recipient KEY")
	}
	s, err := sess.Store(ctx, true)
	if err != nil {
		return err
	}
	o := trust.InitOptions{Host: sess.Host, StateDir: sess.StateDir, URL: stores.Redact(sess.RepoURL), Place: stores.Place(sess.RepoURL), Now: time.Now(), Recipients: f.recipients, Report: sess.Findings.Add}
	if err := f.options(sess, &o); err != nil {
		return err
	}
	// Ask first, so that no identity is made for a repository that exists.
	if _, err := repository.Open(ctx, s, repository.Options{}); err == nil {
		return fmt.Errorf("%w at %s: use it as it is, make this machine a further host of it with --join, or choose another URL", trust.ErrRepositoryExists, o.URL)
	} else if !errors.Is(err, trust.ErrNoRepository) {
		return err
	}
	made := false
	if sess.IdentityPath != "" {
		var own []string
		if own, made, err = initIdentity(sess, f); err != nil {
			return err
		}
		o.Recipients = append(own, o.Recipients...)
	}
	o.Protected = sess.IdentityPath == "" && !f.unprotected
	r, result, err := repository.Init(ctx, s, o)
	if errors.Is(err, trust.ErrUnprotected) {
		err = refuseUnprotected(o.URL, "")
	}
	if err != nil {
		if made {
			os.Remove(sess.IdentityPath)
		}
		return err
	}
	sess.Repo = r
	pin := identity.Pin{Repository: o.URL, Descriptor: result.Pin, Owner: result.OwnerFingerprint}
	pinned := sess.IdentityPath != "" && identity.AppendPin(sess.IdentityPath, pin) == nil
	return printInit(sess, result, o, made, pinned)
}

// refuseUnprotected returns what to do about a store that a host without an identity
// shall not use unasked.
func refuseUnprotected(url, known string) error {
	why, remedy := present.Weakness(url)
	return fmt.Errorf("%w: %s%s. %s. To use the store as it is, add --unprotected", trust.ErrUnprotected, why, known, remedy)
}

func (f *initFlags) options(sess *session.Session, o *trust.InitOptions) error {
	mode, keep := f.lockMode, time.Duration(0)
	if mode == "" {
		mode, keep = string(sess.Config.Repository.Lock.Mode), time.Duration(sess.Config.Repository.Lock.Keep)
	}
	if f.lockKeep != "" {
		d, err := configs.ParseDuration(f.lockKeep)
		if err != nil {
			return usage.Errorf("--lock-keep: %w", err)
		}
		keep = time.Duration(d)
	}
	o.Lock = trust.Lock{Mode: storage.RetentionMode(strings.ToUpper(mode)), Keep: keep}
	if err := o.Lock.Check(); err != nil {
		return usage.Errorf("--lock, --lock-keep: %w", err)
	}
	if f.chunkAvg != "" {
		n, err := configs.ParseSize(f.chunkAvg)
		if err != nil {
			return usage.Errorf("--chunk-size: %w", err)
		}
		if n <= chunk.MaxSize {
			o.Chunker = chunk.Params{Min: uint32(n / 4), Avg: uint32(n), Max: uint32(n * 4)}
		}
		if n > chunk.MaxSize || o.Chunker.Validate() != nil {
			return usage.Errorf("--chunk-size: %s is not an average size of chunks: write a power of two from %d to 2MiB, such as 1MiB", f.chunkAvg, 4*chunk.Window)
		}
	}
	return nil
}

// initIdentity makes the identity file, or reads it, and returns its recipients.
func initIdentity(sess *session.Session, f *initFlags) (recipients []string, made bool, err error) {
	if _, err := os.Stat(sess.IdentityPath); err == nil {
		file, err := sess.Identity()
		if err != nil {
			return nil, false, err
		}
		if len(file.Recipients) == 0 && len(f.recipients) == 0 {
			return nil, false, usage.Errorf("%s does not contain its public key: give it with --recipient", sess.IdentityPath)
		}
		return file.Recipients, false, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	kind := identity.Hybrid
	switch f.kind {
	case "hybrid":
	case "x25519":
		kind = identity.X25519
	default:
		return nil, false, usage.Errorf("--identity-type: %q is neither hybrid nor x25519", f.kind)
	}
	key, err := identity.Generate(kind)
	if err != nil {
		return nil, false, err
	}
	w := identity.WriteOptions{Created: time.Now(), WorkFactor: sess.WorkFactor}
	if f.protect {
		if w.Passphrase, err = identity.NewPassphrase(sess.PassphraseFD).New("the new identity " + sess.IdentityPath); err != nil {
			return nil, false, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(sess.IdentityPath), 0o700); err != nil {
		return nil, false, err
	}
	if err := identity.WriteFile(sess.IdentityPath, key, w); err != nil {
		return nil, false, err
	}
	return []string{key.Recipient}, true, nil
}

// printInit prints what was made, and what must be kept where.
func printInit(sess *session.Session, r *trust.InitResult, o trust.InitOptions, made, pinned bool) error {
	sess.Out.Printf("Made a repository at %s\n\n  host       %s, whose keys are in %s\n  owner      %s\n  pin        %x\n", o.URL, o.Host, sess.Repo.State.Dir(), r.OwnerFingerprint, r.Pin)
	for _, rec := range r.Recipients {
		sess.Out.Printf("  recipient  %s\n", trust.ShortRecipient(rec.Text))
	}
	sess.Out.Printf("\nKeep in a safe place, away from this machine:\n")
	if sess.IdentityPath != "" {
		verb := "the identity"
		if made {
			verb = "the identity just made"
		}
		sess.Out.Printf("  %s  (%s: without it NOTHING can be restored)\n", absolute(sess.IdentityPath), verb)
	}
	sess.Out.Printf("  %s  (the URL), and credentials that read it\n  %x  (the pin: with --pin, a new machine refuses a forged repository", o.URL, r.Pin)
	if pinned {
		sess.Out.Printf("; the identity has it, too")
	}
	sess.Out.Printf(")\n")
	sess.Out.Printf("\n")
	present.Unprotected(sess.Out, o.URL, &r.Probe)
	sess.Out.Printf("On a host that only captures, move the identity away: snapshots need no identity.\n\nNext: %s snapshot --repo %s --env NAME PATH...\n", console.Self(), printable.Word(o.URL))
	return sess.Out.Result(map[string]any{"type": "result", "repository": o.URL, "repository_id": sess.Repo.ID().String(), "pin": fmt.Sprintf("%x", r.Pin), "owner": r.OwnerFingerprint, "host": o.Host, "identity": sess.IdentityPath, "identity_made": made, "store": present.StoreJSON(&r.Probe)})
}

// absolute is a path as it is written down: from the root.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func joinRepository(ctx context.Context, sess *session.Session, f *initFlags) error {
	if !f.join {
		return usage.Errorf("--request, --accept and --reenrol go with --join")
	}
	r, err := sess.Connect(ctx)
	if err != nil {
		return err
	}
	if f.request == "" && !f.accept && !r.Unlocked() {
		return usage.Errorf("joining needs an identity that opens the owner key (--identity FILE), or --request FILE on a host that must not see one; --accept completes a request that was granted")
	}
	if _, first := r.TrustedOnFirstUse(); first && !f.accept { // which has a request that was made with the same warning
		if !f.firstUse {
			return usage.Errorf("nothing confirms this repository: there is no --pin, and no identity file that has one. The repository at %s has the owner %s and the pin %x. Run `knowngood keys list` where the identity is, and give the pin that it prints with --pin; to trust it without a pin, add --trust-on-first-use",
				r.URL(), r.OwnerFingerprint(), r.Pin())
		}
		warnFirstUse(sess.Out, r)
	}
	switch {
	case f.request != "":
		if p := r.Probed(); p != nil && p.Unprotected() && !f.unprotected {
			return refuseUnprotected(r.URL(), fmt.Sprintf(" (probed on %s; where that changed, run knowngood probe --host %s first)", human.Time(p.At), sess.Host))
		}
		b, err := r.JoinRequest(sess.Host, f.reenrol, time.Now())
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.request, b, 0o644); err != nil {
			return err
		}
		grant := "knowngood keys grant"
		if f.reenrol {
			grant += " --reenrol"
		}
		req, err := statement.ParseJoinRequest(b)
		if err != nil {
			return err
		}
		key := trust.Fingerprint(req.HostKey)
		sess.Out.Printf("Wrote the request of host %s to %s.\n", sess.Host, f.request)
		present.Join(sess.Out, r, key)
		sess.Out.Printf("Have it granted where the owner's identity is, which prints the same three:\n  %s %s --repo %s --identity FILE\nthen, here:\n  knowngood init --join --accept --repo %s\n", grant, filepath.Base(f.request), printable.Word(r.URL()), printable.Word(r.URL()))
		return sess.Out.Result(present.JoinJSON(r, key, map[string]any{"host": sess.Host, "request": f.request}))
	case f.accept:
		h, err := r.AcceptGrant(ctx)
		if err != nil {
			return err
		}
		return joined(ctx, sess.Out, r, h)
	}
	h, err := r.Join(ctx, trust.JoinOptions{Host: sess.Host, Reenrol: f.reenrol, Now: time.Now()})
	if err != nil {
		return err
	}
	return joined(ctx, sess.Out, r, h)
}

// joined prints what the user of a host that has joined should know. It is the first moment to
// see what the host's own credentials can do to the store.
func joined(ctx context.Context, out *console.Console, r *repository.Repository, h *trust.Host) error {
	if _, err := r.Probe(ctx, h.Name, time.Now()); err != nil {
		out.Warnf("what is known of the store is what init saw: %v", err)
	}
	key := trust.Fingerprint(h.Certificate.HostKey)
	out.Printf("Host %s has joined %s (certificate %d). Its keys are in %s\n", h.Name, r.URL(), h.Certificate.Serial, r.State.Dir())
	present.Join(out, r, key)
	present.Unprotected(out, r.URL(), r.Probed())
	return out.Result(present.JoinJSON(r, key, map[string]any{"host": h.Name, "serial": h.Certificate.Serial, "store": present.StoreJSON(r.Probed())}))
}

// warnFirstUse warns of what a host trusts that joins without anything that
// confirms the repository.
func warnFirstUse(out *console.Console, r *repository.Repository) {
	remembered := ""
	if pin, err := r.State.Pin(); err == nil && pin != nil {
		remembered = " and " + pin.Source
	}
	for _, line := range []string{
		"NOTHING VOUCHES FOR THIS REPOSITORY: there is no --pin, and no identity file that has one.",
		fmt.Sprintf("This host now trusts what answered at %s: the owner %s and the pin %x.", r.URL(), r.OwnerFingerprint(), r.Pin()),
		"A server that answers there in the place of your store decides who can read what is captured here.",
		fmt.Sprintf(`Compare the pin with what "knowngood keys list" prints where the identity is; if it is another, remove %s%s and join again with --pin.`, r.State.Dir(), remembered),
	} {
		out.Warnf("%s", line)
	}
}
