package repository

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"knowngood/storage"
	"knowngood/storage/statement"
)

// certificates keeps what was verified; a certificate never changes.
type certificates struct {
	mu    sync.Mutex
	byKey map[string]*statement.Certificate
}

// hostCertificates are the certificates of a host that the owner signed,
// newest first. Those hidden above the newest are found where the store keeps
// versions.
func (r *Repository) hostCertificates(ctx context.Context, host string) ([]*statement.Certificate, error) {
	var certs []*statement.Certificate
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: statement.PrefixCertificates(host)}) {
		if err != nil {
			return nil, fmt.Errorf("list the certificates of host %s: %w", host, err)
		}
		c, err := r.certificate(ctx, o.Key)
		if Damaged(err) {
			r.warn(err)
			continue
		}
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	for {
		next := uint64(1)
		if len(certs) > 0 {
			next = certs[0].Serial + 1
		}
		key := statement.KeyCertificate(host, next)
		object, err := r.version(ctx, key, maxStatement, func(b []byte) bool { _, err := r.checkCertificate(key, b); return err == nil })
		if err != nil {
			return nil, err
		}
		if object == nil {
			return certs, nil
		}
		c, err := r.checkCertificate(key, object)
		if err != nil {
			return nil, err
		}
		r.warnHidden(key, true)
		certs = append([]*statement.Certificate{c}, certs...)
	}
}

func (r *Repository) certificate(ctx context.Context, key string) (*statement.Certificate, error) {
	r.certs.mu.Lock()
	c := r.certs.byKey[key]
	r.certs.mu.Unlock()
	if c != nil {
		return c, nil
	}
	object, err := readObject(ctx, r.store, key)
	if errors.Is(err, storage.ErrNotFound) {
		err = &DamageError{Key: key, What: "host certificate", Err: err}
	}
	if err != nil {
		return nil, err
	}
	if c, err = r.checkCertificate(key, object); err != nil {
		return nil, err
	}
	r.certs.mu.Lock()
	defer r.certs.mu.Unlock()
	if r.certs.byKey == nil {
		r.certs.byKey = map[string]*statement.Certificate{}
	}
	r.certs.byKey[key] = c
	return c, nil
}

func (r *Repository) checkCertificate(key string, object []byte) (*statement.Certificate, error) {
	c, err := statement.ParseCertificate(object)
	if err == nil {
		err = c.Verify(r.ID(), r.desc.Owner)
	}
	if err == nil && statement.KeyCertificate(c.Host, c.Serial) != key {
		err = fmt.Errorf("it is the one of host %s with serial %d", c.Host, c.Serial)
	}
	if err != nil {
		return nil, &DamageError{Key: key, What: "host certificate", Err: err}
	}
	return c, nil
}
