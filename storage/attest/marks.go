package attest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/statement"
	"knowngood/storage/trust"

	"golang.org/x/sync/errgroup"
)

// Marks are what was said of snapshots of an environment besides drills: that they are
// bad, or no longer.
type Marks struct {
	said   []said // those that count, the newest first
	host   []said // of the host: they change nothing
	newest [32]byte
}

// said is a mark, and who signed it.
type said struct {
	*statement.Mark
	by    string
	owner bool
}

// Marker reads and writes the marks of a repository. Its methods may be called
// concurrently.
type Marker struct {
	t         *trust.Trust
	certifier *Certifier
}

// Standing is what marks state of a snapshot.
type Standing struct {
	Bad    bool
	By     string // who said so: the owner, or a machine that drills
	Reason string
	Made   time.Time // by the clock of who said so
	// HostBad is whether the host itself marked it, which changes nothing.
	HostBad    bool
	HostReason string
}

// Of is what marks state of a snapshot. The newest counts. But what the owner marked as
// bad only the owner clears.
func (m *Marks) Of(number uint64, id [32]byte) (s Standing) {
	if m == nil {
		return s
	}
	cleared := false // by an attest key, which does not clear what the owner said
	for _, x := range m.said {
		bad, named := x.names(number, id)
		switch {
		case !named, bad && !x.owner && cleared:
			continue
		case !bad && !x.owner:
			cleared = true
			continue
		case bad:
			s = Standing{Bad: true, By: x.by, Reason: x.Reason, Made: x.Made}
		}
		break // which leaves the loop: the newest word that counts is found
	}
	for _, x := range m.host {
		if bad, named := x.names(number, id); named {
			s.HostBad, s.HostReason = bad, x.Reason
			break
		}
	}
	return s
}

func (x *said) names(number uint64, id [32]byte) (bad, named bool) {
	for _, m := range x.Marked {
		if m.Number == number && m.ID == id {
			return m.Bad, true
		}
	}
	return false, false
}

// markLedger is that of the marks of the owner and of attest keys, or of the host.
func (w *Marker) markLedger(host, env string, ofHost bool, certs []*statement.Certificate) *ledger.Ledger[*statement.Mark] {
	m := &ledger.Ledger[*statement.Mark]{
		Reader: w.t.Read, Prefix: layout.PrefixMarks(host, env), What: "mark", Limit: trust.MaxStatement,
		Number: func(key string) (uint64, bool) { _, _, n, ok := layout.ParseMarkKey(key); return n, ok },
		Key:    func(x *statement.Mark) string { return layout.KeyMark(x.Host, x.Environment, x.Serial) },
		Parse: func(object []byte) (*statement.Mark, error) {
			x, err := statement.ParseMark(object)
			if err == nil {
				err = statement.CheckMarkCertificate(x, certs, w.t.Descriptor().Owner, w.t.ID())
			}
			if err == nil && (x.Certificate != nil) != ofHost {
				err = errors.New("it is signed by somebody else than its place says")
			}
			return x, err
		},
	}
	if ofHost {
		m.Prefix = layout.PrefixHostMarks(host, env)
		m.Number = func(key string) (uint64, bool) { _, _, n, ok := layout.ParseHostMarkKey(key); return n, ok }
		m.Key = func(x *statement.Mark) string { return layout.KeyHostMark(x.Host, x.Environment, x.Serial) }
	}
	m.Seen = w.t.State.Statements(m.Prefix)
	return m
}

// Marks reads the marks of an environment.
func (w *Marker) Marks(ctx context.Context, host, env string) (*Marks, error) {
	g, ctx := errgroup.WithContext(ctx)
	var m, h *Marks
	g.Go(func() (err error) { m, _, err = w.marks(ctx, host, env, false); return err })
	g.Go(func() (err error) { h, _, err = w.marks(ctx, host, env, true); return err })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	m.host = h.said
	return m, nil
}

