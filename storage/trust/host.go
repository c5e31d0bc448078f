package trust

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Hosts has the host that this machine is, and enrols machines as hosts. Its methods
// may be called concurrently.
type Hosts struct {
	base  *Base
	keys  *Keyring
	certs *Certified

	mu         sync.Mutex
	host       *Host        // loaded and checked
	domain     *seal.Domain // of the host key, once domainRead
	domainRead bool
}

// Host is this machine as a host of the repository. Each call lists the host's
// certificates, so that no run begins under a key that ended. The error is
// ErrNotEnrolled when this machine is no host, and ErrCloned when its key came from
// another machine, or another machine has taken over its name since.
func (h *Hosts) Host(ctx context.Context) (*Host, error) {
	h.mu.Lock()
	host := h.host
	h.mu.Unlock()
	if host != nil {
		h.certs.forgetListed()
		certs, err := h.certs.Certificates(ctx, host.Name)
		if err == nil {
			err = h.CheckCurrent(host, certs)
		}
		if err != nil {
			return nil, err
		}
		return host, nil
	}

	host, err := h.load()
	if err != nil {
		return nil, err
	}
	certs, err := h.certs.Certificates(ctx, host.Name)
	if err != nil {
		return nil, err
	}
	if err := h.CheckCurrent(host, certs); err != nil {
		return nil, err
	}
	if len(certs) == 0 || certs[0].Serial < host.Certificate.Serial {
		// The machine stopped between keeping its key and publishing it.
		if err := h.certs.publish(ctx, host.Certificate, host.Certificate.Issued); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.host = host
	return host, nil
}

// load reads the host from the state directory only.
func (h *Hosts) load() (*Host, error) {
	k, err := h.hostKey()
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, fmt.Errorf("%w%s. %s", ErrNotEnrolled, h.base.where(), h.howToJoin())
	}
	if k.certificate == nil {
		return nil, fmt.Errorf("%w yet: the request of host %s waits for its grant: run `knowngood keys grant REQUEST --identity FILE` where the owner's identity is, then `knowngood init --join --accept` here", ErrNotEnrolled, k.name)
	}
	cert, err := statement.ParseCertificate(k.certificate)
	if err == nil {
		err = cert.Verify(h.base.ID(), h.base.desc.Owner)
	}
	if err == nil && (cert.Host != k.name || !cert.HostKey.Equal(k.public())) {
		err = errors.New("its certificate is for another key")
	}
	if err != nil {
		return nil, fmt.Errorf("host key in %s: %w; enrol again with `knowngood init --join --reenrol`", h.base.State.Dir(), err)
	}
	return &Host{Name: k.name, Domain: k.domain, Certificate: cert, key: k.key}, nil
}

// CheckCurrent refuses to go on with a key that a later certificate ended, by
// ErrCloned.
func (h *Hosts) CheckCurrent(host *Host, certs []*statement.Certificate) error {
	for _, c := range certs {
		if c.Serial > host.Certificate.Serial || c.Serial == host.Certificate.Serial && c.Hash() != host.Certificate.Hash() {
			return fmt.Errorf("%w: host %s was enrolled again on %s, with the key %s (certificate %d); that ended the key of this machine, %s (certificate %d, of %s), and what it signs does not count. If this machine is to be host %[2]s, run `knowngood init --join --reenrol --host %[2]s`, with --identity FILE or --request FILE; a clone needs a name of its own: remove %[9]s and run `knowngood init --join --host NEWNAME`",
				ErrCloned, host.Name, c.Issued.Format(time.RFC3339), Fingerprint(c.HostKey), c.Serial, Fingerprint(host.Certificate.HostKey), host.Certificate.Serial, host.Certificate.Issued.Format(time.RFC3339), h.base.State.Dir())
		}
	}
	return nil
}

// keep writes the host key into the state directory.
func (h *Hosts) keep(k *hostKey) error { return h.writeKeyFile(k.encode()) }

// writeKeyFile replaces the file of the host key; nil removes it.
func (h *Hosts) writeKeyFile(file []byte) error {
	h.mu.Lock()
	h.host, h.domain, h.domainRead = nil, nil, false
	h.mu.Unlock()
	return h.base.State.Locked(func() error {
		if file == nil {
			return h.base.State.Remove(hostKeyFile)
		}
		return h.base.State.Write(hostKeyFile, file)
	})
}

// OwnDomain is the domain of this machine's host key; nil when it has no key, or
// one of another machine.
func (h *Hosts) OwnDomain() (*seal.Domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.host != nil {
		return h.host.Domain, nil
	}
	if !h.domainRead {
		k, err := h.hostKey()
		if err != nil && !errors.Is(err, ErrCloned) {
			return nil, err
		}
		if k != nil {
			h.domain = k.domain
		}
		h.domainRead = true
	}
	return h.domain, nil
}

// Owns reports whether a domain is that of this machine as a host of that name. It
// does not access the store.
func (h *Hosts) Owns(host string, domain seal.DomainID) (bool, error) {
	k, err := h.hostKey()
	if err != nil && !errors.Is(err, ErrCloned) {
		return false, err
	}
	return err == nil && k != nil && k.name == host && k.domain.ID == domain, nil
}

// Signer returns a key that may sign for a host: this machine's with its certificate,
// where it is that host, or else the owner's, which needs an identity.
func (h *Hosts) Signer(ctx context.Context, host string) (ed25519.PrivateKey, *statement.Certificate, error) {
	this, err := h.Host(ctx)
	if err == nil && this.Name == host {
		return this.key, this.Certificate, nil
	}
	if err != nil && !errors.Is(err, ErrNotEnrolled) && !errors.Is(err, ErrCloned) {
		return nil, nil, err
	}
	owner, err := h.keys.OwnerKey(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("this machine is not host %s, so it needs the owner key: %w", host, err)
	}
	return owner, nil, nil
}

// MaySign reports whether this machine can sign for a host: as that host, or with
// an identity as the owner. The error is ErrNoUsableIdentity when it cannot.
func (h *Hosts) MaySign(ctx context.Context, host string) error {
	_, _, err := h.Signer(ctx, host)
	return err
}
