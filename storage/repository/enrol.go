package repository

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// JoinOptions say how a host joins.
type JoinOptions struct {
	Host string
	// Reenrol takes over the name of a host that there is: what its old key
	// signs from now on counts no more.
	Reenrol bool
	Now     time.Time
}

// Join enrols this machine as a host, with an identity that opens the owner
// key. The error is ErrHostExists when the host is enrolled and Reenrol is
// not set.
func (r *Repository) Join(ctx context.Context, o JoinOptions) (*Host, error) {
	if err := r.mayEnrol(o); err != nil {
		return nil, err
	}
	before, err := r.local.read(hostKeyFile)
	if err != nil {
		return nil, err
	}
	k, err := r.newHostKey(o.Host)
	if err != nil {
		return nil, err
	}
	_, err = r.certify(ctx, o, k.public(), func(c *statement.Certificate) error {
		k.certificate = c.Bytes()
		return r.keep(k) // before it is published: a certificate whose key is lost blocks the name
	})
	if errors.Is(err, ErrHostExists) {
		err = errors.Join(err, r.keepAgain(before)) // the certificate was surely not published
	}
	if err != nil {
		return nil, err
	}
	if o.Reenrol {
		// From here the heads in the certificate say what there was.
		if err := r.local.forgetHeads(o.Host); err != nil {
			return nil, err
		}
	}
	return r.Host(ctx)
}

// mayEnrol refuses to replace a host key that is in use.
func (r *Repository) mayEnrol(o JoinOptions) error {
	if err := layout.ValidName(o.Host); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	if r.local.stateDir == "" {
		return errors.New("joining needs a state directory: choose one with --state-dir")
	}
	k, err := r.hostKey()
	if err != nil && !o.Reenrol {
		return err
	}
	if k != nil && k.certificate != nil && !o.Reenrol {
		return fmt.Errorf("%w: this machine is host %s, with the key in %s; nothing is to be done, unless --reenrol shall end that key", ErrHostExists, k.name, r.local.dir())
	}
	return nil
}

