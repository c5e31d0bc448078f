package attest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// ErrNotCertified: the owner has not certified the attest key of this machine, or not
// for what it is to sign.
var ErrNotCertified = errors.New("the attest key of this machine is not certified for this")

// keyFile has the attest key of this machine.
const keyFile = "attest.key"

const pemSecret = "PRIVATE KEY" // PKCS #8

// Key is the attest key of this machine, and its newest certificate.
type Key struct {
	*statement.AttestKey
	private ed25519.PrivateKey
}

// Certifier has the attest keys of a repository, that of this machine among them, and
// with the owner key certifies and revokes them. Its methods may be called concurrently.
type Certifier struct{ t *trust.Trust }

// Format prints only the ID, with every verb, so that no secret is printed.
func (k *Key) Format(f fmt.State, _ rune) {
	fmt.Fprint(f, "attest key ", statement.AttestKeyID(public(k.private)))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// Keys are the newest certificates of all attest keys, in the order of their IDs.
// The newest that this machine saw of a key is among them: an older listing does not
// bring a key back that was revoked.
func (c *Certifier) Keys(ctx context.Context) ([]*statement.AttestKey, error) {
	newest, err := c.keys(ctx)
	if err != nil {
		return nil, err
	}
	byID := func(a, b *statement.AttestKey) int { return cmp.Compare(a.ID().String(), b.ID().String()) }
	return slices.SortedFunc(maps.Values(newest), byID), nil
}

// certificates of an attest key.
func (c *Certifier) certificates(id layout.KeyID) *ledger.Newest[*statement.AttestKey] {
	return ledger.Remember(&ledger.Ledger[*statement.AttestKey]{
		Reader: c.t.Read, Prefix: layout.PrefixAttestKey(id), What: "attest key certificate", Limit: trust.MaxStatement,
		Number: func(key string) (uint64, bool) { _, n, ok := layout.ParseAttestKeyKey(key); return n, ok },
		Key:    func(x *statement.AttestKey) string { return layout.KeyAttestKey(x.ID(), x.Serial) },
		Parse: func(object []byte) (*statement.AttestKey, error) {
			x, err := statement.ParseAttestKey(object)
			if err == nil {
				err = x.Verify(c.t.ID(), c.t.Descriptor().Owner)
			}
			return x, err
		},
	}, c.t.State, filepath.Join("attest", id.String()))
}

// keys are the newest certificates by the ID of the key.
func (c *Certifier) keys(ctx context.Context) (map[layout.KeyID]*statement.AttestKey, error) {
	newest := map[layout.KeyID]*statement.AttestKey{}
	for o, err := range c.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixAttestKeys, Hidden: true}) {
		if err != nil {
			return nil, fmt.Errorf("list attest keys: %w", err)
		}
		id, _, ok := layout.ParseAttestKeyKey(o.Key)
		if !ok || newest[id] != nil {
			continue
		}
		e, err := c.certificates(id).Read(ctx, o)
		if err != nil {
			return nil, err
		}
		if e.Err != nil {
			c.t.Warn(e.Err)
			continue
		}
		newest[id] = e.Value
	}
	return newest, c.rememberKeys(newest)
}

// rememberKeys adds the certificates that are remembered and newer than those that the
// store shows, and remembers the others.
func (c *Certifier) rememberKeys(newest map[layout.KeyID]*statement.AttestKey) error {
	if c.t.State.None() {
		return nil
	}
	names, err := c.t.State.Dir().In("attest").Names()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c.t.State.Wrap(err)
	}
	for _, name := range names {
		if id, ok := layout.ParseKeyID(name); ok && newest[id] == nil {
			newest[id] = nil // which is remembered
		}
	}
	for id, x := range newest {
		shown := slices.DeleteFunc([]*statement.AttestKey{x}, func(x *statement.AttestKey) bool { return x == nil })
		if newest[id], _, err = c.certificates(id).Update(shown); err != nil {
			return err
		}
	}
	return nil
}

