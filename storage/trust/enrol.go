package trust

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/statement"
)

// JoinOptions are how a host joins.
type JoinOptions struct {
	Host string
	// Reenrol takes over the name of an existing host: what its old key signs from
	// now on does not count.
	Reenrol bool
	// Heads are the newest roots of the host's environments that verify, sorted by
	// environment. What was signed before the certificate counts only up to them, and
	// in other environments nothing counts.
	Heads []statement.Head
	// Known is whether there are such roots, or this machine remembers some.
	Known bool
	Now   time.Time
}

// Join enrols this machine as a host, with an identity that opens the owner
// key. The error is ErrHostExists when the host is enrolled and Reenrol is
// not set.
func (h *Hosts) Join(ctx context.Context, o JoinOptions) (*Host, error) {
	if err := h.mayEnrol(o); err != nil {
		return nil, err
	}
	before, err := h.base.State.Read(hostKeyFile)
	if err != nil {
		return nil, err
	}
	k, err := h.newHostKey(o.Host)
	if err != nil {
		return nil, err
	}
	_, err = h.certify(ctx, o, k.public(), func(c *statement.Certificate) error {
		k.certificate = c.Bytes()
		return h.keep(k) // before it is published: a certificate whose key is lost blocks the name
	})
	if errors.Is(err, ErrHostExists) {
		err = errors.Join(err, h.writeKeyFile(before)) // the certificate was not published
	}
	if err != nil {
		return nil, err
	}
	if o.Reenrol {
		// From now on the heads in the certificate replace the remembered roots.
		if err := h.base.State.Forget(o.Host); err != nil {
			return nil, err
		}
	}
	if err := h.base.confirmPin(); err != nil {
		return nil, err
	}
	return h.Host(ctx)
}

// mayEnrol refuses to replace a host key that is in use.
func (h *Hosts) mayEnrol(o JoinOptions) error {
	if err := layout.ValidName(o.Host); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	if h.base.State.None() {
		return errors.New("joining needs a state directory: choose one with --state-dir")
	}
	k, err := h.hostKey()
	if err != nil && !o.Reenrol {
		return err
	}
	if k != nil && k.certificate != nil && !o.Reenrol {
		return fmt.Errorf("%w: this machine is host %s, with the key in %s; to replace that key, add --reenrol", ErrHostExists, k.name, h.base.State.Dir())
	}
	return nil
}

// certify makes the next certificate of a host, calls keep with it, and publishes it.
func (h *Hosts) certify(ctx context.Context, o JoinOptions, public ed25519.PublicKey, keep func(*statement.Certificate) error) (*statement.Certificate, error) {
	owner, err := h.keys.OwnerKey(ctx)
	if err != nil {
		return nil, err
	}
	certs, err := h.certs.Certificates(ctx, o.Host)
	if err != nil {
		return nil, err
	}
	c := &statement.Certificate{Repository: h.base.ID(), Host: o.Host, HostKey: public, Issued: o.Now}
	before := uint64(0)
	if len(certs) > 0 || o.Known {
		if !o.Reenrol {
			return nil, fmt.Errorf("%w: %s. If this machine was reinstalled and takes that name over, add --reenrol; if it is a clone, give it another name with --host", ErrHostExists, o.Host)
		}
		c.Heads = o.Heads
	}
	if len(certs) > 0 {
		before, c.Previous = certs[0].Serial, certs[0].Hash()
	}

	var signed *statement.Certificate
	free := func(ctx context.Context) (uint64, error) {
		h.certs.forgetListed()
		listed, err := h.certs.list(ctx, o.Host)
		if err != nil {
			return 0, err
		}
		in := ledger.Numbers{Newest: before}
		for _, l := range listed {
			_, serial, ok := layout.ParseCertificateKey(l.Key)
			if !ok || serial <= before {
				continue
			}
			_, err := h.certs.certificate(ctx, o.Host, l)
			if err == nil {
				return 0, fmt.Errorf("%w: %s was enrolled by another process just now", ErrHostExists, o.Host)
			}
			if !authentic.Damaged(err) {
				return 0, err
			}
			in.Pass(serial, false)
		}
		return in.Free(), nil
	}
	encode := func(serial uint64) ([]byte, error) {
		c.Serial = serial
		var err error
		if signed, err = signCertificate(owner, c); err != nil {
			return nil, err
		}
		return signed.Bytes(), keep(signed)
	}
	_, err = ledger.Claim(ctx, "certificates of host "+o.Host, free, encode, func(ctx context.Context, _ uint64, _ []byte) error {
		return h.certs.publish(ctx, signed, o.Now)
	})
	return signed, err
}

func signCertificate(owner ed25519.PrivateKey, c *statement.Certificate) (*statement.Certificate, error) {
	object, err := c.Encode(owner)
	if err != nil {
		return nil, err
	}
	return statement.ParseCertificate(object)
}

// JoinRequest makes the keys of a host that must not see an identity, saves them,
// and returns the request that an operator takes to the owner. While a request waits
// it is made again with the same keys. reenrol replaces a key that was in use, or
// that cannot be used here.
func (h *Hosts) JoinRequest(host string, reenrol bool, now time.Time) ([]byte, error) {
	if err := h.mayEnrol(JoinOptions{Host: host, Reenrol: reenrol}); err != nil {
		return nil, err
	}
	k, err := h.hostKey()
	if err != nil && !reenrol {
		return nil, err
	}
	if k == nil || k.name != host || k.certificate != nil {
		if k, err = h.newHostKey(host); err != nil {
			return nil, err
		}
		if err := h.keep(k); err != nil {
			return nil, err
		}
	}
	req := &statement.JoinRequest{Repository: h.base.ID(), Host: host, HostKey: k.public(), Created: now, Descriptor: h.base.Pin()}
	return req.Encode(k.key)
}

// Grant certifies the host of a join request, with an identity that opens the
// owner key. The caller must first verify that the host made the request: both show
// the same fingerprint of the key.
func (h *Hosts) Grant(ctx context.Context, req *statement.JoinRequest, o JoinOptions) (*statement.Certificate, error) {
	return h.certify(ctx, o, req.HostKey, func(*statement.Certificate) error { return nil })
}

// AcceptGrant completes the enrolment of a host whose request was granted.
// The error is ErrNotEnrolled while it was not.
func (h *Hosts) AcceptGrant(ctx context.Context) (*Host, error) {
	k, err := h.hostKey()
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, fmt.Errorf("%w, and has no request that could be granted. %s", ErrNotEnrolled, h.howToJoin())
	}
	certs, err := h.certs.Certificates(ctx, k.name)
	if err != nil {
		return nil, err
	}
	for _, c := range certs {
		if c.HostKey.Equal(k.public()) {
			k.certificate = c.Bytes()
			if err := h.keep(k); err != nil {
				return nil, err
			}
			if err := h.base.confirmPin(); err != nil {
				return nil, err
			}
			return h.Host(ctx)
		}
	}
	return nil, fmt.Errorf("%w yet: the request of host %s (key %s) was not granted: run `knowngood keys grant REQUEST --identity FILE` where the owner's identity is, then this again", ErrNotEnrolled, k.name, Fingerprint(k.public()))
}

// howToJoin is the part of a message on how this machine becomes a host.
func (h *Hosts) howToJoin() string {
	return fmt.Sprintf("A new host runs `knowngood init --join --identity FILE`, or `knowngood init --join --request FILE` where no identity may be. One that was a host before, and was reinstalled or lost its state directory, adds --reenrol. (Its key would be in %s: is that the right --state-dir?)", h.base.State.Dir())
}
