package attest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/md5"
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
	"knowngood/storage/authentic"
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

// Format prints only the ID, with every verb, so that no secret is printed.
func (k *Key) Format(f fmt.State, _ rune) {
	fmt.Fprint(f, "attest key ", statement.AttestKeyID(public(k.private)))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// Keys are the newest certificates of all attest keys, in the order of their IDs.
// The newest that this machine saw of a key is among them: an older listing does not
// bring a key back that was revoked.
func (l *Ledger) Keys(ctx context.Context) ([]*statement.AttestKey, error) {
	newest, err := l.keys(ctx)
	if err != nil {
		return nil, err
	}
	byID := func(a, b *statement.AttestKey) int { return cmp.Compare(a.ID().String(), b.ID().String()) }
	return slices.SortedFunc(maps.Values(newest), byID), nil
}

// certificates of an attest key.
func (l *Ledger) certificates(id layout.KeyID) *ledger.Ledger[*statement.AttestKey] {
	return &ledger.Ledger[*statement.AttestKey]{
		Reader: l.t.Read, Prefix: layout.PrefixAttestKey(id), What: "attest key certificate", Limit: trust.MaxStatement,
		Number: func(key string) (uint64, bool) { _, n, ok := layout.ParseAttestKeyKey(key); return n, ok },
		Key:    func(x *statement.AttestKey) string { return layout.KeyAttestKey(x.ID(), x.Serial) },
		Parse: func(object []byte) (*statement.AttestKey, error) {
			x, err := statement.ParseAttestKey(object)
			if err == nil {
				err = x.Verify(l.t.ID(), l.t.Descriptor().Owner)
			}
			return x, err
		},
		Kept: func(o storage.Object) []byte {
			object, err := l.t.State.Read(keyMemory(id))
			if err != nil || o.Size != int64(len(object)) || o.MD5 != md5.Sum(object) {
				return nil
			}
			return object
		},
	}
}

// keys are the newest certificates by the ID of the key.
func (l *Ledger) keys(ctx context.Context) (map[layout.KeyID]*statement.AttestKey, error) {
	newest := map[layout.KeyID]*statement.AttestKey{}
	for o, err := range l.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixAttestKeys, Hidden: true}) {
		if err != nil {
			return nil, fmt.Errorf("list attest keys: %w", err)
		}
		id, _, ok := layout.ParseAttestKeyKey(o.Key)
		if !ok || newest[id] != nil {
			continue
		}
		e, err := l.certificates(id).Read(ctx, o)
		if err != nil {
			return nil, err
		}
		if e.Err != nil {
			l.t.Warn(e.Err)
			continue
		}
		newest[id] = e.Value
	}
	return newest, l.rememberKeys(newest)
}

// keyMemory is where the newest certificate of an attest key that was seen lies in the
// state directory.
func keyMemory(id layout.KeyID) string { return filepath.Join("attest", id.String()) }

// rememberKeys adds the certificates that are remembered and newer than those that the
// store shows, and remembers the others.
func (l *Ledger) rememberKeys(newest map[layout.KeyID]*statement.AttestKey) error {
	if l.t.State.None() {
		return nil
	}
	names, err := l.t.State.Dir().In("attest").Names()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l.t.State.Wrap(err)
	}
	for _, name := range names {
		id, ok := layout.ParseKeyID(name)
		if !ok {
			continue
		}
		object, err := l.t.State.Read(keyMemory(id))
		if err != nil {
			return err
		}
		known, err := l.certificates(id).Parse(object)
		if err == nil && known.ID() != id {
			err = fmt.Errorf("it is the one of key %v", known.ID())
		}
		if err != nil {
			return fmt.Errorf("file %s is damaged: %v; remove it to forget which certificate was seen", l.t.State.Dir().Path(keyMemory(id)), err)
		}
		shown := newest[id]
		switch {
		case shown != nil && shown.Hash() == known.Hash():
			continue
		case shown == nil || shown.Serial <= known.Serial:
			found := "none"
			if shown != nil {
				found = fmt.Sprintf("certificate %d (%x)", shown.Serial, shown.Hash())
			}
			l.t.Warn(&authentic.TamperError{What: "certificates of attest key " + id.String(), Key: layout.KeyAttestKey(id, known.Serial), Remembered: fmt.Sprintf("certificate %d (%x)", known.Serial, known.Hash()), Found: found,
				Hint: "the one remembered is still used; find out who can write to " + layout.PrefixAttestKey(id)})
			newest[id] = known
		}
	}
	for id, x := range newest {
		if object, err := l.t.State.Read(keyMemory(id)); err == nil && bytes.Equal(object, x.Bytes()) {
			continue
		}
		if err := l.t.State.Write(keyMemory(id), x.Bytes()); err != nil {
			l.t.Warn(fmt.Errorf("that attest key %v is revoked may go unnoticed: %w", id, err))
		}
	}
	return nil
}

