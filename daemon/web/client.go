package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/daemon/report"
)

// ErrNotRunning means that no daemon listens.
var ErrNotRunning = errors.New("the daemon does not run")

// ErrGoesOn means that whoever waited for a run of the daemon was stopped, which
// does not stop the run.
var ErrGoesOn = errors.New("the daemon's run goes on")

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Client asks a daemon.
type Client struct {
	addr string
	http *http.Client
	// every is how often a run is looked at until it ends.
	every time.Duration
}

// Dial makes a client of the daemon that listens at addr, without asking
// anything yet.
func Dial(addr string) (*Client, error) {
	network, address, err := split(addr)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		MaxIdleConns:           1,
		IdleConnTimeout:        10 * time.Second,
		ResponseHeaderTimeout:  20 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &Client{addr: addr, http: &http.Client{Transport: t, Timeout: 30 * time.Second}, every: 500 * time.Millisecond}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Report asks for everything.
func (c *Client) Report(ctx context.Context) (*report.Report, error) {
	var r report.Report
	return &r, c.do(ctx, http.MethodGet, "/api/v1/report", &r)
}

// Snapshot makes the daemon capture an environment and waits until it has. Unless
// it is nil, progress is called when the daemon has begun, with nothing done, and
// then with how far it is. The run may have failed. The error is ErrUnknown,
// ErrRunning, ErrNotRunning, or an error that the daemon refused.
func (c *Client) Snapshot(ctx context.Context, env string, progress func(report.Progress)) (*report.Run, error) {
	var s started
	path := "/api/v1/environments/" + url.PathEscape(env)
	if err := c.do(ctx, http.MethodPost, path+"/snapshot", &s); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(report.Progress) {}
	}
	progress(report.Progress{})
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		var e report.Environment
		if err := c.do(ctx, http.MethodGet, path, &e); err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%s: %w: %w", env, ErrGoesOn, ctx.Err())
			}
			return nil, fmt.Errorf("%s was begun, and what becomes of it is not known: %w", env, err)
		}
		if e.Last != nil && !e.Last.Started.Before(s.Asked) {
			return e.Last, nil
		}
		if e.Running != nil {
			progress(*e.Running)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w: %w", env, ErrGoesOn, ctx.Err())
		case <-tick.C:
		}
	}
}

// Problems asks for those of the last run of an environment.
func (c *Client) Problems(ctx context.Context, env string) (*report.Problems, error) {
	var p report.Problems
	return &p, c.do(ctx, http.MethodGet, "/api/v1/environments/"+url.PathEscape(env)+"/problems", &p)
}

func (c *Client) do(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: nothing answers at %s; start it: systemctl start knowngood", ErrNotRunning, c.addr)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("the daemon at %s may not be asked by this user: be root, or of the socket's group: %w", c.addr, unix.EACCES)
	case err != nil:
		return fmt.Errorf("ask the daemon at %s: %w", c.addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask the daemon at %s: %w", c.addr, err)
	}
	if resp.StatusCode >= 300 {
		return c.refused(method, resp, body)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("what answers at %s is no knowngood daemon, or of another version: %w", c.addr, err)
	}
	return nil
}

// refused turns an answer that is an error into ours.
func (c *Client) refused(method string, resp *http.Response, body []byte) error {
	var p problem
	if json.Unmarshal(body, &p) != nil || p.Error == "" {
		return fmt.Errorf("what answers at %s is no knowngood daemon: %s", c.addr, resp.Status)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound && p.Error == ErrUnknown.Error():
		return ErrUnknown
	case resp.StatusCode == http.StatusConflict && method == http.MethodPost:
		return ErrRunning
	}
	return fmt.Errorf("the daemon at %s: %s", c.addr, p.Error)
}
