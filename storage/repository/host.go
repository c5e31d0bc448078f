package repository

import (
	"context"
	"errors"
	"fmt"
	"time"

	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// Host is this machine as a host of the repository, as of now: each call after
// the first lists the host's certificates anew, so that no run begins under a
// key that ended. The error is ErrNotEnrolled when it is none, ErrCloned when
// its key came from another machine or another machine has taken its name over
// since.
func (r *Repository) Host(ctx context.Context) (*Host, error) {
	r.mu.Lock()
	h := r.host
	r.mu.Unlock()
	if h != nil {
		r.certs.forgetListed()
		certs, err := r.hostCertificates(ctx, h.Name)
		if err == nil {
			err = h.checkCurrent(certs)
		}
		if err != nil {
			return nil, err
		}
		return h, nil
	}

	h, err := r.loadHost()
	if err != nil {
		return nil, err
	}
	certs, err := r.hostCertificates(ctx, h.Name)
	if err != nil {
		return nil, err
	}
	if err := h.checkCurrent(certs); err != nil {
		return nil, err
	}
	if len(certs) == 0 || certs[0].Serial < h.Certificate.Serial {
		// The machine stopped between keeping its key and publishing it.
		if err := r.put(ctx, layout.KeyCertificate(h.Name, h.Certificate.Serial), h.Certificate.Bytes(), h.Certificate.Issued); err != nil {
			return nil, fmt.Errorf("publish the certificate of host %s: %w", h.Name, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.host = h
	return h, nil
}

// loadHost reads the host from the state directory alone.
func (r *Repository) loadHost() (*Host, error) {
	k, err := r.hostKey()
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, fmt.Errorf("%w%s. %s", ErrNotEnrolled, r.where(), r.howToJoin())
	}
	if k.certificate == nil {
		return nil, fmt.Errorf("%w yet: the request of host %s waits for its grant: run `knowngood keys grant REQUEST --identity FILE` where the owner's identity is, then `knowngood init --join --accept` here", ErrNotEnrolled, k.name)
	}
	cert, err := statement.ParseCertificate(k.certificate)
	if err == nil {
		err = cert.Verify(r.ID(), r.desc.Owner)
	}
	if err == nil && (cert.Host != k.name || !cert.HostKey.Equal(k.public())) {
		err = errors.New("its certificate is for another key")
	}
	if err != nil {
		return nil, fmt.Errorf("host key in %s: %w; enrol again with `knowngood init --join --reenrol`", r.local.dir(), err)
	}
	return &Host{Name: k.name, Domain: k.domain, Certificate: cert, key: k.key, repo: r}, nil
}

// checkCurrent refuses to go on with a key that a later certificate ended.
func (h *Host) checkCurrent(certs []*statement.Certificate) error {
	for _, c := range certs {
		if c.Serial > h.Certificate.Serial || c.Serial == h.Certificate.Serial && c.Hash() != h.Certificate.Hash() {
			return fmt.Errorf("%w: host %s was enrolled again on %s, with the key %s (certificate %d); that ended the key of this machine, %s (certificate %d, of %s), and nobody accepts what it signs. If this is the rightful %[2]s, run `knowngood init --join --reenrol --host %[2]s`, with --identity FILE or --request FILE; a clone needs a name of its own: remove %[9]s and run `knowngood init --join --host NEWNAME`",
				ErrCloned, h.Name, c.Issued.Format(time.RFC3339), Fingerprint(c.HostKey), c.Serial, Fingerprint(h.Certificate.HostKey), h.Certificate.Serial, h.Certificate.Issued.Format(time.RFC3339), h.repo.local.dir())
		}
	}
	return nil
}

// keep writes the host key into the state directory.
func (r *Repository) keep(k *hostKey) error { return r.keepAgain(k.encode()) }

// keepAgain writes a host key file as it was; nil for none.
func (r *Repository) keepAgain(file []byte) error {
	r.mu.Lock()
	r.host, r.domainOwn, r.domainRead = nil, nil, false
	r.mu.Unlock()
	return r.local.locked(func() error {
		if file == nil {
			return r.local.remove(hostKeyFile)
		}
		return r.local.write(hostKeyFile, file)
	})
}
