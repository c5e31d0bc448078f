package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"knowngood/storage"
)

// transport counts what goes over the wire and ends requests that stand
// still: no byte sent or received for the idle time, whichever of the two is
// going on.
type transport struct {
	base   *http.Transport
	idle   time.Duration
	counts *counts
}

func newTransport(c Config) (*transport, error) {
	roots, err := trusted(c.CAFile)
	if err != nil {
		return nil, err
	}
	return &transport{
		base: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     60 * time.Second,
			DisableCompression:  true,
			WriteBufferSize:     64 << 10,
			ReadBufferSize:      64 << 10,
		},
		idle:   c.IdleTimeout,
		counts: &counts{},
	}, nil
}

// trusted returns the system's certificates with those of a file, which
// AWS_CA_BUNDLE may name too; nil for the system's only.
func trusted(file string) (*x509.CertPool, error) {
	from := "ca"
	if file == "" {
		from = "AWS_CA_BUNDLE"
		file = os.Getenv(from)
	}
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("CA certificates, from %s: %w", from, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("CA certificates of the system: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA certificates, from %s: %s has no certificate in PEM form", from, file)
	}
	return pool, nil
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.counts.request(req)
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{ctx: ctx, cancel: cancel, idle: t.idle}
	w.timer = time.AfterFunc(t.idle, func() { cancel(storage.ErrStalled) })
	req = req.WithContext(ctx)
	if req.Body != nil {
		req.Body = &upload{req.Body, w, &t.counts.sent}
	}
	resp, err := t.base.RoundTrip(req)
	w.timer.Stop()
	if err != nil {
		err = w.explain(err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &download{resp.Body, w, &t.counts.fetched}
	if err := redirect(resp); err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		resp.Body = document(req, resp.Body)
	}
	return resp, nil
}

// watch ends one request when its timer fires.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
}

// explain replaces the error of a request that the timer ended.
func (w *watch) explain(err error) error {
	if err != nil && err != io.EOF && context.Cause(w.ctx) == storage.ErrStalled {
		return storage.ErrStalled
	}
	return err
}

// upload moves the deadline with each piece that is asked for, which is when
// the piece before has been sent. A body that takes its time is no stalled
// server.
type upload struct {
	io.ReadCloser
	w    *watch
	sent *atomic.Int64
}

func (u *upload) Read(p []byte) (int, error) {
	u.w.timer.Stop()
	n, err := u.ReadCloser.Read(p)
	if u.w.ctx.Err() == nil {
		u.w.timer.Reset(u.w.idle)
	}
	u.sent.Add(int64(n))
	return n, err
}

// download has a deadline only while somebody waits for bytes: a slow reader
// is no stalled server.
type download struct {
	io.ReadCloser
	w       *watch
	fetched *atomic.Int64
}

func (d *download) Read(p []byte) (int, error) {
	d.w.timer.Reset(d.w.idle)
	n, err := d.ReadCloser.Read(p)
	d.w.timer.Stop()
	d.fetched.Add(int64(n))
	return n, d.w.explain(err)
}

func (d *download) Close() error {
	d.w.timer.Stop()
	d.w.cancel(nil)
	return d.ReadCloser.Close()
}

// counts are those of storage.Stats.
type counts struct {
	puts, gets, lists, deletes, others, retries atomic.Int64
	sent, fetched                               atomic.Int64
}

func (c *counts) request(req *http.Request) {
	query := req.URL.Query()
	switch {
	case listed(req) != "":
		c.lists.Add(1)
	case query.Has("retention"), query.Has("object-lock"), query.Has("location"):
		c.others.Add(1)
	case req.Method == http.MethodGet:
		c.gets.Add(1)
	case req.Method == http.MethodPut:
		c.puts.Add(1)
	case req.Method == http.MethodDelete:
		c.deletes.Add(1)
	default:
		c.others.Add(1)
	}
}

func (c *counts) stats() storage.Stats {
	return storage.Stats{
		Puts: c.puts.Load(), Gets: c.gets.Load(), Lists: c.lists.Load(), Deletes: c.deletes.Load(), Others: c.others.Load(),
		Retries: c.retries.Load(), Sent: c.sent.Load(), Fetched: c.fetched.Load(),
	}
}
