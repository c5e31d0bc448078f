package repository

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

// certificates keeps what was verified, which never changes, and for a while
// what was listed.
type certificates struct {
	mu     sync.Mutex
	byKey  map[string]*statement.Certificate
	listed map[string]certificateList // by host; "" for all hosts
}

// forgetListed makes the next look at certificates ask the store.
func (c *certificates) forgetListed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = nil
}

// certificatesFresh is how long a look at certificates counts at most: a run
// must not commit long after another machine ended its key.
const certificatesFresh = time.Minute

type certificateList struct {
	at   time.Time
	keys []storage.Object
}

// certificateKeys lists the certificates of a host, newest first, or those of
// all hosts; what was listed a moment ago counts (OpenOptions.Fresh, and at most
// certificatesFresh).
func (r *Repository) certificateKeys(ctx context.Context, host string) ([]storage.Object, error) {
	prefix := layout.PrefixAllCertificates
	if host != "" {
		prefix = layout.PrefixCertificates(host)
	}
	r.certs.mu.Lock()
	for _, h := range []string{host, ""} {
		l, ok := r.certs.listed[h]
		if !ok || time.Since(l.at) >= min(r.freshFor, certificatesFresh) {
			continue
		}
		r.certs.mu.Unlock()
		var keys []storage.Object
		for _, o := range l.keys {
			if strings.HasPrefix(o.Key, prefix) {
				keys = append(keys, o)
			}
		}
		return keys, nil
	}
	r.certs.mu.Unlock()

	l := certificateList{at: time.Now()}
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: prefix, Hidden: true}) {
		if err != nil {
			return nil, fmt.Errorf("list certificates of hosts: %w", err)
		}
		l.keys = append(l.keys, o)
	}
	r.certs.mu.Lock()
	defer r.certs.mu.Unlock()
	if r.certs.listed == nil {
		r.certs.listed = map[string]certificateList{}
	}
	r.certs.listed[host] = l
	return l.keys, nil
}

// hostCertificates are the certificates of a host that the owner signed,
// newest first, those that were hidden included.
func (r *Repository) hostCertificates(ctx context.Context, host string) ([]*statement.Certificate, error) {
	listed, err := r.certificateKeys(ctx, host)
	if err != nil {
		return nil, err
	}
	var certs []*statement.Certificate
	for _, o := range listed {
		c, err := r.certificate(ctx, o)
		if Damaged(err) {
			r.warn(err)
			continue
		}
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	return certs, nil
}

func (r *Repository) certificate(ctx context.Context, o storage.Object) (*statement.Certificate, error) {
	r.certs.mu.Lock()
	c := r.certs.byKey[o.Key]
	r.certs.mu.Unlock()
	if c != nil {
		return c, nil
	}
	object, err := r.listed(ctx, o, func(b []byte) bool { _, err := r.checkCertificate(o.Key, b); return err == nil })
	if errors.Is(err, storage.ErrNotFound) {
		err = &DamageError{Key: o.Key, What: "host certificate", Err: err}
	}
	if err != nil {
		return nil, err
	}
	if c, err = r.checkCertificate(o.Key, object); err != nil {
		return nil, err
	}
	r.certs.mu.Lock()
	defer r.certs.mu.Unlock()
	if r.certs.byKey == nil {
		r.certs.byKey = map[string]*statement.Certificate{}
	}
	r.certs.byKey[o.Key] = c
	return c, nil
}

func (r *Repository) checkCertificate(key string, object []byte) (*statement.Certificate, error) {
	c, err := statement.ParseCertificate(object)
	if err == nil {
		err = c.Verify(r.ID(), r.desc.Owner)
	}
	if err == nil && layout.KeyCertificate(c.Host, c.Serial) != key {
		err = fmt.Errorf("it is the one of host %s with serial %d", c.Host, c.Serial)
	}
	if err != nil {
		return nil, &DamageError{Key: key, What: "host certificate", Err: err}
	}
	return c, nil
}
