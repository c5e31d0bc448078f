package statement

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"knowngood/storage/seal"
)

// ErrEnded: a statement was signed under a certificate that a later one ended.
var ErrEnded = errors.New("signed under a host certificate that a later one ended")

// CheckRootCertificate checks root against the owner: its repository, the
// certificate in it, its signature, and the later certificates of its host
// (docs/FORMAT.md section 4). A root signed under an older certificate counts
// only up to the head that every later one names for its environment.
//
// certs are the certificates that the repository has for the host, in any
// order; with none only the one in the root is checked. Those that the owner
// did not sign, or that are of another host or repository, do not count:
// somebody who can only write to the store must not be able to end a host's
// snapshots.
func CheckRootCertificate(root *Root, certs []*Certificate, owner ed25519.PublicKey, repo seal.RepositoryID) error {
	cert := root.Certificate
	if err := cert.Verify(repo, owner); err != nil {
		return fmt.Errorf("root %s: %w", root.Ref(), err)
	}
	if err := root.Verify(repo, cert.HostKey); err != nil {
		return fmt.Errorf("root %s: %w", root.Ref(), err)
	}
	for _, c := range certs {
		if c.Host != root.Host || c.Serial < cert.Serial || c.hash == cert.hash || c.Verify(repo, owner) != nil {
			continue
		}
		if c.Serial == cert.Serial {
			return fmt.Errorf("root %s: the repository has another certificate with serial %d: %w", root.Ref(), c.Serial, ErrEnded)
		}
		if err := withinHeads(root, c); err != nil {
			return err
		}
	}
	return nil
}

// withinHeads checks an older root against the heads of a later certificate.
func withinHeads(root *Root, later *Certificate) error {
	i := slices.IndexFunc(later.Heads, func(h Head) bool { return h.Environment == root.Environment })
	if i < 0 {
		return fmt.Errorf("root %s: certificate %d, a later one, names no snapshot of %s: %w", root.Ref(), later.Serial, root.Environment, ErrEnded)
	}
	head := later.Heads[i]
	if root.Number > head.Number {
		return fmt.Errorf("root %s: certificate %d, a later one, accepts older ones only up to number %d: %w", root.Ref(), later.Serial, head.Number, ErrEnded)
	}
	if root.Number == head.Number && root.hash != head.Hash {
		return fmt.Errorf("root %s: certificate %d, a later one, names another root with this number: %w", root.Ref(), later.Serial, ErrEnded)
	}
	return nil
}

// CheckTombstoneCertificate checks a tombstone against the owner and the
// certificates of its host, as CheckRootCertificate does a root. One that a
// host signed counts only under its newest certificate: somebody who steals an old
// key must not be able to forget anything with it.
func CheckTombstoneCertificate(x *Tombstone, certs []*Certificate, owner ed25519.PublicKey, repo seal.RepositoryID) error {
	if err := x.Verify(repo, owner); err != nil {
		return err
	}
	return checkNewest(x.Certificate, certs, owner, repo, fmt.Sprintf("tombstone %d of %s", x.Serial, x.Environment))
}

// CheckAcceptanceCertificate is CheckTombstoneCertificate of an acceptance.
func CheckAcceptanceCertificate(x *Acceptance, certs []*Certificate, owner ed25519.PublicKey, repo seal.RepositoryID) error {
	if err := x.Verify(repo, owner); err != nil {
		return err
	}
	return checkNewest(x.Certificate, certs, owner, repo, fmt.Sprintf("acceptance %d of %s", x.Serial, x.Environment))
}

// checkNewest checks that no other certificate ended that of a statement; nil is
// the owner's signature, which nothing ends. The error wraps ErrEnded.
func checkNewest(of *Certificate, certs []*Certificate, owner ed25519.PublicKey, repo seal.RepositoryID, what string) error {
	if of == nil {
		return nil
	}
	for _, c := range certs {
		if c.Host == of.Host && c.Serial >= of.Serial && c.hash != of.hash && c.Verify(repo, owner) == nil {
			return fmt.Errorf("%s: %w", what, ErrEnded)
		}
	}
	return nil
}

// CheckDeletionCertificate checks whether the repacks of a deletion are to be
// trusted: it must be signed by the owner, or under the newest of the host's
// certificates, which were verified. The error wraps ErrEnded.
func CheckDeletionCertificate(x *Deletion, certs []*Certificate) error {
	if x.Certificate == nil {
		return nil
	}
	for _, c := range certs {
		if c.Host == x.Host && c.Serial >= x.Certificate.Serial && c.hash != x.Certificate.hash {
			return fmt.Errorf("pending deletion %d of host %s: %w", x.Serial, x.Host, ErrEnded)
		}
	}
	return nil
}