// secretKey reads the attest key of this machine, and makes one where it has none.
func (c *Certifier) secretKey() (key ed25519.PrivateKey, err error) {
	if c.t.State.None() {
		return nil, errors.New("an attest key needs a state directory: choose one with --state-dir")
	}
	err = c.t.State.Locked(func() error {
		file, err := c.t.State.Read(keyFile)
		if err != nil {
			return err
		}
		if file == nil {
			if _, key, err = ed25519.GenerateKey(nil); err != nil {
				return err
			}
			der, _ := x509.MarshalPKCS8PrivateKey(key) // which takes each Ed25519 key
			return c.t.State.Write(keyFile, pem.EncodeToMemory(&pem.Block{Type: pemSecret, Headers: c.pemHeaders(), Bytes: der}))
		}
		block, _ := pem.Decode(file)
		if block == nil || block.Type != pemSecret || !maps.Equal(block.Headers, c.pemHeaders()) {
			return fmt.Errorf("attest key %s is damaged, or was made on another machine: remove it, and the next drill makes another", c.t.State.Dir().Path(keyFile))
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		var ok bool
		if key, ok = parsed.(ed25519.PrivateKey); err != nil || !ok {
			return fmt.Errorf("attest key %s is damaged: remove it, and the next drill makes another (%v)", c.t.State.Dir().Path(keyFile), err)
		}
		return nil
	})
	return key, err
}

// pemHeaders are of this repository and this machine: a clone makes a key of its own.
func (c *Certifier) pemHeaders() map[string]string {
	return map[string]string{"Repository": c.t.ID().String(), "Machine": fmt.Sprintf("%x", c.t.State.MachineHash())}
}

// ownHost is the host of the repository that this machine is; empty for none.
func (c *Certifier) ownHost() string { return trust.EnrolledAs(c.t.State.Root, c.t.State.Place) }

// EnsureKey returns the attest key of this machine, which may speak of host. Where it
// has none yet it makes one, and where an identity at hand opens the owner key it
// certifies it, for all hosts. machine is the name that its results carry. The error
// is ErrNotCertified when somebody else has to certify it first.
func (c *Certifier) EnsureKey(ctx context.Context, host, machine string, now time.Time) (*Key, error) {
	key, err := c.secretKey()
	if err != nil {
		return nil, err
	}
	newest, err := c.keys(ctx)
	if err != nil {
		return nil, err
	}
	id := statement.AttestKeyID(public(key))
	x := newest[id]
	if x != nil && !x.Before.IsZero() {
		return nil, fmt.Errorf("%w: key %v was revoked, for what was stored from %s on. Where this machine is to be trusted again, remove %s, and the next drill makes another key", ErrNotCertified, id, x.Before.UTC().Format(time.RFC3339), c.t.State.Dir().Path(keyFile))
	}
	if x != nil && x.Speaks(host) && x.Host == c.ownHost() {
		return &Key{x, key}, nil
	}

	hosts := []string{"*"}
	if x != nil && x.Speaks(host) {
		hosts = x.Hosts // this machine became a host since
	}
	x, err = c.certify(ctx, &statement.AttestKey{Machine: machine, Key: public(key), Hosts: hosts, Host: c.ownHost()}, now)
	if errors.Is(err, trust.ErrNoUsableIdentity) || errors.Is(err, storage.ErrDenied) { // as the policy of a drill host has it
		return nil, fmt.Errorf("%w: %w; or let its owner do it: run `knowngood attest key --request` here, and `knowngood attest key --certify KEY --hosts %s` where the owner's identity is", ErrNotCertified, err, host)
	}
	if err != nil {
		return nil, err
	}
	return &Key{x, key}, nil
}

// Request is what the owner certifies the attest key of this machine by: a text, with
// the key, the name of the machine, and which host of the repository it is.
func (c *Certifier) Request(machine string, now time.Time) (string, layout.KeyID, error) {
	key, err := c.secretKey()
	if err != nil {
		return "", layout.KeyID{}, err
	}
	x := &statement.AttestKey{Repository: c.t.ID(), Machine: machine, Serial: 1, Key: public(key), Issued: now, Host: c.ownHost()}
	object, err := x.Encode(key)
	return base64.RawURLEncoding.EncodeToString(object), x.ID(), err
}

// Certify certifies the key of a request for the hosts that patterns match, with an
// identity that opens the owner key.
func (c *Certifier) Certify(ctx context.Context, request string, patterns []string, now time.Time) (*statement.AttestKey, error) {
	object, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(request))
	var x *statement.AttestKey
	if err == nil {
		x, err = statement.ParseAttestKey(object)
	}
	if err == nil {
		err = x.Verify(c.t.ID(), x.Key)
	}
	if err != nil {
		return nil, fmt.Errorf("that is no request of a machine for this repository (%w): give the whole line that `knowngood attest key --request` printed on the drill host", err)
	}
	return c.certify(ctx, &statement.AttestKey{Machine: x.Machine, Key: x.Key, Hosts: patterns, Host: x.Host}, now)
}