func (w *Marker) marks(ctx context.Context, host, env string, ofHost bool) (*Marks, ledger.Numbers, error) {
	var in ledger.Numbers
	var certs []*statement.Certificate
	var keys map[layout.KeyID]*statement.AttestKey
	var err error
	if ofHost {
		if certs, err = w.t.Certificates(ctx, host); err != nil {
			return nil, in, err
		}
	}
	m := &Marks{}
	for e, err := range w.markLedger(host, env, ofHost, certs).All(ctx, ahead) {
		if err != nil {
			return nil, in, err
		}
		x := said{Mark: e.Value, by: "the owner", owner: !ofHost}
		if e.Counts() && x.AttestKey != nil {
			if keys == nil {
				if keys, err = w.certifier.keys(ctx); err != nil {
					return nil, in, err
				}
			}
			x.owner = false
			if x.by, e.Err = machineOf(keys[x.AttestKey.ID()], host, e.Stored); e.Err != nil {
				e.Err = fmt.Errorf("mark %s: %w", e.Listed.Key, e.Err)
			}
		}
		in.Pass(e.Number, e.Counts())
		if !e.Counts() {
			if !errors.Is(e.Err, statement.ErrEnded) {
				w.t.Warn(e.Err)
			}
			continue
		}
		if m.newest == [32]byte{} {
			m.newest = x.Hash()
		}
		m.said = append(m.said, x)
	}
	return m, in, nil
}

// machineOf is the machine that has an attest key, and why what the store took at a
// time does not count under it.
func machineOf(key *statement.AttestKey, host string, stored time.Time) (string, error) {
	switch {
	case key == nil:
		return "", ErrUncertified
	case !key.Speaks(host):
		return "", statement.ErrOutOfScope
	case !key.Before.IsZero() && !stored.Before(key.Before):
		return "", fmt.Errorf("%w: on %s, revoked from %s on", ErrRevoked, stored.UTC().Format(time.RFC3339), key.Before.UTC().Format(time.RFC3339))
	}
	return key.Machine, nil
}

// Mark writes that snapshots are bad, or no longer: as the owner where an identity
// opens that key, else with the attest key of this machine, else as the host. The
// machine is the signer's name: empty for the host, whose mark changes nothing.
func (w *Marker) Mark(ctx context.Context, host, env string, marked []statement.Marked, reason string, now time.Time) (by string, err error) {
	x := &statement.Mark{Repository: w.t.ID(), Host: host, Environment: env, Marked: marked, Made: now, Reason: reason}
	key, by, err := w.markSigner(ctx, x)
	if err != nil {
		return "", fmt.Errorf("mark snapshots of %s of host %s: %w", env, host, err)
	}
	ofHost := x.Certificate != nil
	free := func(ctx context.Context) (uint64, error) {
		m, in, err := w.marks(ctx, host, env, ofHost)
		if err != nil {
			return 0, err
		}
		x.Previous = m.newest
		return in.Free(), nil
	}
	encode := func(serial uint64) ([]byte, error) {
		x.Serial = serial
		return x.Encode(key)
	}
	_, err = ledger.Claim(ctx, fmt.Sprintf("marks on %s of host %s", env, host), free, encode, func(ctx context.Context, serial uint64, object []byte) error {
		at := layout.KeyMark(host, env, serial)
		if ofHost {
			at = layout.KeyHostMark(host, env, serial)
		}
		return w.t.Put(ctx, at, object, now)
	})
	if err != nil {
		return "", fmt.Errorf("mark snapshots of %s of host %s: %w", env, host, err)
	}
	return by, nil
}

// markSigner finds a key that may sign x, and puts its certificate into x.
func (w *Marker) markSigner(ctx context.Context, x *statement.Mark) (key ed25519.PrivateKey, by string, err error) {
	if key, err = w.t.OwnerKey(ctx); err == nil {
		return key, "the owner", nil
	}
	if !errors.Is(err, trust.ErrNoUsableIdentity) {
		return nil, "", err
	}
	if file, rerr := w.t.State.Read(keyFile); file != nil && rerr == nil {
		if key, err := w.certifier.EnsureKey(ctx, x.Host, x.Host, x.Made); err == nil { // it needs the owner where it is not certified
			x.AttestKey = key.AttestKey
			return key.private, key.Machine, nil
		}
	}
	key, x.Certificate, err = w.t.Signer(ctx, x.Host)
	return key, "", err
}
