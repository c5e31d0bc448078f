package trust

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/localstate"
	"knowngood/storage/replay"
	"knowngood/storage/statement"
)

// certificatesFresh is how long listed certificates are used at most: a run
// must not commit long after another machine ended its key.
const certificatesFresh = time.Minute

// Certified are the hosts that the owner certified. It keeps what was verified, which
// never changes, and for a while what was listed. Its methods may be called
// concurrently.
type Certified struct {
	base  *Base
	fresh time.Duration

	mu       sync.Mutex
	byKey    map[string]*statement.Certificate
	listed   map[string]certificateList // by host; "" for all hosts
	memories map[string]*ledger.Newest[*statement.Certificate]
}

type certificateList struct {
	at   time.Time
	keys []storage.Object
}

// forgetListed makes the next use of certificates ask the store.
func (h *Certified) forgetListed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.listed)
}

// list returns the certificates of a host, newest first, or those of all hosts. It
// uses a listing again for Options.Fresh, and at most for certificatesFresh.
func (h *Certified) list(ctx context.Context, host string) ([]storage.Object, error) {
	prefix := layout.PrefixAllCertificates
	if host != "" {
		prefix = layout.PrefixCertificates(host)
	}
	h.mu.Lock()
	for _, of := range []string{host, ""} {
		l, ok := h.listed[of]
		if !ok || time.Since(l.at) >= min(h.fresh, certificatesFresh) {
			continue
		}
		h.mu.Unlock()
		var keys []storage.Object
		for _, o := range l.keys {
			if strings.HasPrefix(o.Key, prefix) {
				keys = append(keys, o)
			}
		}
		return keys, nil
	}
	h.mu.Unlock()

	l := certificateList{at: replay.ListedAt(h.base.store, prefix)}
	for o, err := range h.base.store.List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
		if err != nil {
			return nil, fmt.Errorf("list certificates of hosts: %w", err)
		}
		l.keys = append(l.keys, o)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listed[host] = l
	return l.keys, nil
}

// ledger of the certificates of a host.
func (h *Certified) ledger(host string) *ledger.Ledger[*statement.Certificate] {
	return &ledger.Ledger[*statement.Certificate]{
		Reader: h.base.Read, Prefix: layout.PrefixCertificates(host), What: "host certificate", Limit: MaxStatement,
		Number: func(key string) (uint64, bool) { _, n, ok := layout.ParseCertificateKey(key); return n, ok },
		Key:    func(c *statement.Certificate) string { return layout.KeyCertificate(c.Host, c.Serial) },
		Parse:  h.parse,
	}
}

// memory is the ledger, of which this machine remembers the newest.
func (h *Certified) memory(host string) *ledger.Newest[*statement.Certificate] {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.memories[host] == nil {
		h.memories[host] = ledger.Remember(h.ledger(host), h.base.State, localstate.CertificateFile(host))
		h.memories[host].Whole = true
	}
	return h.memories[host]
}

func (h *Certified) parse(object []byte) (*statement.Certificate, error) {
	c, err := statement.ParseCertificate(object)
	if err == nil {
		err = c.Verify(h.base.ID(), h.base.desc.Owner)
	}
	return c, err
}

// Certificates of a host that the owner signed, newest first, those that were
// hidden included. The newest that this machine saw is always among them: an
// older listing does not bring an ended key back.
func (h *Certified) Certificates(ctx context.Context, host string) ([]*statement.Certificate, error) {
	listed, err := h.list(ctx, host)
	if err != nil {
		return nil, err
	}
	var certs []*statement.Certificate
	for _, o := range listed {
		c, err := h.certificate(ctx, host, o)
		if authentic.Damaged(err) {
			h.base.Warn(err)
			continue
		}
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	_, lost, err := h.memory(host).Update(certs)
	if lost != nil {
		certs = append(certs, lost)
		slices.SortStableFunc(certs, func(a, b *statement.Certificate) int { return cmp.Compare(b.Serial, a.Serial) })
	}
	return certs, err
}

func (h *Certified) certificate(ctx context.Context, host string, o storage.Object) (*statement.Certificate, error) {
	h.mu.Lock()
	cert := h.byKey[o.Key]
	h.mu.Unlock()
	if cert != nil {
		return cert, nil
	}
	l := h.ledger(host) // a new one asks again whether the store denies only this
	l.Kept = h.memory(host).Copy
	e, err := l.Read(ctx, o)
	err = cmp.Or(err, e.Err)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byKey[o.Key] = e.Value
	return e.Value, nil
}

// publish puts a certificate into the store.
func (h *Certified) publish(ctx context.Context, c *statement.Certificate, now time.Time) error {
	defer h.forgetListed()
	if err := h.base.Put(ctx, layout.KeyCertificate(c.Host, c.Serial), c.Bytes(), now); err != nil {
		return fmt.Errorf("publish the certificate of host %s: %w", c.Host, err)
	}
	return nil
}

// Enrolled are the hosts that have a certificate, or of which a snapshot is
// remembered, sorted. Its request lists the certificates, which are then used again.
func (h *Certified) Enrolled(ctx context.Context) ([]string, error) {
	names, err := h.base.State.Names("")
	if err != nil {
		return nil, err
	}
	listed, err := h.list(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, o := range listed {
		if host, _, ok := layout.ParseCertificateKey(o.Key); ok {
			names = append(names, host)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