// secretKey reads the attest key of this machine, and makes one where it has none.
func (l *Ledger) secretKey() (key ed25519.PrivateKey, err error) {
	if l.t.State.None() {
		return nil, errors.New("an attest key needs a state directory: choose one with --state-dir")
	}
	err = l.t.State.Locked(func() error {
		file, err := l.t.State.Read(keyFile)
		if err != nil {
			return err
		}
		if file == nil {
			if _, key, err = ed25519.GenerateKey(nil); err != nil {
				return err
			}
			der, _ := x509.MarshalPKCS8PrivateKey(key) // which takes each Ed25519 key
			return l.t.State.Write(keyFile, pem.EncodeToMemory(&pem.Block{Type: pemSecret, Headers: l.pemHeaders(), Bytes: der}))
		}
		block, _ := pem.Decode(file)
		if block == nil || block.Type != pemSecret || !maps.Equal(block.Headers, l.pemHeaders()) {
			return fmt.Errorf("attest key %s is damaged, or was made on another machine: remove it, and the next drill makes another", l.t.State.Dir().Path(keyFile))
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		var ok bool
		if key, ok = parsed.(ed25519.PrivateKey); err != nil || !ok {
			return fmt.Errorf("attest key %s is damaged: remove it, and the next drill makes another (%v)", l.t.State.Dir().Path(keyFile), err)
		}
		return nil
	})
	return key, err
}

// pemHeaders are of this repository and this machine: a clone makes a key of its own.
func (l *Ledger) pemHeaders() map[string]string {
	return map[string]string{"Repository": l.t.ID().String(), "Machine": fmt.Sprintf("%x", l.t.State.MachineHash())}
}

// ownHost is the host of the repository that this machine is; empty for none.
func (l *Ledger) ownHost() string { return trust.EnrolledAs(l.t.State.Root, l.t.State.Place) }

// EnsureKey returns the attest key of this machine, which may speak of host. Where it
// has none yet it makes one, and where an identity at hand opens the owner key it
// certifies it, for all hosts. machine is the name that its results carry. The error
// is ErrNotCertified when somebody else has to certify it first.
func (l *Ledger) EnsureKey(ctx context.Context, host, machine string, now time.Time) (*Key, error) {
	key, err := l.secretKey()
	if err != nil {
		return nil, err
	}
	newest, err := l.keys(ctx)
	if err != nil {
		return nil, err
	}
	id := statement.AttestKeyID(public(key))
	x := newest[id]
	if x != nil && !x.Before.IsZero() {
		return nil, fmt.Errorf("%w: key %v was revoked, for what was stored from %s on. Where this machine is to be trusted again, remove %s, and the next drill makes another key", ErrNotCertified, id, x.Before.UTC().Format(time.RFC3339), l.t.State.Dir().Path(keyFile))
	}
	if x != nil && x.Speaks(host) && x.Host == l.ownHost() {
		return &Key{x, key}, nil
	}

	hosts := []string{"*"}
	if x != nil && x.Speaks(host) {
		hosts = x.Hosts // this machine became a host since
	}
	x, err = l.certify(ctx, &statement.AttestKey{Machine: machine, Key: public(key), Hosts: hosts, Host: l.ownHost()}, now)
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
func (l *Ledger) Request(machine string, now time.Time) (string, layout.KeyID, error) {
	key, err := l.secretKey()
	if err != nil {
		return "", layout.KeyID{}, err
	}
	x := &statement.AttestKey{Repository: l.t.ID(), Machine: machine, Serial: 1, Key: public(key), Issued: now, Host: l.ownHost()}
	object, err := x.Encode(key)
	return base64.RawURLEncoding.EncodeToString(object), x.ID(), err
}

// Certify certifies the key of a request for the hosts that patterns match, with an
// identity that opens the owner key.
func (l *Ledger) Certify(ctx context.Context, request string, patterns []string, now time.Time) (*statement.AttestKey, error) {
	object, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(request))
	var x *statement.AttestKey
	if err == nil {
		x, err = statement.ParseAttestKey(object)
	}
	if err == nil {
		err = x.Verify(l.t.ID(), x.Key)
	}
	if err != nil {
		return nil, fmt.Errorf("that is no request of a machine for this repository (%w): give the whole line that `knowngood attest key --request` printed on the drill host", err)
	}
	return l.certify(ctx, &statement.AttestKey{Machine: x.Machine, Key: x.Key, Hosts: patterns, Host: x.Host}, now)
}

// Revoke makes that nothing counts which an attest key signed and the store took at
// since, by its own clock, or later. It needs an identity that opens the owner key.
func (l *Ledger) Revoke(ctx context.Context, id layout.KeyID, since, now time.Time) (*statement.AttestKey, error) {
	newest, err := l.keys(ctx)
	if err != nil {
		return nil, err
	}
	x := newest[id]
	if x == nil {
		return nil, fmt.Errorf("the repository has no attest key %v: `knowngood attest key` lists them", id)
	}
	return l.certify(ctx, &statement.AttestKey{Machine: x.Machine, Key: x.Key, Hosts: x.Hosts, Host: x.Host, Before: since}, now)
}

// certify publishes the next certificate of an attest key.
func (l *Ledger) certify(ctx context.Context, x *statement.AttestKey, now time.Time) (*statement.AttestKey, error) {
	owner, err := l.t.OwnerKey(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.refuseHostKeys(ctx, x.Key); err != nil {
		return nil, err
	}
	x.Repository, x.Issued = l.t.ID(), now
	free := func(ctx context.Context) (uint64, error) {
		known, err := l.keys(ctx)
		if err != nil {
			return 0, err
		}
		var in ledger.Numbers
		x.Previous = [32]byte{}
		if before := known[x.ID()]; before != nil {
			in.Newest, x.Previous = before.Serial, before.Hash()
		}
		for o, err := range l.certificates(x.ID()).List(ctx) {
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
		return l.t.Put(ctx, layout.KeyAttestKey(x.ID(), serial), object, now)
	})
	if err != nil {
		return nil, fmt.Errorf("certify attest key %v: %w", x.ID(), err)
	}
	if _, err := l.keys(ctx); err != nil { // which remembers it
		return nil, err
	}
	return statement.ParseAttestKey(object)
}

// refuseHostKeys refuses a key that is one of a host, or the owner's: a host would
// prove its own snapshots with what it signs them with.
func (l *Ledger) refuseHostKeys(ctx context.Context, key ed25519.PublicKey) error {
	hosts, err := l.t.Enrolled(ctx)
	if err != nil {
		return err
	}
	if key.Equal(l.t.Descriptor().Owner) {
		return errors.New("the owner key is no attest key")
	}
	for _, host := range hosts {
		certs, err := l.t.Certificates(ctx, host)
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
func (l *Ledger) PublicKey() (ed25519.PublicKey, error) {
	key, err := l.secretKey()
	if err != nil {
		return nil, err
	}
	return public(key), nil
}