// Revoke makes that nothing counts which an attest key signed and the store took at
// since, by its own clock, or later. It needs an identity that opens the owner key.
func (c *Certifier) Revoke(ctx context.Context, id layout.KeyID, since, now time.Time) (*statement.AttestKey, error) {
	newest, err := c.keys(ctx)
	if err != nil {
		return nil, err
	}
	x := newest[id]
	if x == nil {
		return nil, fmt.Errorf("the repository has no attest key %v: `knowngood attest key` lists them", id)
	}
	return c.certify(ctx, &statement.AttestKey{Machine: x.Machine, Key: x.Key, Hosts: x.Hosts, Host: x.Host, Before: since}, now)
}

// certify publishes the next certificate of an attest key.
func (c *Certifier) certify(ctx context.Context, x *statement.AttestKey, now time.Time) (*statement.AttestKey, error) {
	owner, err := c.t.OwnerKey(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.refuseHostKeys(ctx, x.Key); err != nil {
		return nil, err
	}
	x.Repository, x.Issued = c.t.ID(), now
	free := func(ctx context.Context) (uint64, error) {
		known, err := c.keys(ctx)
		if err != nil {
			return 0, err
		}
		var in ledger.Numbers
		x.Previous = [32]byte{}
		if before := known[x.ID()]; before != nil {
			in.Newest, x.Previous = before.Serial, before.Hash()
		}
		for o, err := range c.certificates(x.ID()).List(ctx) {
			if err != nil {
				return 0, err
			}
			if _, serial, ok := layout.ParseAttestKeyKey(o.Key); ok && serial > in.Newest {
				in.Pass(serial, false)
			}
		}
		return in.Free(), nil
	}
	encode := func(serial uint64) ([]byte, error) {
		x.Serial = serial
		return x.Encode(owner)
	}
	object, err := ledger.Claim(ctx, "certificates of attest key "+x.ID().String(), free, encode, func(ctx context.Context, serial uint64, object []byte) error {
		return c.t.Put(ctx, layout.KeyAttestKey(x.ID(), serial), object, now)
	})
	if err != nil {
		return nil, fmt.Errorf("certify attest key %v: %w", x.ID(), err)
	}
	if _, err := c.keys(ctx); err != nil { // which remembers it
		return nil, err
	}
	return statement.ParseAttestKey(object)
}

// refuseHostKeys refuses a key that is one of a host, or the owner's: a host would
// prove its own snapshots with what it signs them with.
func (c *Certifier) refuseHostKeys(ctx context.Context, key ed25519.PublicKey) error {
	hosts, err := c.t.Enrolled(ctx)
	if err != nil {
		return err
	}
	if key.Equal(c.t.Descriptor().Owner) {
		return errors.New("the owner key is no attest key")
	}
	for _, host := range hosts {
		certs, err := c.t.Certificates(ctx, host)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(certs, func(c *statement.Certificate) bool { return c.HostKey.Equal(key) }) {
			return fmt.Errorf("it is the key with which host %s signs its snapshots: an attest key is another", host)
		}
	}
	return nil
}

// PEM is an attest key as the tools of others read it.
func PEM(key ed25519.PublicKey) []byte {
	der, _ := x509.MarshalPKIXPublicKey(key) // which takes each Ed25519 key
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// PublicKey is the attest key of this machine.
func (c *Certifier) PublicKey() (ed25519.PublicKey, error) {
	key, err := c.secretKey()
	if err != nil {
		return nil, err
	}
	return public(key), nil
}