// certify makes the next certificate of a host and publishes it, after keep
// has taken it.
func (r *Repository) certify(ctx context.Context, o JoinOptions, public ed25519.PublicKey, keep func(*statement.Certificate) error) (*statement.Certificate, error) {
	owner, err := r.OwnerKey(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.successor(ctx, o)
	if err != nil {
		return nil, err
	}
	c.HostKey = public
	for ; ; c.Serial++ {
		signed, err := signCertificate(owner, c)
		if err != nil {
			return nil, err
		}
		if err := keep(signed); err != nil {
			return nil, err
		}
		key := layout.KeyCertificate(o.Host, c.Serial)
		err = r.put(ctx, key, signed.Bytes(), o.Now)
		if err == nil {
			return signed, nil
		}
		if !errors.Is(err, storage.ErrExists) {
			return nil, fmt.Errorf("publish the certificate of host %s: %w", o.Host, err)
		}
		if _, err := r.certificate(ctx, storage.Object{Key: key}); !Damaged(err) {
			return nil, fmt.Errorf("%w: %s was enrolled by another process just now", ErrHostExists, o.Host)
		}
	}
}

// successor is the certificate that comes next for a host, without its key.
func (r *Repository) successor(ctx context.Context, o JoinOptions) (*statement.Certificate, error) {
	certs, err := r.hostCertificates(ctx, o.Host)
	if err != nil {
		return nil, err
	}
	envs, err := r.EveryEnvironment(ctx, o.Host) // the roots of one that is left out end
	if err != nil {
		return nil, err
	}
	c := &statement.Certificate{Repository: r.ID(), Host: o.Host, Serial: 1, Issued: o.Now}
	if len(certs) == 0 && len(envs) == 0 {
		return c, nil
	}
	if !o.Reenrol {
		return nil, fmt.Errorf("%w: %s. If this machine was reinstalled and takes that name over, add --reenrol; if it is a clone, give it another name with --host", ErrHostExists, o.Host)
	}
	if len(certs) > 0 {
		c.Serial, c.Previous = certs[0].Serial+1, certs[0].Hash()
	}
	for _, env := range envs {
		head, err := r.newestValid(ctx, o.Host, env)
		if err != nil {
			return nil, err
		}
		if head != nil {
			c.Heads = append(c.Heads, head.head())
		}
	}
	return c, nil
}

// absurd is a number that no host comes to that keeps the rules: with one
// snapshot each second it takes 30,000 years.
const absurd = 1 << 40

// newestValid is the newest root of an environment that verifies; nil when
// none does. Those that do not are warned of, and so are absurd ones: a key
// that was taken must not be able to use up all numbers.
func (r *Repository) newestValid(ctx context.Context, host, env string) (*Snapshot, error) {
	for s, err := range r.Snapshots(ctx, host, env) {
		if err == nil && s.Number >= absurd {
			err = &DamageError{Key: layout.KeyRoot(host, env, s.Number), What: "root", Err: errors.New("no host takes so many snapshots")}
		}
		if Damaged(err) {
			r.warn(err)
			continue
		}
		return s, err
	}
	return nil, nil
}

func signCertificate(owner ed25519.PrivateKey, c *statement.Certificate) (*statement.Certificate, error) {
	object, err := c.Encode(owner)
	if err != nil {
		return nil, err
	}
	return statement.ParseCertificate(object)
}

// JoinRequest draws the keys of a host that may never see an identity, keeps
// them, and returns the request to be carried to someone who grants it. A
// request that waits is made again with the same keys; reenrol gives up a key
// that was in use, or is of no use here.
func (r *Repository) JoinRequest(host string, reenrol bool, now time.Time) ([]byte, error) {
	if err := r.mayEnrol(JoinOptions{Host: host, Reenrol: reenrol}); err != nil {
		return nil, err
	}
	k, err := r.hostKey()
	if err != nil && !reenrol {
		return nil, err
	}
	if k == nil || k.name != host || k.certificate != nil {
		if k, err = r.newHostKey(host); err != nil {
			return nil, err
		}
		if err := r.keep(k); err != nil {
			return nil, err
		}
	}
	req := &statement.JoinRequest{Repository: r.ID(), Host: host, HostKey: k.public(), Created: now}
	return req.Encode(k.key)
}

// Grant certifies the host of a join request, with an identity that opens the
// owner key. Whoever grants must know that the request is the host's own: the
// fingerprint of the key in the certificate is the one the host shows.
func (r *Repository) Grant(ctx context.Context, request []byte, reenrol bool, now time.Time) (*statement.Certificate, error) {
	req, err := statement.ParseJoinRequest(request)
	if err == nil {
		err = req.Verify(r.ID())
	}
	if err != nil {
		return nil, err
	}
	o := JoinOptions{Host: req.Host, Reenrol: reenrol, Now: now}
	return r.certify(ctx, o, req.HostKey, func(*statement.Certificate) error { return nil })
}

// AcceptGrant completes the enrolment of a host whose request was granted.
// The error is ErrNotEnrolled while it was not.
func (r *Repository) AcceptGrant(ctx context.Context) (*Host, error) {
	k, err := r.hostKey()
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, fmt.Errorf("%w, and has no request that could be granted. %s", ErrNotEnrolled, r.howToJoin())
	}
	certs, err := r.hostCertificates(ctx, k.name)
	if err != nil {
		return nil, err
	}
	for _, c := range certs {
		if c.HostKey.Equal(k.public()) {
			k.certificate = c.Bytes()
			if err := r.keep(k); err != nil {
				return nil, err
			}
			return r.Host(ctx)
		}
	}
	return nil, fmt.Errorf("%w yet: the request of host %s (key %s) was not granted: run `knowngood keys grant REQUEST --identity FILE` where the owner's identity is, then this again", ErrNotEnrolled, k.name, Fingerprint(k.public()))
}

// howToJoin tells what makes this machine a host, whether it was one before.
func (r *Repository) howToJoin() string {
	return fmt.Sprintf("A new host runs `knowngood init --join --identity FILE`, or `knowngood init --join --request FILE` where no identity may be. One that was a host before, and was reinstalled or lost its state directory, adds --reenrol. (Its key would be in %s: is that the right --state-dir?)", r.local.dir())
}
